"""What a step is: how the losses of a batch become gradients.

Shapes: P parts of a batch, K tasks, M views, D embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from shared.settings import Settings
from shared.tasks import Draw
from shared.weighting import Weighting


class TC2Settings(Settings):
    """The knobs of ``TC2``.

    Args:
        tasks: Parts that a batch is cut into, at most.
        min_windows: Windows that a part has, at least; a batch that does not make two parts is trained plainly.
        factors: Vectors that are shared by all tasks.
        sparsity: Weight of the mean absolute weight of a factor.
        inner_rate: Step of the plain gradient descent to the weights that the second stage looks from.
        order: Whether the second stage also sees how the calibration changed that step.
    """

    tasks: int = Field(ge=2)
    min_windows: PositiveInt
    factors: int = Field(ge=2)
    sparsity: NonNegativeFloat
    inner_rate: PositiveFloat
    order: Literal["first", "second"]


class StepSettings(Settings):
    """Args: name: one of ``STEPS``; tc2: the knobs of "tc2"."""

    name: str
    tc2: TC2Settings


class StepContext(NamedTuple):
    """What a step may know when it is built.

    Args:
        dim: D.
        tasks: How many there are.
        pooled: Whether one of them looks at what is pooled.
    """

    dim: int
    tasks: int
    pooled: bool


class Losses(NamedTuple):
    """What a batch gave.

    Args:
        tasks: Of each of the K tasks the losses on each part, (P,).
        embeddings: What the heads saw, one (M, D) for each pass of the encoder.
        tokens: The same, (M, L or V, H).
    """

    tasks: tuple[Tensor, ...]
    embeddings: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]

    @property
    def values(self) -> Tensor:
        """The losses of the tasks on each part, (P, K)."""
        return torch.stack(self.tasks, dim=1)


class LossesAt(Protocol):
    """The losses of parts of a batch, with the same views each time."""

    def __call__(
        self,
        parts: Sequence[Draw],
        *,
        weights: Mapping[str, Tensor] | None = None,
        calibrate: Callable[[Tensor], Tensor] | None = None,
    ) -> Losses:
        """Compute them.

        Args:
            parts: Of the batch.
            weights: Parameters and buffers of the model to compute them at, by name; None: its own.
            calibrate: Makes of the embeddings (M, D) what the heads shall see; None: they see them as they are.
        """
        ...


class Pass(NamedTuple):
    """What a step makes gradients of.

    Args:
        losses_at: Computes losses.
        parts: Of the batch, with their views.
        weighting: Makes one loss of the tasks'.
        model: Whose parameters they are; the heads' names begin with "heads.", the step's own with "step.".
        pull: A scalar that is added to the loss; None: nothing is.
    """

    losses_at: LossesAt
    parts: Sequence[Draw]
    weighting: Weighting
    model: nn.Module
    pull: Tensor | None


class Step(nn.Module):
    """Gradients for one step of the optimizer: here, plainly, that of the weighted sum of the losses.

    Other steps are derived from it. They may own modules: those are private, and no part of a saved encoder. A step is
    not a weighting: that says how K losses become one, and goes with any step.

    Args:
        settings: The block ``step`` of the configuration.
        context: What it may know.
    """

    def __init__(self, settings: StepSettings, context: StepContext) -> None:
        super().__init__()

    def parts(self, windows: int) -> int:
        """Return into how many parts a batch of so many windows is cut; each task is posed for each part by itself."""
        return 1

    def backward(self, given: Pass) -> tuple[Tensor, Tensor]:
        """Give all parameters their gradients.

        Returns:
            The losses of the K tasks, (K,), and the scalar that was minimised; without gradients.
        """
        losses = given.losses_at(given.parts).values.mean(dim=0)
        given.weighting.observe(losses.detach())
        loss = given.weighting(losses)
        if given.pull is not None:
            loss = loss + given.pull
        loss.backward()
        return losses.detach(), loss.detach()
