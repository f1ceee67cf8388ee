"""Two views of a window belong together.

SimCLR: Chen et al. 2020; for HAR: Tang et al. 2020, "Exploring contrastive learning in human activity recognition for
healthcare".
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from shared.encoders import Encoded, View
from shared.errors import choose
from shared.losses import barlow_twins, nt_xent, vicreg
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, mlp


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


class Contrastive(Task):
    """Pull the projections of two views of one window together, by a loss chosen by name."""

    Settings: ClassVar[type[TaskSettings]] = ContrastiveSettings
    compares_windows: ClassVar[bool] = True

    def __init__(self, settings: ContrastiveSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self.objective = choose("contrastive objective", OBJECTIVES, settings.objective)
        self.channels = context.channels
        self.transform = context.transform
        self.head = mlp(context.dim, settings.hidden, settings.projection)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Any]:
        """Both views, one after the other (2N, C, T): the transformations draw afresh for each row."""
        return [View(self.transform(torch.cat([batch.x, batch.x]), generator, self.channels))], None

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """The chosen objective on the projections (N, P) of the two views."""
        first, second = self.head(encoded[0].pooled).chunk(2)
        self.projections = first.detach()
        return self.objective(self.settings, first, second)
