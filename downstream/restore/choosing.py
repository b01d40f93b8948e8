"""Which of several restorers a picture is given to: the first that was trained for its task, which is said, or the one whose tasks a detector finds likeliest together.

A model of mixed degradations is one for the task `mixed` and no other, unless it was trained for others too: it never saw one of its parts alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from downstream.folders import NothingToDo
from downstream.restore.detector import CLEAN, Detector, detect
from downstream.restore.model_file import Restorer
from downstream.restore.restoring import Pixels

LEAST_SURE = 0.4  # of a probability: what is less likely is not restored unasked (docs/restoration-measured.md)


class Chosen(NamedTuple):
    model: Restorer
    task: str
    """What it is to undo."""
    probability: float | None = None
    """That the picture is one for this model; None where nothing was looked for."""


class Choice:
    def __init__(self, models: Sequence[Restorer], *, task: str = "auto", detector: Detector | None = None) -> None:
        """Raises ValueError for a task that no model was trained for, and for several models between which nothing chooses."""
        self.models, self.task, self.detector = models, task, detector
        if task == "auto" and detector is None and len(models) > 1:
            raise ValueError(f"there are several models and nothing that chooses: say --task ({', '.join(self._known())}), or give one --model, or --detector with its --encoder")
        if task != "auto" and self._model_for(task) is None:
            raise ValueError(f"--task {task}, and no model here was trained for that, but for {', '.join(self._known())}")

    def __call__(self, x: Pixels) -> Chosen:
        """The model for this picture. Raises NothingToDo for a picture that is clean, ValueError for one that is spoilt in a way that no model was trained for, and where the detector is not sure."""
        if self.task != "auto":
            return Chosen(self._model_for(self.task), self.task)
        if self.detector is None:
            return Chosen(self.models[0], ", ".join(self.models[0].tasks))
        found = detect(self.detector, x)
        of_kind = found.probabilities
        together = self._together(of_kind)
        likeliest = max(together, key=together.__getitem__)  # a task that stands for all of its model's
        said = f"looks like {likeliest} ({together[likeliest]:.2f})"
        if together[likeliest] < LEAST_SURE:
            others = sorted(of_kind, key=of_kind.__getitem__, reverse=True)[:3]
            raise ValueError(f"may be {', '.join(f'{kind} ({of_kind[kind]:.2f})' for kind in others)}, none of them likely enough to be undone unasked: say --task, one of {', '.join(self._known())}")
        if likeliest == CLEAN:
            raise NothingToDo(f"{said}, so it is left as it is; say --task to restore it nevertheless")
        model = self._model_for(likeliest)
        if model is None:
            raise ValueError(f"{said}, and no model here was trained for that, but for {', '.join(self._known())}: say --task if it is one of these")
        return Chosen(model, likeliest, together[likeliest])

    def _together(self, of_kind: Mapping[str, float]) -> dict[str, float]:
        """The probabilities of kinds for which there is one model added up, under the likeliest of them; the others as they are."""
        summed: dict[str, float] = {}
        leading: dict[int, str] = {}
        for kind in sorted(of_kind, key=of_kind.__getitem__, reverse=True):
            model = self._model_for(kind)
            leader = kind if model is None else leading.setdefault(id(model), kind)
            summed[leader] = summed.get(leader, 0.0) + of_kind[kind]
        return summed

    def _model_for(self, task: str) -> Restorer | None:
        return next((trained for trained in self.models if task in trained.tasks), None)

    def _known(self) -> list[str]:
        return list(dict.fromkeys(task for trained in self.models for task in trained.tasks))
