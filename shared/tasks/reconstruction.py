"""Fill in what was masked.

After Haresamudram et al. 2020, "Masked reconstruction based self-supervision for human activity recognition".
"""

from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from shared.augmentations import mask_patches
from shared.losses import masked_mse
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, Views, mlp


class ReconstructionSettings(TaskSettings):
    """Args: patch: samples a masked patch; ratio: share of patches masked; hidden: width of the decoder."""

    patch: PositiveInt
    ratio: float = Field(gt=0, lt=1)
    hidden: PositiveInt


class Reconstruction(Task):
    """Predict the whole standardised window (C, T) from the embedding of one with masked time patches."""

    Settings: ClassVar[type[TaskSettings]] = ReconstructionSettings

    def __init__(self, settings: ReconstructionSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.patch, self.ratio = settings.patch, settings.ratio
        self.shape = (context.channel_count, context.samples)
        self.decoder = mlp(context.dim, settings.hidden, context.channel_count * context.samples)

    def views(self, x: Tensor, generator: torch.Generator) -> Views:
        """Replace masked samples by the mean of the samples that stay, channel by channel."""
        mask = mask_patches((len(x), x.shape[2]), self.patch, self.ratio, generator)
        kept = (~mask).unsqueeze(1).to(x.dtype)
        mean = (x * kept).sum(dim=2, keepdim=True) / kept.sum(dim=2, keepdim=True)
        return Views(torch.where(mask.unsqueeze(1), mean, x), mask)

    def loss(self, embeddings: Tensor, targets: Any, batch: Batch) -> Tensor:
        """Mean squared error on the masked samples of all channels, in standard deviations squared."""
        return masked_mse(self.decoder(embeddings).view(-1, *self.shape), batch.standardised, targets)
