"""In which order do the pieces of the window stand?

Jigsaw puzzles: Noroozi and Favaro 2016, "Unsupervised learning of visual representations by solving jigsaw puzzles". In
time: Misra, Zitnick and Hebert 2016, "Shuffle and learn"; on wearables: Yuan et al. 2024, "Self-supervised learning for
human activity recognition using 700,000 person-days of wearable data", whose task tells shuffled windows from others.
Here all orders are told apart, and the encoder sees the pieces side by side, not one by one.

Where pieces touch, the signal jumps unless they are neighbours: an encoder could tell the order by the jumps alone, and
does so even on filtered noise. As between the tiles of a jigsaw puzzle of Noroozi and Favaro there is a gap.
"""

from itertools import permutations
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from shared.errors import UserError
from shared.masks import fill
from shared.tasks.base import TaskContext, TaskSettings
from shared.tasks.classification import Classification, ClassificationSettings


class OrderSettings(ClassificationSettings):
    """The puzzle.

    Args:
        segments: Pieces of a window; S of them can stand in S! orders.
        gap: Samples at the end of each piece that are hidden.
    """

    segments: int = Field(ge=2, le=5)
    gap: int = Field(ge=0)


class Order(Classification):
    """Classify in which of S! orders the S equal pieces of each window stand.

    All windows are cut, and hidden, at the same places, whatever the order. What is left over of a window, where S does
    not divide its samples, is hidden too: beside the last piece it would tell which one that is.

    Raises:
        UserError: Gaps as long as the pieces.
    """

    Settings: ClassVar[type[TaskSettings]] = OrderSettings
    of_time: ClassVar[bool] = True
    advice: ClassVar[str] = "Fewer pieces (tasks.order.segments) or shorter gaps (tasks.order.gap) are easier."
    orders: Tensor

    def __init__(self, settings: OrderSettings, context: TaskContext) -> None:
        orders = torch.tensor(list(permutations(range(settings.segments))))
        super().__init__(settings, context, len(orders))
        self.length = context.samples // settings.segments
        self.shown = self.length - settings.gap
        if self.shown < 1:
            raise UserError(
                f"tasks.order.gap: expected less than the {self.length} samples of a piece (tasks.order.segments is "
                f"{settings.segments}), found {settings.gap}"
            )
        self.register_buffer("orders", orders, persistent=False)

    def change(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Put piece ``orders[label][i]`` in the i-th place; what is hidden is the mean of what is not. Not random."""
        segments = self.orders.shape[1]
        time = torch.arange(x.shape[2], device=x.device)
        place, within = (time // self.length).clamp_max(segments - 1), time % self.length
        source = self.orders[labels][:, place] * self.length + within
        hidden = (within >= self.shown) | (time >= segments * self.length)
        shuffled = x.gather(2, source[:, None].expand(x.shape))
        return fill(shuffled, hidden.expand(len(x), 1, -1), x.new_zeros(x.shape[1], 1))
