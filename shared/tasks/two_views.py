"""What tasks share that compare two views of each window."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shared.encoders import View
from shared.layers import BatchNorm, hidden_layer
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings


class TwoViews(Task):
    """A task that compares two views of each window, made as the block ``views`` of the configuration says.

    The encoder sees 2N rows in one pass: the first views of all windows, then the second ones. Where the task has a
    teacher, it sees the same 2N rows.
    """

    compares_windows: ClassVar[bool] = True  # where the loss does not, the batch normalisation of the heads does

    def __init__(self, settings: TaskSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.channels = context.channels
        self.transform = context.transform

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Any]:
        """Both views (2N, C, T), for the student and, where there is one, for the teacher."""
        x = self.transform(torch.cat([batch.x, batch.x]), generator, self.channels)
        return [View(x), View(x, teacher=True)] if self.teacher else [View(x)], None


def partners(z: Tensor) -> Tensor:
    """Return the rows (2N, P) so that each window's other view stands at its place."""
    return z.roll(len(z) // 2, dims=0)


def standardised_projector(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return a projector whose outputs have mean 0 and variance 1 over the batch: no two directions can be forgotten.

    As in SimSiam (Chen and He 2021, section 3) and in the authors' code of MoCo v3, the last normalisation has no
    weights that could undo it.
    """
    last = [nn.Linear(hidden, outputs, bias=False), BatchNorm(outputs, affine=False)]
    return nn.Sequential(*hidden_layer(inputs, hidden), *last)
