"""Tell what was hidden from what is seen, position by position.

MAE: He et al. 2022, "Masked autoencoders are scalable vision learners". With masks of kind "tube" it is VideoMAE (Tong
et al. 2022). With masks of kind "sensor" and the scaled cosine error it is GraphMAE (Hou et al. 2022), whose nodes are
sensors here: on encoder ``sensors``, one that is hidden sends no messages.
"""

from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from shared.encoders import Encoded, View
from shared.errors import UserError
from shared.layers import ATTENTION_HEADS, TokenDecoder
from shared.losses import masked_mse, scaled_cosine_error
from shared.masks import Masks, MaskSettings, of_samples, visible_positions
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings

EPSILON = 1e-2
"""Added to a patch's variance before its root. MAE takes 1e-6, which would blow the noise of somebody who sits up to
the size of a step (inferred)."""


class MaeSettings(TaskSettings):
    """How windows are masked, and the decoder.

    Args:
        mask: What is hidden.
        visible_only: Hidden positions are left out (MAE), or stay, without what they show.
        normalise: Whether the mean of each patch is taken away, and its spread made 1, before it has to be told.
        cosine: The power of the scaled cosine error (GraphMAE), with which what is told well counts less; None: the
            squared error.
        hidden: Width of the decoder.
        depth: Its layers of attention.
    """

    mask: MaskSettings
    visible_only: bool
    normalise: bool
    cosine: float | None = Field(ge=1)
    hidden: int = Field(ge=ATTENTION_HEADS, multiple_of=ATTENTION_HEADS)
    depth: PositiveInt


class MAE(Task):
    """Predict the standardised samples that were hidden, from the tokens of the positions that are seen.

    Where hidden positions are not left out, the decoder does not get their tokens either, which is what GraphMAE calls
    re-masking: the encoder need not decode.
    """

    Settings: ClassVar[type[TaskSettings]] = MaeSettings
    pooled: ClassVar[bool] = False

    def __init__(self, settings: MaeSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        if settings.visible_only and not context.takes_tokens:
            raise UserError(
                f"task 'mae' leaves positions out, which encoder {context.encoder!r} cannot: set "
                "encoder.name=transformer, or tasks.mae.visible_only=false"
            )
        if settings.visible_only and not settings.mask.whole_positions:
            raise UserError(
                f"task 'mae' leaves positions out, and masks of kind {settings.mask.kind!r} hide some of the channels "
                "of a position only: set tasks.mae.visible_only=false, or tasks.mae.mask.kind to tube, span or block"
            )
        self.masker = Masks(settings.mask, context.channels, context.layout.grid)
        self.settings, self.context = settings, context
        self.masks = not settings.visible_only
        self.layout = context.layout
        sizes = settings.hidden, settings.depth, self.layout.tokens, self.layout.values
        self.decoder = TokenDecoder(context.width, *sizes)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Tensor]:
        """The windows, masked, or with positions left out."""
        mask = self.masker.draw(len(batch.x), generator)
        if self.settings.visible_only:
            return [View(batch.x, keep=visible_positions(mask))], mask
        return [View(batch.x, mask=mask)], mask

    def loss(self, encoded: list[Encoded], memory: Tensor, batch: Batch) -> Tensor:
        """Mean squared error over the hidden samples (He et al. 2022, section 3), or the scaled cosine error."""
        tokens = encoded[0].tokens
        if self.settings.visible_only:
            told = self.decoder(tokens, keep=visible_positions(memory))
        else:
            told = self.decoder(tokens, hidden=self.layout.hidden(memory))
        target = self.layout.patches(batch.standardised)
        if self.settings.normalise:
            variance, mean = torch.var_mean(target, dim=2, correction=0, keepdim=True)
            target = (target - mean) / (variance + EPSILON).sqrt()
        hidden = self.layout.patches(of_samples(memory, self.layout.stride, self.context.channels.spec.size))
        if self.settings.cosine is not None:
            return scaled_cosine_error(told, target, hidden, self.settings.cosine)
        return masked_mse(told.flatten(1).unsqueeze(1), target.flatten(1).unsqueeze(1), hidden.flatten(1))
