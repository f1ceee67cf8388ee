"""What was done to the window? The base of tasks that change each window in one of K ways and classify it."""

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from shared.encoders import Encoded, View
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, mlp


class ClassificationSettings(TaskSettings):
    """Args: hidden: width of the head's hidden layer."""

    hidden: PositiveInt


class Classification(Task):
    """Classify which of K changes made each window, by cross-entropy. A subclass says what the changes are.

    Args:
        settings: Of the task.
        context: What it may know.
        classes: K.
    """

    def __init__(self, settings: ClassificationSettings, context: TaskContext, classes: int) -> None:
        super().__init__(settings, context)
        self.classes = classes
        self.head = mlp(context.dim, settings.hidden, classes)
        self.chance = math.log(classes)

    @abstractmethod
    def change(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the windows (N, C, T), each changed in the way that its label says.

        Args:
            x: As they are; they must stay so.
            labels: int64 (N,), below K. Windows of one class stand together.
            generator: Source of all randomness.
        """

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Tensor]:
        """Split the batch at random into K nearly equal groups, and change each in its way.

        Which groups get the one window more is drawn too, so that small batches meet every class in time.
        """
        x = batch.x
        order = torch.randperm(len(x), generator=generator, device=x.device)
        first = int(torch.randint(self.classes, (1,), generator=generator, device=x.device))
        labels = (torch.arange(len(x), device=x.device) * self.classes // len(x) + first) % self.classes
        windows, targets = torch.empty_like(x), torch.empty_like(labels)
        windows[order] = self.change(x[order], labels, generator)
        targets[order] = labels
        return [View(windows)], targets

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Cross-entropy of the head's logits (N, K) against the changes made (N,)."""
        return F.cross_entropy(self.head(encoded[0].pooled), memory)
