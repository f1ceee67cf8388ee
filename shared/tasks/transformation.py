"""Which transformation was applied?

After Saeed, Ozcebi and Lukkien 2019, "Multi-task self-supervised learning for human activity detection"; here one
softmax over all transformations instead of one binary head each.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from shared.augmentations import TRANSFORMS
from shared.encoders import Encoded, View
from shared.errors import choose
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, mlp


class TransformationSettings(TaskSettings):
    """Args: transforms: the transformations to tell apart, besides "none"; hidden: width of the head."""

    transforms: tuple[str, ...] = Field(min_length=1)
    hidden: PositiveInt


class Transformation(Task):
    """Classify which of K transformations, or none, made each window (K + 1 classes, cross-entropy)."""

    Settings: ClassVar[type[TaskSettings]] = TransformationSettings

    def __init__(self, settings: TransformationSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.channels = context.channels
        self.transforms = [choose("transformation", TRANSFORMS, name) for name in settings.transforms]
        self.head = mlp(context.dim, settings.hidden, len(self.transforms) + 1)
        self.chance = math.log(len(self.transforms) + 1)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Tensor]:
        """Split the batch at random into K + 1 nearly equal groups, and transform each group at once.

        Which groups get the one window more is drawn too, so that small batches meet every class in time.
        """
        x, classes = batch.x, len(self.transforms) + 1
        order = torch.randperm(len(x), generator=generator, device=x.device)
        first = int(torch.randint(classes, (1,), generator=generator, device=x.device))
        labels = (torch.arange(len(x), device=x.device) * classes // len(x) + first) % classes
        windows = x.clone()
        for label, transform in enumerate(self.transforms, start=1):
            rows = order[labels == label]
            if len(rows):
                windows[rows] = transform(x[rows], generator, self.channels)
        targets = torch.empty_like(labels)
        targets[order] = labels
        return [View(windows)], targets

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Cross-entropy of the head's logits (N, K + 1) against the transformations applied (N,)."""
        return F.cross_entropy(self.head(encoded[0].pooled), memory)
