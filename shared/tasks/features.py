"""Agree with what an expert would compute from the window: time and frequency features as a teacher."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from shared.losses import vicreg
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, Views, mlp


class FeaturesSettings(TaskSettings):
    """How the embedding and the expert features are brought together.

    Args:
        mode: "regress" predicts the standardised features; "align" compares projections of both by VICReg
            (Bardes, Ponce and LeCun 2022).
        source: "computed" from the windows (``shared/features.py``), or "shipped" with the data set.
        hidden: Width of the hidden layers.
        projection: Width P of the two projections of "align".
    """

    mode: Literal["regress", "align"]
    source: Literal["computed", "shipped"]
    hidden: PositiveInt
    projection: PositiveInt


class Features(Task):
    """Predict the expert features (N, F) of a window from its embedding, or align with an embedding of them."""

    Settings: ClassVar[type[TaskSettings]] = FeaturesSettings
    needs_features: ClassVar[bool] = True

    def __init__(self, settings: FeaturesSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.mode = settings.mode
        if self.mode == "regress":
            self.head = mlp(context.dim, settings.hidden, context.features)
        else:
            self.head = mlp(context.dim, settings.hidden, settings.projection)
            self.teacher = mlp(context.features, settings.hidden, settings.projection)

    def views(self, x: Tensor, generator: torch.Generator) -> Views:
        """The windows as they are: the features are those of the untouched window."""
        return Views(x, None)

    def loss(self, embeddings: Tensor, targets: Any, batch: Batch) -> Tensor:
        """Smooth L1 to the standardised features (robust to their heavy tails), or VICReg of both projections."""
        if self.mode == "regress":
            return F.smooth_l1_loss(self.head(embeddings), batch.features)
        return vicreg(self.head(embeddings), self.teacher(batch.features))
