"""How was the device turned?

Gidaris, Singh and Komodakis 2018, "Unsupervised representation learning by predicting image rotations" (RotNet). They
turn an image by multiples of 90 degrees. A sensor with three axes can be turned so in 24 ways, the rotations of the
cube. Unlike there, each window is seen in one of them, not in all.
"""

from itertools import permutations, product
from typing import ClassVar

import torch
from torch import Tensor

from shared.augmentations import mix_axes
from shared.errors import UserError
from shared.tasks.base import TaskContext, TaskSettings
from shared.tasks.classification import Classification, ClassificationSettings


def cube_rotations() -> Tensor:
    """Return the 24 rotations that map the axes onto each other, (24, 3, 3); the first leaves all in place."""
    matrices = [
        torch.tensor(signs)[:, None] * torch.eye(3)[list(axes)]
        for axes in permutations(range(3))
        for signs in product((1.0, -1.0), repeat=3)
    ]
    return torch.stack([matrix for matrix in matrices if torch.det(matrix) > 0])


class Rotation(Classification):
    """Classify by which rotation of the cube all three-axis sensors of a place were turned; the places turn alike.

    Raises:
        UserError: No three-axis sensor among the channels.
    """

    Settings: ClassVar[type[TaskSettings]] = ClassificationSettings
    of_time: ClassVar[bool] = True
    advice: ClassVar[str] = "Sensors that are worn any way up cannot teach it: switch tasks.rotation off for them."
    rotations: Tensor

    def __init__(self, settings: ClassificationSettings, context: TaskContext) -> None:
        if not context.channels.spec.triads:
            raise UserError(
                "task 'rotation' turns three-axis sensors; expected channels such as total_acc_x, total_acc_y and "
                f"total_acc_z, found none of these among {context.channel_count}: set tasks.rotation.enabled=false"
            )
        rotations = cube_rotations()
        super().__init__(settings, context, len(rotations))
        self.channels = context.channels
        self.register_buffer("rotations", rotations, persistent=False)

    def change(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Turn all three-axis sensors by ``rotations[label]``; other channels stay. Not random."""
        return mix_axes(x, self.channels, lambda triads: self.rotations[labels].to(x.dtype))
