"""Give all views of a window the prototypes that a teacher gives two of them.

DINO: Caron et al. 2021, "Emerging properties in self-supervised vision transformers"; with KoLeo, as in Oquab et al.
2023, "DINOv2: Learning robust visual features without supervision".
"""

import math
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from shared.encoders import Encoded, View
from shared.losses import koleo, self_distillation
from shared.settings import Shares
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings
from shared.tasks.distillation import Distillation, DistillationSettings
from shared.transforms import crop_of

GLOBAL = 2
"""Views that the teacher sees."""


class DINOSettings(DistillationSettings):
    """The knobs of ``DistillationSettings``, and those of the views and of KoLeo.

    Args:
        local_crops: Views of a small part of the window, which only the student sees.
        local_share: Share of an augmented view that such a crop shows, stretched over the window.
        koleo: Weight of KoLeo on the embeddings of each of the two views; DINOv2 has 0.1.
    """

    local_crops: NonNegativeInt
    local_share: Shares
    koleo: NonNegativeFloat


class DINO(Task):
    """Cross-entropy between the teacher's prototypes of two views and the student's of all others of the window.

    Crops are stretched to the length of a window, so that the student encodes all views in one pass; theirs are smaller
    images.
    """

    Settings: ClassVar[type[TaskSettings]] = DINOSettings
    teacher: ClassVar[bool] = True
    compares_windows: ClassVar[bool] = True  # the batch normalisation of the head does
    advice: ClassVar[str] = (
        "Lower tasks.dino.teacher_temperature or tasks.dino.prototypes if it is the loss that says so, "
        "tasks.dino.centre_momentum or train.learning_rate if it is the codes."
    )

    def __init__(self, settings: DINOSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self.channels = context.channels
        self.transform = context.transform
        self.crop = crop_of(context.channels.spec)
        self.distillation = Distillation(context.dim, settings)
        self.chance = math.log(settings.prototypes)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Any]:
        """The student's views, two whole ones and the crops, one after the other, and the teacher's."""
        copies = torch.cat([batch.x] * (GLOBAL + self.settings.local_crops))
        x = self.transform(copies, generator, self.channels)
        whole, part = x[: GLOBAL * len(batch.x)], x[GLOBAL * len(batch.x) :]
        return [
            View(torch.cat([whole, self.crop(part, generator, self.settings.local_share)])),
            View(whole, teacher=True),
        ], None

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Cross-entropy over all pairs of different views, and KoLeo."""
        student, teacher = (part.pooled for part in encoded)
        n = len(batch.x)
        targets = self.distillation.targets(teacher, batch)
        self.code_shares = targets.mean(dim=0)
        scores = self.distillation.head(student)
        loss = self_distillation(
            scores.view(-1, n, scores.shape[1]), targets.view(GLOBAL, n, -1), self.settings.student_temperature
        )
        if self.settings.koleo:
            whole = student[: GLOBAL * n].chunk(GLOBAL)
            loss = loss + self.settings.koleo * torch.stack([koleo(view) for view in whole]).mean()
        return loss

    def after_step(self, progress: float) -> None:
        """Move the centre and the teacher's temperature."""
        self.distillation.after_step(progress)
