"""Predict, among the keys of the batch, which one the teacher made of the other view.

MoCo v3: Chen, Xie and He 2021, "An empirical study of training self-supervised vision transformers".
"""

from typing import Any, ClassVar

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from shared.encoders import Encoded
from shared.losses import cosine_info_nce
from shared.tasks.base import Batch, TaskContext, TaskSettings, mlp
from shared.tasks.two_views import TwoViews, standardised_projector
from shared.teacher import MovingAverage


class MoCoV3Settings(TaskSettings):
    """The loss and the two heads.

    Args:
        temperature: Of InfoNCE.
        hidden: Width of the hidden layers of the projector and the predictor.
        projection: Width P of the projection.
    """

    temperature: PositiveFloat
    hidden: PositiveInt
    projection: PositiveInt


class MoCoV3(TwoViews):
    """Contrast predictions from the student with the teacher's keys of the same batch; there is no queue.

    The first layer is trained too. The paper freezes it in very large transformers.
    """

    Settings: ClassVar[type[TaskSettings]] = MoCoV3Settings
    teacher: ClassVar[bool] = True
    advice: ClassVar[str] = "Lower tasks.moco_v3.temperature, or set a larger batch size."

    def __init__(self, settings: MoCoV3Settings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.temperature = settings.temperature
        self.head = standardised_projector(context.dim, settings.hidden, settings.projection)
        self.slow_head = MovingAverage(self.head)
        self.predictor = mlp(settings.projection, settings.hidden, settings.projection)

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Algorithm 1: InfoNCE in both directions, times 2 tau, so that temperatures compare at one learning rate."""
        student, teacher = encoded
        z = self.head(student.pooled)
        self.projections = z[: len(batch.x)].detach()
        first, second = self.predictor(z).chunk(2)
        first_key, second_key = self.slow_head(teacher.pooled).chunk(2)
        both = cosine_info_nce(first, second_key, self.temperature) + cosine_info_nce(
            second, first_key, self.temperature
        )
        return 2 * self.temperature * both
