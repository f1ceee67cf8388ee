"""Fill in what was masked.

After Haresamudram et al. 2020, "Masked reconstruction based self-supervision for human activity recognition".
"""

import math
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from shared.encoders import Encoded, View
from shared.losses import masked_mse
from shared.masks import fill, mask_patches
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, mlp


class ReconstructionSettings(TaskSettings):
    """Args: patch: samples a masked patch (pixels a side); ratio: share of patches masked; hidden: decoder's width."""

    patch: PositiveInt
    ratio: float = Field(gt=0, lt=1)
    hidden: PositiveInt


class Reconstruction(Task):
    """Predict the whole standardised window (C, T) from the embedding of one with masked time patches.

    Of an image a region of patches is masked, as in context encoders (Pathak et al. 2016).
    """

    Settings: ClassVar[type[TaskSettings]] = ReconstructionSettings

    def __init__(self, settings: ReconstructionSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.patch, self.ratio = settings.patch, settings.ratio
        self.shape = context.channels.spec.shape
        self.decoder = mlp(context.dim, settings.hidden, math.prod(self.shape))

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Tensor]:
        """Replace masked samples by the mean of the samples that stay, channel by channel."""
        mask = mask_patches((len(batch.x), *self.shape[1:]), self.patch, self.ratio, generator)
        return [View(fill(batch.x, mask.unsqueeze(1), batch.x.new_zeros(self.shape[0], *[1] * (mask.dim() - 1))))], mask

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Mean squared error on the masked samples of all channels, in standard deviations squared."""
        told = self.decoder(encoded[0].pooled).view(len(memory), self.shape[0], -1)
        return masked_mse(told, batch.standardised.flatten(2), memory.flatten(1))
