"""Predict what a teacher makes of the other view.

BYOL: Grill et al. 2020, "Bootstrap your own latent: a new approach to self-supervised learning".
"""

from typing import Any, ClassVar

from pydantic import PositiveInt
from torch import Tensor

from shared.encoders import Encoded
from shared.losses import cosine_distance
from shared.tasks.base import Batch, TaskContext, TaskSettings, mlp
from shared.tasks.two_views import TwoViews, partners
from shared.teacher import MovingAverage


class BYOLSettings(TaskSettings):
    """The two heads.

    Args:
        hidden: Width of the hidden layers of the projector and the predictor.
        projection: Width P of the projection.
    """

    hidden: PositiveInt
    projection: PositiveInt


class BYOL(TwoViews):
    """Predict each view's projection by the teacher from the student's projection of the other view.

    Both views are made alike; the paper blurs and solarises them differently often, which sensors have no match for.
    """

    Settings: ClassVar[type[TaskSettings]] = BYOLSettings
    teacher: ClassVar[bool] = True
    advice: ClassVar[str] = "Raise teacher.momentum towards 1, or lower train.learning_rate."

    def __init__(self, settings: BYOLSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.head = mlp(context.dim, settings.hidden, settings.projection)
        self.slow_head = MovingAverage(self.head)
        self.predictor = mlp(settings.projection, settings.hidden, settings.projection)

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Equation 2, 2 - 2 cos, as a mean over both directions (the paper adds them up)."""
        student, teacher = encoded
        z = self.head(student.pooled)
        self.projections = z[: len(batch.x)].detach()
        return 2 * cosine_distance(self.predictor(z), partners(self.slow_head(teacher.pooled)))
