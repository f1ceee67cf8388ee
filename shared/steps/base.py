"""What a step is: how the losses of a batch become gradients.

Shapes: P parts of a batch, K tasks, M views, D embedding.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from shared.settings import Settings
from shared.tasks import Draw
from shared.weighting import Weighting


class StepSettings(Settings):
    """Args: name: one of ``STEPS``."""

    name: str


class StepContext(NamedTuple):
    """What a step may know when it is built: the width D of the embedding."""

    dim: int


class Losses(NamedTuple):
    """What a batch gave.

    Args:
        values: (P, K), the losses of the tasks on each part.
        embeddings: What the heads saw, one (M, D) for each pass of the encoder.
        tokens: The same, (M, L or V, H).
    """

    values: Tensor
    embeddings: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]


class LossesAt(Protocol):
    """The losses of parts of a batch, with the same views each time."""

    def __call__(self, parts: Sequence[Draw], weights: Mapping[str, Tensor] | None = None) -> Losses:
        """Compute them.

        Args:
            parts: Of the batch.
            weights: Parameters and buffers of the encoder to compute them at, by name; None: the model's own.
        """
        ...


class Step(nn.Module):
    """Gradients for one step of the optimizer. It may own modules: they are private, and no part of a saved encoder.

    A step is not a weighting: that says how K losses become one, and goes with any step.

    Args:
        settings: The block ``step`` of the configuration.
        context: What it may know.
    """

    def __init__(self, settings: StepSettings, context: StepContext) -> None:
        super().__init__()

    def parts(self, windows: int) -> int:
        """Return into how many parts a batch of so many windows is cut; each task is posed for each part by itself."""
        return 1

    def calibrate(self, embeddings: Tensor) -> Tensor:
        """Return the embeddings (M, D) as the heads shall see them."""
        return embeddings

    def backward(
        self,
        losses_at: LossesAt,
        parts: Sequence[Draw],
        weighting: Weighting,
        encoder: nn.Module,
        pull: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Give all parameters their gradients.

        Args:
            losses_at: Computes losses.
            parts: Of the batch, with their views.
            weighting: Makes one loss of the tasks'.
            encoder: Whose weights can be varied.
            pull: A scalar that is added to the loss.

        Returns:
            The losses of the K tasks, (K,), and the scalar that was minimised; without gradients.
        """
        raise NotImplementedError


class Plain(Step):
    """The gradient of the weighted sum."""

    def backward(
        self,
        losses_at: LossesAt,
        parts: Sequence[Draw],
        weighting: Weighting,
        encoder: nn.Module,
        pull: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One pass backward."""
        losses = losses_at(parts).values.mean(dim=0)
        weighting.observe(losses.detach())
        loss = weighting(losses) if pull is None else weighting(losses) + pull
        loss.backward()
        return losses.detach(), loss.detach()
