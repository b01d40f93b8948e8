"""Which of several restorers a picture is given to: the first that was trained for its task, which is said, or which a detector finds.

A model of mixed degradations is one for the task `mixed` and no other, unless it was trained for others too: it never saw one of its parts alone.
"""

from collections.abc import Sequence

from downstream.folders import NothingToDo
from downstream.restore.detector import CLEAN, Detector, detect
from downstream.restore.model_file import Restorer
from downstream.restore.restoring import Pixels


class Choice:
    def __init__(self, models: Sequence[Restorer], *, task: str = "auto", detector: Detector | None = None) -> None:
        """Raises ValueError for a task that no model was trained for, and for several models between which nothing chooses."""
        self.models, self.task, self.detector = models, task, detector
        if task == "auto" and detector is None and len(models) > 1:
            raise ValueError(f"there are several models and nothing that chooses: say --task ({', '.join(self._known())}), or give one --model, or --detector with its --encoder")
        if task != "auto":
            self._trained_for(task, said=f"--task {task}")

    def __call__(self, x: Pixels) -> tuple[Restorer, str]:
        """The model for this picture, and what it is to undo. Raises NothingToDo for a picture that is clean, ValueError for one that is spoilt in a way that no model was trained for."""
        if self.task != "auto":
            return self._trained_for(self.task, said=f"--task {self.task}"), self.task
        if self.detector is None:
            return self.models[0], ", ".join(self.models[0].tasks)
        found = detect(self.detector, x)
        said = f"looks like {found.task} ({found.probabilities[found.task]:.2f})"
        if found.task == CLEAN:
            raise NothingToDo(f"{said}, so there is nothing to undo; say --task, without --detector, to restore it nevertheless")
        return self._trained_for(found.task, said=said), found.task

    def _trained_for(self, task: str, *, said: str) -> Restorer:
        for trained in self.models:
            if task in trained.tasks:
                return trained
        raise ValueError(f"{said}, and no model here was trained for that, but for {', '.join(self._known())}")

    def _known(self) -> list[str]:
        return list(dict.fromkeys(task for trained in self.models for task in trained.tasks))
