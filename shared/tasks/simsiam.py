"""Predict the projection of one view from the other, with nothing but a stopped gradient against collapse.

SimSiam: Chen and He 2021, "Exploring simple Siamese representation learning".
"""

from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import Tensor

from shared.encoders import Encoded
from shared.losses import cosine_distance
from shared.tasks.base import Batch, TaskContext, TaskSettings, mlp
from shared.tasks.two_views import TwoViews, partners, standardised_projector


class SimSiamSettings(TaskSettings):
    """The two heads.

    Args:
        hidden: Width of the hidden layer of the projector.
        projection: Width P of the projection.
        bottleneck: Width of the hidden layer of the predictor; a quarter of P in the paper.
    """

    hidden: PositiveInt
    projection: PositiveInt
    bottleneck: PositiveInt


class SimSiam(TwoViews):
    """Predict each view's projection from that of the other view.

    The paper keeps the predictor's learning rate constant; here it follows the schedule of all weights.
    """

    Settings: ClassVar[type[TaskSettings]] = SimSiamSettings
    advice: ClassVar[str] = (
        "Lower train.learning_rate, or set a larger batch size. Task byol has a teacher instead, and collapses less."
    )

    def __init__(self, settings: SimSiamSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.head = standardised_projector(context.dim, settings.hidden, settings.projection)
        self.predictor = mlp(settings.projection, settings.bottleneck, settings.projection)

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Equation 2, plus 1: weighting by uncertainty needs a loss that is not negative.

        No gradient flows through what is predicted.
        """
        z = self.head(encoded[0].pooled)
        self.projections = z[: len(batch.x)].detach()
        return cosine_distance(self.predictor(z), partners(z).detach())
