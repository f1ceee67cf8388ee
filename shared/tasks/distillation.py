"""What DINO and iBOT share: prototypes that a student and a teacher choose from, and targets that do not collapse.

Self-distillation with no labels: Caron et al. 2021, "Emerging properties in self-supervised vision transformers", DINO.

Shapes: M embeddings, K prototypes.
"""

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from shared.losses import NORM_FLOOR
from shared.tasks.base import Batch, TaskSettings, UntilStep, mlp
from shared.teacher import MovingAverage


class DistillationSettings(TaskSettings):
    """The head, and what keeps the teacher from one answer for all.

    Args:
        hidden: Units of the head's hidden layer.
        bottleneck: Width of the normalised layer before the prototypes.
        prototypes: K.
        student_temperature: Of the student's softmax.
        teacher_temperature: Of the teacher's, at the beginning of the run and after the warm-up.
        temperature_warmup: Share of the run over which it goes from the one to the other.
        centre_momentum: Share of the centre that stays at a step. At 1 it stays 0: no centring.
    """

    hidden: PositiveInt
    bottleneck: PositiveInt
    prototypes: int = Field(ge=2)
    student_temperature: PositiveFloat
    teacher_temperature: tuple[PositiveFloat, PositiveFloat]
    temperature_warmup: float = Field(ge=0, le=1)
    centre_momentum: float = Field(ge=0, le=1)

    def teacher_temperature_at(self, progress: float) -> float:
        """Return the teacher's temperature at a point of the whole run, 0 to 1."""
        first, last = self.teacher_temperature
        if progress >= self.temperature_warmup:
            return last
        return first + (last - first) * progress / self.temperature_warmup


class PrototypeHead(nn.Module):
    """Compare embeddings with prototypes: an MLP to a bottleneck, then cosines (Caron et al. 2021, appendix C).

    Their last layer is linear with normalised weights, which is the same.
    """

    def __init__(self, inputs: int, settings: DistillationSettings) -> None:
        super().__init__()
        self.mlp = mlp(inputs, settings.hidden, settings.bottleneck)
        self.prototypes = nn.Linear(settings.bottleneck, settings.prototypes, bias=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return scores between -1 and 1, (M, K), of embeddings (M, inputs)."""
        z = F.normalize(self.mlp(embeddings), dim=1, eps=NORM_FLOOR)
        return z @ F.normalize(self.prototypes.weight, dim=1, eps=NORM_FLOOR).T


class Distillation(nn.Module):
    """The student's head, the teacher's, which follows it, and the centre and the temperature of the teacher's answers.

    Centring keeps one prototype from winning everywhere, a low temperature keeps all from winning alike (Caron et al.
    2021, section 3.1). Of theirs are left out: the first epoch with fixed prototypes, and clipped gradients.

    Args:
        inputs: Width of an embedding.
        settings: Of the task.

    Attributes:
        centre: Moving average of the teacher's scores, (K,).
        temperature: Of the teacher at the next step, a scalar.
    """

    centre: Tensor
    temperature: Tensor

    def __init__(self, inputs: int, settings: DistillationSettings) -> None:
        super().__init__()
        self.settings = settings
        self.head = PrototypeHead(inputs, settings)
        self.slow_head = MovingAverage(self.head)
        self.register_buffer("centre", torch.zeros(settings.prototypes))
        self.register_buffer("temperature", torch.tensor(settings.teacher_temperature_at(0.0)))
        self._scores = UntilStep()

    @torch.no_grad()
    def targets(self, embeddings: Tensor, batch: Batch) -> Tensor:
        """Return the teacher's probabilities (M, K) of its embeddings (M, inputs), centred and sharpened."""
        scores: Tensor = self.slow_head(embeddings)
        self._scores.keep(batch, scores)
        return ((scores - self.centre) / self.temperature).softmax(dim=1)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the centre towards the mean of the last scores (equation 4), and set the next temperature."""
        if (scores := self._scores.take()) is not None:
            self.centre.lerp_(scores.mean(dim=0), 1 - self.settings.centre_momentum)
        self.temperature.fill_(self.settings.teacher_temperature_at(progress))
