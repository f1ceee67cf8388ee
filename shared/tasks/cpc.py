"""What comes next?

Contrastive predictive coding: van den Oord, Li and Vinyals 2018, "Representation learning with contrastive predictive
coding"; for HAR: Haresamudram, Essa and Plötz 2021, "Contrastive predictive coding for human activity recognition".

They read the window with a causal recurrent network. Here the encoder may be any, and it sees the past and the future
of a window in two views, each with the rest hidden, so that it cannot look ahead. The context is what it pools over the
window with the future hidden, as a user of the encoder pools over a whole one. BatchNorm's statistics are the only
thing that both views share.
"""

from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from shared.encoders import Encoded, View
from shared.errors import UserError
from shared.layers import BatchNorm
from shared.losses import info_nce
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings


class CPCSettings(TaskSettings):
    """Args: steps: positions that are predicted, each by weights of its own (W_k in the papers)."""

    steps: PositiveInt


class CPC(Task):
    """Tell the next tokens of each window from those of the other windows in the batch, by what came before.

    Raises:
        UserError: Windows of no more positions than are predicted.
    """

    Settings: ClassVar[type[TaskSettings]] = CPCSettings
    of_time: ClassVar[bool] = True
    compares_windows: ClassVar[bool] = True
    masks = True
    advice: ClassVar[str] = "Larger batches (train.batch_size) or more steps (tasks.cpc.steps) may help."

    def __init__(self, settings: CPCSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        if settings.steps >= context.positions:
            raise UserError(
                f"tasks.cpc.steps: expected less than the {context.positions} positions that encoder "
                f"{context.encoder!r} makes of a window, found {settings.steps}"
            )
        self.steps, self.positions, self.width = settings.steps, context.positions, context.width
        self.layout = context.layout
        # What is pooled spreads differently, by up to two orders of magnitude; the predictions are linear in it.
        self.head = nn.Sequential(BatchNorm(context.dim), nn.Linear(context.dim, settings.steps * context.width))

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], int]:
        """Draw where the future begins, for all windows alike; the pasts (N), then the futures (N), in one view."""
        x = batch.x
        latest = self.positions - self.steps
        begin = 1 + int(torch.randint(latest, (1,), generator=generator, device=x.device))
        future = torch.arange(self.positions, device=x.device) >= begin
        hidden = torch.stack([future, ~future]).repeat_interleave(len(x), dim=0)
        return [View(torch.cat([x, x]), mask=hidden[:, None].expand(-1, x.shape[1], -1))], begin

    def loss(self, encoded: list[Encoded], memory: int, batch: Batch) -> Tensor:
        """Mean over the steps of InfoNCE (equation 4 of van den Oord et al.) with the other windows as negatives."""
        n = len(batch.x)
        predicted = self.head(encoded[0].pooled[:n]).view(n, self.steps, self.width).transpose(0, 1)
        tokens = self.layout.over_time(encoded[0].tokens[n:])
        targets = tokens[:, memory : memory + self.steps].transpose(0, 1)
        self.projections = targets[0].detach()
        # Products of long vectors are large: with this factor the loss begins near ln N, as of one who knows nothing.
        return info_nce(predicted * self.width**-0.5, targets)
