"""Two views of a window belong together.

SimCLR: Chen et al. 2020; for HAR: Tang et al. 2020, "Exploring contrastive learning in human activity recognition for
healthcare".
"""

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from shared.encoders import Encoded
from shared.errors import choose
from shared.losses import barlow_twins, nt_xent, vicreg
from shared.tasks.base import Batch, TaskContext, TaskSettings, mlp
from shared.tasks.two_views import TwoViews


class ContrastiveSettings(TaskSettings):
    """The loss and the projection head.

    Args:
        objective: "nt_xent", "vicreg" or "barlow_twins".
        temperature: Of NT-Xent.
        redundancy: Weight of Barlow Twins' off-diagonal term.
        hidden: Width of the hidden layer of the projection.
        projection: Width P of the projection.
    """

    objective: str
    temperature: PositiveFloat
    redundancy: PositiveFloat
    hidden: PositiveInt
    projection: PositiveInt


OBJECTIVES: dict[str, Callable[[ContrastiveSettings, Tensor, Tensor], Tensor]] = {
    "nt_xent": lambda s, a, b: nt_xent(a, b, s.temperature),
    "vicreg": lambda s, a, b: vicreg(a, b),
    "barlow_twins": lambda s, a, b: barlow_twins(a, b, s.redundancy),
}


class Contrastive(TwoViews):
    """Pull the projections of two views of one window together, by a loss chosen by name."""

    Settings: ClassVar[type[TaskSettings]] = ContrastiveSettings
    advice: ClassVar[str] = "Set a larger batch size, or lower train.learning_rate."

    def __init__(self, settings: ContrastiveSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self.objective = choose("contrastive objective", OBJECTIVES, settings.objective)
        self.head = mlp(context.dim, settings.hidden, settings.projection)

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """The chosen objective on the projections (N, P) of the two views."""
        first, second = self.head(encoded[0].pooled).chunk(2)
        self.projections = first.detach()
        return self.objective(self.settings, first, second)
