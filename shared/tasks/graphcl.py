"""Two views of one window belong together, each without some of its sensors.

GraphCL: You et al. 2020, "Graph contrastive learning with augmentations", with nodes dropped. Nodes are sensors here.
"""

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from shared.augmentations import sensors_of
from shared.encoders import Encoded, View
from shared.losses import nt_xent
from shared.masks import Masks, MaskSettings
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, mlp


class GraphCLSettings(TaskSettings):
    """How views differ, and the projection head.

    Args:
        ratio: Share of the sensors that each view loses; at least one, and one stays.
        temperature: Divisor of the cosine similarities.
        hidden: Units of the projection head.
        projection: Width P of the projections.
    """

    ratio: float = Field(gt=0, lt=1)
    temperature: PositiveFloat
    hidden: PositiveInt
    projection: PositiveInt


class GraphCL(Task):
    """NT-Xent between the projections of two views (You et al. 2020, equation 3).

    Views are also made as the block ``views`` of the configuration says, so that somebody with a single sensor, of whom
    nothing can be dropped, has two that differ. A dropped sensor is not there for encoder ``sensors``; others see its
    training mean.
    """

    Settings: ClassVar[type[TaskSettings]] = GraphCLSettings
    of_time: ClassVar[bool] = True
    compares_windows: ClassVar[bool] = True
    advice: ClassVar[str] = "Larger batches (train.batch_size) or a higher tasks.graphcl.temperature may help."

    def __init__(self, settings: GraphCLSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.temperature = settings.temperature
        self.channels, self.transform = context.channels, context.transform
        self.masker: Masks | None = None
        if max(sensors_of(context.channels, context.channel_count)) > 0:
            drop = MaskSettings(kind="sensor", ratio=settings.ratio, span=1)
            self.masker = Masks(drop, context.channels, context.layout.grid)
        self.head = mlp(context.dim, settings.hidden, settings.projection)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], None]:
        """Both views of N windows as one of 2N, each with sensors of its own dropped."""
        x = self.transform(torch.cat([batch.x, batch.x]), generator, self.channels)
        return [View(x, mask=None if self.masker is None else self.masker.draw(len(x), generator))], None

    def loss(self, encoded: list[Encoded], memory: None, batch: Batch) -> Tensor:
        """NT-Xent of the projections (N, P) of both views."""
        first, second = self.head(encoded[0].pooled).chunk(2)
        self.projections = first.detach()
        return nt_xent(first, second, self.temperature)
