"""Teachers: slow copies that tasks learn from, each weight a moving average of the student's.

Mean teacher: Tarvainen and Valpola 2017; in self-supervised learning: He et al. 2020 (MoCo), Grill et al. 2020 (BYOL).
"""

import copy
import math
from typing import Any, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from shared.settings import Settings

Student = TypeVar("Student", bound=nn.Module)


class TeacherSettings(Settings):
    """How teachers follow their students.

    Args:
        momentum: Share of a teacher that stays at a step, at the beginning of the run. It rises to 1 by half a cosine.
        on_new_encoder: What the encoder's teacher does when a new encoder arrives from the server: "follow" it step by
            step, as it followed the one before, or "restart" from it.
    """

    momentum: float = Field(ge=0, le=1)
    on_new_encoder: Literal["follow", "restart"]

    def momentum_at(self, progress: float) -> float:
        """Return the momentum at a point of the whole run, 0 to 1 (Grill et al. 2020, section 3.2)."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2


class MovingAverage(nn.Module, Generic[Student]):
    """A copy of a module that follows it, and through which no gradient flows.

    The model that a copy is part of moves it after each step of the optimizer, wherever in it the copy stands: a task
    that wants a teacher of its head only makes one.

    Args:
        student: What is copied; it is not part of this module.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.module: Student = copy.deepcopy(student).requires_grad_(False)
        self._student = (student,)  # in a tuple, so that it does not become a part of the teacher

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Tensor:
        """Return what the copy makes of the inputs."""
        made: Tensor = self.module(*inputs)
        return made

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move towards the student: weights by 1 - ``momentum``, buffers (BatchNorm's statistics) all the way."""
        student = self._student[0]
        for weight, target in zip(self.module.parameters(), student.parameters(), strict=True):
            weight.lerp_(target, 1 - momentum)
        for buffer, value in zip(self.module.buffers(), student.buffers(), strict=True):
            buffer.copy_(value)
