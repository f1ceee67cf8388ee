"""Tell from a part of the window what a teacher, which sees all of it, makes of other parts.

I-JEPA: Assran et al. 2023, "Self-supervised learning from images with a joint-embedding predictive architecture".
"""

import math
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Generator, Tensor

from shared.encoders import Encoded, View
from shared.errors import UserError
from shared.layers import ATTENTION_HEADS, TokenDecoder
from shared.masks import stretches
from shared.settings import Shares
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings

LEAST_CONTEXT = 2
"""Positions of the context, at least."""


class IJEPASettings(TaskSettings):
    """What the student sees, what it tells, and the predictor.

    Args:
        context: Share of the positions in the stretch that the context is taken from.
        targets: Stretches to tell, each of which may overlap others.
        target_share: Share of the positions in each.
        hidden: Width of the predictor.
        depth: Its layers of attention.
    """

    context: Shares
    targets: PositiveInt
    target_share: Shares
    hidden: int = Field(ge=ATTENTION_HEADS, multiple_of=ATTENTION_HEADS)
    depth: PositiveInt


class Parts(NamedTuple):
    """Of N windows with L positions: context, int64 (N, V), the positions seen; targets, bool (N, L), those to tell."""

    context: Tensor
    targets: Tensor


class IJEPA(Task):
    """Smooth L1 between the predictor's tokens and the teacher's, position by position normalised, in the targets.

    Their predictor tells one target after the other; here it tells all at once, and a position that is in two targets
    counts once. Windows are not augmented.

    Raises:
        UserError: The encoder cannot leave positions out, or there are too few.
    """

    Settings: ClassVar[type[TaskSettings]] = IJEPASettings
    pooled: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    advice: ClassVar[str] = (
        "Raise teacher.momentum towards 1, set fewer tasks.ijepa.targets, or lower train.learning_rate."
    )

    def __init__(self, settings: IJEPASettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        if not context.takes_tokens:
            raise UserError(
                f"task 'ijepa' leaves positions out, which encoder {context.encoder!r} cannot: "
                "set encoder.name=transformer, or train task 'data2vec', which masks them"
            )
        needed = settings.targets + LEAST_CONTEXT
        if (span := _length(settings.context[0], context.positions)) < needed:
            raise UserError(
                f"task 'ijepa' takes {settings.targets} targets out of {span} of the window's {context.positions} "
                f"positions, and needs at least {needed}: set fewer tasks.ijepa.targets or a larger tasks.ijepa.context"
            )
        self.settings = settings
        self.grid = context.layout.grid
        self.predictor = TokenDecoder(context.width, settings.hidden, settings.depth, context.positions, context.width)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Parts]:
        """The windows, of which the student sees the context and the teacher all."""
        parts = draw_parts(self.settings, len(batch.x), self.grid, generator)
        return [View(batch.x, keep=parts.context), View(batch.x, teacher=True)], parts

    def loss(self, encoded: list[Encoded], memory: Parts, batch: Batch) -> Tensor:
        """Smooth L1, mean over the positions of the targets and the maps."""
        student, teacher = encoded
        targets = F.layer_norm(teacher.tokens, teacher.tokens.shape[2:])
        # Over time: targets that tell positions apart, but not windows, have collapsed too.
        self.projections = targets.mean(dim=1)
        told = self.predictor(student.tokens, memory.context)
        return F.smooth_l1_loss(told[memory.targets], targets[memory.targets])


def draw_parts(settings: IJEPASettings, n: int, grid: tuple[int, ...], generator: Generator) -> Parts:
    """Draw context and targets (Assran et al. 2023, section 3) for ``n`` windows.

    As in their code, sizes are drawn for all windows together and places for each. The context is what the targets
    leave of its stretch. It is cut to the size of the smallest, by chance; theirs is cut at the end. The more windows a
    batch has, the smaller the smallest is. Targets are no longer than leaves ``LEAST_CONTEXT`` positions. Stretches of
    time are regions of images, with rows and columns in ``grid``.
    """
    positions = math.prod(grid)
    span = _length(_draw(settings.context, generator), positions)
    length = _length(_draw(settings.target_share, generator), positions)
    length = min(length, (span - LEAST_CONTEXT) // settings.targets)
    targets = stretches((n, settings.targets), length, grid, generator).any(dim=1)
    visible = stretches((n, 1), span, grid, generator)[:, 0] & ~targets
    scores = torch.rand(n, positions, generator=generator, device=generator.device).masked_fill(~visible, 2.0)
    context = scores.argsort(dim=1)[:, : int(visible.sum(dim=1).min())]
    return Parts(context.sort(dim=1).values, targets)


def _draw(shares: Shares, generator: Generator) -> float:
    low, high = shares
    return low + (high - low) * float(torch.rand((), generator=generator, device=generator.device))


def _length(share: float, positions: int) -> int:
    return max(round(share * positions), 1)
