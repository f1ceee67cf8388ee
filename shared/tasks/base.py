"""What a pretext task is: the views that it wants encoded, a private head, and a loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from shared.augmentations import Channels, Transform
from shared.columns import Column
from shared.data.windows import Meta, Windows
from shared.encoders import Encoded, Encoder, View
from shared.layers import hidden_layer
from shared.masks import Layout
from shared.settings import Settings


class TaskSettings(Settings):
    """The knobs that every task has: whether it is trained, and its weight where weights are fixed."""

    enabled: bool
    weight: PositiveFloat

    @property
    def remake_every(self) -> int | None:
        """Epochs, counted over the whole run, after which the task's extra is made again; None: never."""
        return None


@dataclass(frozen=True)
class TaskContext:
    """What a task may know when it builds its head.

    Args:
        channels: The C channels.
        transform: Makes a view of a window, where a task compares views (the block ``views`` of the configuration).
        dim: D, of what is pooled.
        width: H, of a token.
        layout: What stands under each token.
        takes_tokens: Whether the encoder can leave positions out; the encoder's name stands in ``encoder``.
        encoder: The encoder's name.
        extra: F, the width of the task's extra; 0 where it has none, or one without a width.
    """

    channels: Channels
    transform: Transform
    dim: int
    width: int
    layout: Layout
    takes_tokens: bool
    encoder: str
    extra: int

    @property
    def channel_count(self) -> int:
        """C."""
        return len(self.channels.std)

    @property
    def positions(self) -> int:
        """L."""
        return self.layout.times

    @property
    def samples(self) -> int:
        """T, where there is a time axis."""
        return self.channels.spec.time.samples


class Batch(NamedTuple):
    """N windows.

    Args:
        x: float32 (N, C, T) in physical units, or (N, C, H, W) of images.
        standardised: The same with training mean 0 and standard deviation 1 in each channel.
        extras: What was computed of these windows before, by the name of the task that asked for it; N rows each.
        part: Its number, where a step has cut a batch into parts.
    """

    x: Tensor
    standardised: Tensor
    extras: Mapping[str, Tensor]
    part: int = 0

    def split(self, parts: int) -> list["Batch"]:
        """Cut into nearly equal parts."""
        if parts == 1:
            return [self]
        columns = [column.tensor_split(parts) for column in (self.x, self.standardised, *self.extras.values())]
        return [
            Batch(x, standardised, dict(zip(self.extras, extras, strict=True)), part)
            for part, (x, standardised, *extras) in enumerate(zip(*columns, strict=True))
        ]


class Draw(NamedTuple):
    """A batch, and the views that each of K tasks wants of it, with what its loss must remember."""

    batch: Batch
    views: tuple[list[View], ...]
    memories: tuple[Any, ...]


class UntilStep:
    """What a loss has seen of each part of a batch, until the step is taken.

    A step may call a loss more than once for a part, at other weights later: the first time counts.
    """

    def __init__(self) -> None:
        self._of_parts: dict[int, Tensor] = {}

    def keep(self, batch: Batch, value: Tensor) -> None:
        """Keep a value (M, ...) of a part of the batch."""
        self._of_parts.setdefault(batch.part, value)

    def take(self) -> Tensor | None:
        """Return the values of all parts, one after the other, and forget them; None where there are none."""
        parts = [value for _, value in sorted(self._of_parts.items())]
        self._of_parts.clear()
        return torch.cat(parts) if parts else None


class Extra(Protocol):
    """Computes what a task needs of all windows beside the windows."""

    def __call__(self, windows: Windows, encoder: Encoder, settings: Any, before: Column | None, /) -> Column:
        """Compute it.

        Args:
            windows: N windows.
            encoder: As it is now, in evaluation mode. Before training it is as it was initialised, with channel
                statistics of 0 and 1: it tells how windows are cut into positions.
            settings: Of the task.
            before: What was computed before, and shall be replaced; None the first time.

        Returns:
            N rows.
        """
        ...


class Task(nn.Module, ABC):
    """A pretext task. A new one is a file in this package, a line in ``TASKS`` and a block in the YAML.

    Attributes:
        projections: Of the last batch, (N, P), what the loss compares: where they hardly differ from window to window,
            the task has collapsed. None where it cannot.
        code_shares: Of the last batch, (K,), the mean share of each code; None where the task has no codes.
        chance: The loss of a head that knows nothing; None where there is no such number.
        masks: Whether it has views masked.
    """

    Settings: ClassVar[type[TaskSettings]]
    extra: ClassVar[Extra | None] = None
    compares_windows: ClassVar[bool] = False
    """Whether windows of a batch are compared with each other, so that a batch of one teaches nothing."""
    pooled: ClassVar[bool] = True
    """Whether the loss sees what is pooled of the student's views, and not their tokens alone."""
    teacher: ClassVar[bool] = False
    """Whether it has views encoded by the teacher."""
    of_time: ClassVar[bool] = False
    """Whether it is about a time axis, or about sensors that are worn, so that images have nothing for it."""
    advice: ClassVar[str] = ""
    """What to turn where the task collapses, or learns nothing: a sentence."""

    projections: Tensor | None = None
    code_shares: Tensor | None = None
    chance: float | None = None
    masks: bool = False

    @classmethod
    def extra_width(cls, settings: Any, meta: Meta) -> int:
        """Return the width F of the task's extra (N, F); 0 where it has none, or one without a width."""
        return 0

    @abstractmethod
    def __init__(self, settings: Any, context: TaskContext) -> None:
        super().__init__()

    @abstractmethod
    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Any]:
        """Return what must be encoded, and what the loss must remember of how it was made.

        All randomness comes from ``generator``.
        """

    @abstractmethod
    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Return the scalar loss of the encoded views, with the memory that ``views`` gave.

        It may be called more than once for one step: what moves from step to step, moves in ``after_step``.
        """

    def after_step(self, progress: float) -> None:
        """Move what moves after a step of the optimizer: a queue, a centre, a temperature.

        Args:
            progress: Of the whole run, from 0 to 1.
        """

    def after_new_encoder(self) -> None:
        """Give up what belongs to the encoder of before: a new one has arrived from the server."""


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return the head that all tasks use: one hidden layer, normalised before it and in it."""
    return nn.Sequential(*hidden_layer(inputs, hidden), nn.Linear(hidden, outputs))
