"""Tell what a teacher, which sees the whole window, makes of the positions that are masked.

data2vec: Baevski et al. 2022, "data2vec: a general framework for self-supervised learning in speech, vision and
language".
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from shared.encoders import Encoded, View
from shared.masks import Masks, MaskSettings
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, mlp


class Data2vecSettings(TaskSettings):
    """The mask, the targets, the loss and the head.

    Args:
        mask: What is hidden from the student.
        blocks: Last blocks of the teacher that a target is the mean of, as far as they are as wide as the last.
        beta: Error from which the loss is linear rather than squared.
        hidden: Units of the head.
    """

    mask: MaskSettings
    blocks: PositiveInt
    beta: PositiveFloat
    hidden: PositiveInt


class Data2vec(Task):
    """Smooth L1 between the student's tokens and the mean of the teacher's last blocks, where the student is masked.

    Each block's maps are normalised position by position, as theirs for images. For speech they normalise each map over
    time, which would take away from a window how the device is held. Windows are not augmented.
    """

    Settings: ClassVar[type[TaskSettings]] = Data2vecSettings
    pooled: ClassVar[bool] = False
    teacher: ClassVar[bool] = True
    masks = True
    advice: ClassVar[str] = (
        "Raise teacher.momentum towards 1 or tasks.data2vec.mask.ratio, or lower train.learning_rate."
    )

    def __init__(self, settings: Data2vecSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.masker = Masks(settings.mask, context.channels, context.layout.grid)
        self.layout = context.layout
        self.settings = settings
        self.head = mlp(context.width, settings.hidden, context.width)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Tensor]:
        """The windows, masked for the student and whole for the teacher."""
        mask = self.masker.draw(len(batch.x), generator)
        return [View(batch.x, mask=mask), View(batch.x, teacher=True)], self.layout.touched(mask)

    def loss(self, encoded: list[Encoded], memory: Tensor, batch: Batch) -> Tensor:
        """Smooth L1 (equation 2), mean over the masked positions, bool (N, L), and the maps."""
        student, teacher = encoded
        blocks = [F.layer_norm(block.float(), block.shape[2:]) for block in teacher.blocks[-self.settings.blocks :]]
        targets = torch.stack(blocks).mean(dim=0)
        # Over time: targets that tell positions apart, but not windows, have collapsed too.
        self.projections = targets.mean(dim=1)
        return F.smooth_l1_loss(self.head(student.tokens[memory]), targets[memory], beta=self.settings.beta)
