"""Tell the prototypes that a teacher gives to the positions that are masked.

iBOT: Zhou et al. 2022, "iBOT: Image BERT pre-training with online tokenizer", equation 3. Together with ``dino``, which
is its loss on whole windows, it is their method; DINOv2 (Oquab et al. 2023) is both with KoLeo.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.encoders import Encoded, View
from shared.masks import Masks, MaskSettings
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings
from shared.tasks.distillation import Distillation, DistillationSettings


class IBOTSettings(DistillationSettings):
    """The knobs of ``DistillationSettings``, and mask: what is hidden from the student."""

    mask: MaskSettings


class IBOT(Task):
    """Cross-entropy between the teacher's prototypes of a token and the student's, where the student is masked.

    Theirs is masked in half of the images and trains the loss on whole images with the same views. Here ``dino`` draws
    its own, so all windows are masked; and the head is another than that of ``dino``, as in DINOv2.
    """

    Settings: ClassVar[type[TaskSettings]] = IBOTSettings
    pooled: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    masks = True
    advice: ClassVar[str] = (
        "Lower tasks.ibot.teacher_temperature or tasks.ibot.prototypes if it is the loss that says so, "
        "tasks.ibot.centre_momentum or train.learning_rate if it is the codes."
    )

    def __init__(self, settings: IBOTSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.masker = Masks(settings.mask, context.channels, context.layout.grid)
        self.layout = context.layout
        self.settings = settings
        self.channels = context.channels
        self.transform = context.transform
        self.distillation = Distillation(context.width, settings)
        self.chance = math.log(settings.prototypes)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Tensor]:
        """One augmented view of each window, masked for the student and whole for the teacher."""
        x = self.transform(batch.x, generator, self.channels)
        mask = self.masker.draw(len(x), generator)
        return [View(x, mask=mask), View(x, teacher=True)], self.layout.touched(mask)

    def loss(self, encoded: list[Encoded], memory: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy, mean over the masked positions, bool (N, L)."""
        student, teacher = (part.tokens[memory] for part in encoded)
        targets = self.distillation.targets(teacher, batch)
        self.code_shares = targets.mean(dim=0)
        return F.cross_entropy(self.distillation.head(student) / self.settings.student_temperature, targets)

    def after_step(self, progress: float) -> None:
        """Move the centre and the teacher's temperature."""
        self.distillation.after_step(progress)
