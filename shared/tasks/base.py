"""What a pretext task is: the views that it wants encoded, a private head, and a loss."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from shared.augmentations import Channels
from shared.layers import hidden_layer
from shared.settings import Settings


class TaskSettings(Settings):
    """The knobs that every task has: whether it is trained, and its weight where weights are fixed."""

    enabled: bool
    weight: PositiveFloat


@dataclass(frozen=True)
class TaskContext:
    """What a task may know when it builds its head: channels C, samples T, embedding D, features F."""

    channels: Channels
    samples: int
    dim: int
    features: int

    @property
    def channel_count(self) -> int:
        """C."""
        return len(self.channels.std)


@dataclass(frozen=True)
class Batch:
    """N windows as a loss sees them.

    Args:
        standardised: (N, C, T) windows with training mean 0 and standard deviation 1 in each channel.
        features: (N, F) standardised expert features; F is 0 where no task asked for them.
    """

    standardised: Tensor
    features: Tensor


class Views(NamedTuple):
    """M windows (M, C, T) to encode, in physical units, and what the loss must remember of how they were made."""

    windows: Tensor
    targets: Any


class Task(nn.Module, ABC):
    """A pretext task. A new one is a file in this package, a line in ``TASKS`` and a block in the YAML."""

    Settings: ClassVar[type[TaskSettings]]
    needs_features: ClassVar[bool] = False
    compares_windows: ClassVar[bool] = False
    """Whether the loss compares windows of a batch with each other, so that a batch of one teaches nothing."""

    @abstractmethod
    def __init__(self, settings: Any, context: TaskContext) -> None:
        super().__init__()

    @abstractmethod
    def views(self, x: Tensor, generator: torch.Generator) -> Views:
        """Return the views of ``x`` (N, C, T) that must be encoded; all randomness comes from ``generator``."""

    @abstractmethod
    def loss(self, embeddings: Tensor, targets: Any, batch: Batch) -> Tensor:
        """Return the scalar loss of the encoded views (M, D), with the targets that ``views`` gave."""


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return the head that all tasks use: one hidden layer, normalised before it and in it."""
    return nn.Sequential(*hidden_layer(inputs, hidden), nn.Linear(hidden, outputs))
