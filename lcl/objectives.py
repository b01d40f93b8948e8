"""Pretraining objectives that one flag switches, for comparison on equal data: which layout they read and which losses they add up.

    L = w_gen * (sum of next-token cross-entropies) / (text targets of the global batch)
      + w_con * (InfoNCE over all positives of the global batch)
      + w_reg * (sum of squared errors of predicted latents) / (image slots of the global batch)
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from lcl.core.config import config
from lcl.layout import Layout

Weight = Annotated[float, Field(ge=0)]
Name = Literal["lcl", "contrastive", "generation", "regression", "clip", "coca"]


@dataclass(frozen=True)
class Objective:
    """Default weights (generation, contrastive, regression) and the layout of documents."""

    layout: Layout
    generation: float
    contrastive: float
    regression: float = 0.0


OBJECTIVES: dict[str, Objective] = {
    "lcl": Objective("document", 1.0, 0.1),           # Yang et al. 2024; the published scripts' weights
    "contrastive": Objective("document", 0.0, 1.0),   # its contrastive part alone
    "generation": Objective("document", 1.0, 0.0),    # text loss alone, as Flamingo (Alayrac et al. 2022)
    "regression": Objective("document", 1.0, 0.0, 1.0),  # text and next latent, as Emu (Sun et al. 2023)
    "clip": Objective("pairs", 0.0, 1.0),             # Radford et al. 2021, the text read by a causal model as theirs
    "coca": Objective("pairs_read", 2.0, 1.0),        # Yu et al. 2022: caption weight 2, contrastive weight 1
}


@config
class LossConfig:
    objective: Name = "lcl"
    """lcl: contrast of context and image, and text. contrastive, generation: one part alone. regression: text and next latent.
    clip, coca: each image with its own text, taken from the documents."""
    generation_weight: Weight | None = None
    """Weight of the next-token loss; by default the objective's (lcl: 1)."""
    contrastive_weight: Weight | None = None
    """Weight of the contrastive loss; by default the objective's (lcl: 0.1)."""
    regression_weight: Weight | None = None
    """Weight of the latent regression; by default the objective's (regression: 1)."""
    mask_twins: bool = True
    """Images with the same bytes, and images with the same context, are not each other's negatives; false as published."""

    @property
    def weights(self) -> tuple[float, float, float]:
        """Generation, contrastive and regression weight in force."""
        chosen = OBJECTIVES[self.objective]
        given = (self.generation_weight, self.contrastive_weight, self.regression_weight)
        return tuple(default if value is None else value for value, default in zip(given, (chosen.generation, chosen.contrastive, chosen.regression), strict=True))

    @property
    def layout(self) -> Layout:
        return OBJECTIVES[self.objective].layout

    @property
    def regresses(self) -> bool:
        return self.weights[2] > 0

    def check(self) -> None:
        """Raises ValueError if nothing is left to train on."""
        if self.layout == "pairs" and (self.weights[0] or self.weights[2]):
            raise ValueError("--loss.objective clip reads no image and predicts no text: leave out --loss.generation-weight and --loss.regression-weight, or take coca")
        if not any(self.weights):
            raise ValueError("all loss weights are 0; raise --loss.generation-weight or --loss.contrastive-weight")
