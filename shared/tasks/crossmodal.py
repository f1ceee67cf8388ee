"""Which rotation rates belong to which accelerations?

CLIP: Radford et al. 2021, "Learning transferable visual models from natural language supervision", section 2.3 and
figure 3. Between sensors: Moon et al. 2022, "IMU2CLIP"; Deldari et al. 2022, "COCOA: Cross modality contrastive
learning for sensor data".

They have an encoder for each modality. Here one encoder sees either, with the channels of the other hidden: one is what
travels in a federation, and what a user gets.
"""

import math
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from shared.encoders import Encoded, View
from shared.errors import UserError
from shared.losses import clip
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, mlp

FIRST_SCALE, LARGEST_SCALE = math.log(1 / 0.07), math.log(100)
"""Logarithm of the factor of the cosine similarities, as in section 2.5 of CLIP."""

COMPARED = ("acc", "gyro")
"""Devices that are compared."""


class CrossmodalSettings(TaskSettings):
    """Args: hidden: width of the hidden layers; projection: width P of the projections."""

    hidden: PositiveInt
    projection: PositiveInt


class Crossmodal(Task):
    """Find to each window's accelerations its rotation rates among those of the batch, and the reverse.

    All other channels are hidden in both views: seen in both, they would tell what belongs together.

    Raises:
        UserError: No three-axis accelerometer, or no gyroscope, among the channels.
    """

    Settings: ClassVar[type[TaskSettings]] = CrossmodalSettings
    of_time: ClassVar[bool] = True
    compares_windows: ClassVar[bool] = True
    advice: ClassVar[str] = "Larger batches (train.batch_size) or a wider tasks.crossmodal.projection may help."
    shown: Tensor

    def __init__(self, settings: CrossmodalSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        shown = torch.zeros(2, context.channel_count, dtype=torch.bool)
        for triad in context.channels.spec.triads:
            if triad.device in COMPARED:
                shown[COMPARED.index(triad.device), list(triad.channels)] = True
        if not shown.any(dim=1).all():
            found = ", ".join(triad.kind for triad in context.channels.spec.triads) or "no three-axis sensor"
            raise UserError(
                "task 'crossmodal' compares accelerometers with gyroscopes; expected three-axis sensors of both kinds "
                f"(channels such as total_acc_x and gyro_x, with y and z), found {found}: set "
                "tasks.crossmodal.enabled=false"
            )
        self.register_buffer("shown", shown, persistent=False)
        self.positions = context.positions
        self.acceleration = mlp(context.dim, settings.hidden, settings.projection)
        self.rotation = mlp(context.dim, settings.hidden, settings.projection)
        self.log_scale = nn.Parameter(torch.tensor(FIRST_SCALE))

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], None]:
        """The accelerations (N), then the rotation rates (N), in one view. Not random.

        No position is hidden in all channels, so that no learned token (``masks``) is asked for.
        """
        hidden = ~self.shown.repeat_interleave(len(batch.x), dim=0)
        return [View(torch.cat([batch.x, batch.x]), mask=hidden[:, :, None].expand(-1, -1, self.positions))], None

    def loss(self, encoded: list[Encoded], memory: None, batch: Batch) -> Tensor:
        """CLIP's loss of the projections (N, P) of both."""
        accelerations, rotations = encoded[0].pooled.chunk(2)
        first, second = self.acceleration(accelerations), self.rotation(rotations)
        self.projections = first.detach()
        return clip(first, second, self.log_scale.exp())

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Keep the factor of the similarities at 100 or below, for training to be stable (CLIP, section 2.5)."""
        self.log_scale.clamp_(max=LARGEST_SCALE)
