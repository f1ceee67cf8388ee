"""Find the teacher's key of the other view among many keys, most of them of earlier batches.

MoCo: He et al. 2020, "Momentum contrast for unsupervised visual representation learning"; v2, with a hidden layer in
the head: Chen et al. 2020, "Improved baselines with momentum contrastive learning".
"""

from typing import Any, ClassVar

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from shared.encoders import Encoded
from shared.losses import cosine_info_nce, unit_length
from shared.tasks.base import Batch, TaskContext, TaskSettings, UntilStep, mlp
from shared.tasks.two_views import TwoViews
from shared.teacher import MovingAverage


class MoCoSettings(TaskSettings):
    """The queue, the loss and the head.

    Args:
        queue: Keys of earlier batches that are kept; two a window.
        keep_queue: Whether they are kept when a new encoder arrives from the server.
        temperature: Of InfoNCE.
        hidden: Width of the hidden layer of the projection.
        projection: Width P of the projection.
    """

    queue: PositiveInt
    keep_queue: bool
    temperature: PositiveFloat
    hidden: PositiveInt
    projection: PositiveInt


class MoCo(TwoViews):
    """Contrast each view's query with the teacher's keys: of the other views, and of earlier batches in a queue.

    Two things differ from the paper. Both views are queries, as in the authors' demo on small images: a client has few
    windows. And the keys of the batch's other windows are negatives too, beside the queue. Batch normalisation gives
    the keys of one batch something in common that tells them from those in the queue, so that otherwise the right key
    would be found by its batch. The paper shuffles windows between GPUs against it, and here there is one device. It
    also gives a client something to learn from while the queue is still empty. A queue shorter than the keys of a batch
    (two a window) holds the second views of the last one.

    Attributes:
        queue: The keys, (Q, P), of length 1; the oldest is the next to be overwritten.
        written: How many keys have been written so far, int64 scalar.
    """

    Settings: ClassVar[type[TaskSettings]] = MoCoSettings
    teacher: ClassVar[bool] = True
    advice: ClassVar[str] = "Raise tasks.moco.queue or teacher.momentum, or lower tasks.moco.temperature."

    queue: Tensor
    written: Tensor

    def __init__(self, settings: MoCoSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.settings = settings
        self.head = mlp(context.dim, settings.hidden, settings.projection)
        self.slow_head = MovingAverage(self.head)
        self.register_buffer("queue", torch.zeros(settings.queue, settings.projection))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self._keys = UntilStep()

    @property
    def queued(self) -> Tensor:
        """The keys in the queue, (up to Q, P)."""
        return self.queue[: int(self.written)]

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """InfoNCE (He et al. 2020, equation 1), as a mean over both directions."""
        student, teacher = encoded
        first, second = self.head(student.pooled).chunk(2)
        keys = unit_length(self.slow_head(teacher.pooled))
        self._keys.keep(batch, keys)
        self.projections = first.detach()
        first_key, second_key = keys.chunk(2)
        temperature = self.settings.temperature
        return (
            cosine_info_nce(first, second_key, temperature, self.queued)
            + cosine_info_nce(second, first_key, temperature, self.queued)
        ) / 2

    def after_step(self, progress: float) -> None:
        """Write the keys of the batch over the oldest ones."""
        if (keys := self._keys.take()) is not None:
            count, size = len(keys), len(self.queue)
            kept = torch.arange(max(count - size, 0), count, device=self.queue.device)
            self.queue[(self.written + kept) % size] = keys[kept]
            self.written += count

    def after_new_encoder(self) -> None:
        """Empty the queue, where the configuration says so: its keys were made before."""
        if not self.settings.keep_queue:
            self.written.zero_()
