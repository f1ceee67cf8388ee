"""Which transformation was applied?

After Saeed, Ozcebi and Lukkien 2019, "Multi-task self-supervised learning for human activity detection"; here one
softmax over all transformations instead of one binary head each. With ``reverse`` alone it is the arrow of time (Wei et
al. 2018, "Learning and using the arrow of time"). With the quarter turns of images it is RotNet (Gidaris et al. 2018,
"Unsupervised representation learning by predicting image rotations").
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from shared.errors import choose
from shared.tasks.base import TaskContext, TaskSettings
from shared.tasks.classification import Classification, ClassificationSettings
from shared.transforms import transforms_of


class TransformationSettings(ClassificationSettings):
    """Args: transforms: the transformations to tell apart, besides "none"."""

    transforms: tuple[str, ...] = Field(min_length=1)


class Transformation(Classification):
    """Classify which of K - 1 transformations, or none, made each window."""

    Settings: ClassVar[type[TaskSettings]] = TransformationSettings
    advice: ClassVar[str] = "Choose other or fewer transformations in tasks.transformation.transforms."

    def __init__(self, settings: TransformationSettings, context: TaskContext) -> None:
        super().__init__(settings, context, len(settings.transforms) + 1)
        self.channels = context.channels
        table = transforms_of(context.channels.spec)
        self.transforms = [choose("transformation", table, name) for name in settings.transforms]

    def change(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Transform each group at once; label 0 stays as it is."""
        changed = x.clone()
        for label, transform in enumerate(self.transforms, start=1):
            if (rows := (labels == label).nonzero().flatten()).numel():
                changed[rows] = transform(x[rows], generator, self.channels)
        return changed
