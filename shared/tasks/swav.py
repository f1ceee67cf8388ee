"""Predict the cluster of one view from the other, with clusters that are found in the batch.

SwAV: Caron et al. 2020, "Unsupervised learning of visual features by contrasting cluster assignments".
"""

import math
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from shared.encoders import Encoded
from shared.losses import swapped_prediction, unit_length
from shared.tasks.base import Batch, TaskContext, TaskSettings, mlp
from shared.tasks.two_views import TwoViews


class SwAVSettings(TaskSettings):
    """The clusters, the loss and the head.

    Args:
        prototypes: K, clusters.
        temperature: Of the predicted probabilities.
        epsilon: Softness of the codes that are predicted.
        hidden: Width of the hidden layer of the projection.
        projection: Width P of the projection.
    """

    prototypes: int = Field(ge=2)
    temperature: PositiveFloat
    epsilon: PositiveFloat
    hidden: PositiveInt
    projection: PositiveInt


class SwAV(TwoViews):
    """Predict each view's code, its shares of K prototypes, from the other view's similarities to them.

    There are two views of full length, without the paper's small crops. Codes are computed from the batch alone: with
    fewer windows than prototypes they are softer, because each prototype still gets its equal share.
    """

    Settings: ClassVar[type[TaskSettings]] = SwAVSettings
    advice: ClassVar[str] = "Lower tasks.swav.epsilon or tasks.swav.prototypes, or set a larger batch size."

    def __init__(self, settings: SwAVSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self.head = mlp(context.dim, settings.hidden, settings.projection)
        self.prototypes = nn.Parameter(torch.randn(settings.prototypes, settings.projection))
        self.chance = math.log(settings.prototypes)

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Swapped prediction (equation 2), as a mean over both directions."""
        z = unit_length(self.head(encoded[0].pooled))
        scores = z @ unit_length(self.prototypes).T
        self.projections = z[: len(batch.x)].detach()
        self.code_shares = (scores.detach() / self.settings.temperature).softmax(dim=1).mean(dim=0)
        first, second = scores.chunk(2)
        return swapped_prediction(first, second, self.settings.temperature, self.settings.epsilon)
