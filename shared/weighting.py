"""How the losses of several tasks become one scalar, and what each task then weighs."""

from typing import ClassVar

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from shared.errors import choose
from shared.settings import Settings

MEMORY = 5
"""Steps over which "uncertainty" averages a loss, about: a client takes six a round on the watch data."""

SMALLEST_LOSS = 1e-3
"""A loss below this weighs no more: the weight of one that vanishes would have no bound."""


class WeightingSettings(Settings):
    """Args: name: one of ``WEIGHTINGS``; dwa_temperature: softness of "dwa" (higher is more equal)."""

    name: str
    dwa_temperature: PositiveFloat


class Weighting(nn.Module):
    """Fixed task weights; the base of the adaptive ones.

    Args:
        weights: The constant weight of each task.
        settings: The block ``weighting`` of the configuration.
    """

    uses_fixed_weights: ClassVar[bool] = False
    constant: Tensor

    def __init__(self, weights: dict[str, float], settings: WeightingSettings) -> None:
        super().__init__()
        self.names = tuple(weights)
        values = list(weights.values()) if self.uses_fixed_weights else [1.0] * len(weights)
        self.register_buffer("constant", torch.tensor(values), persistent=False)

    def weights(self) -> Tensor:
        """The weight of each task's loss now, (K,), without a gradient."""
        return self.constant

    def forward(self, losses: Tensor) -> Tensor:
        """Return the scalar to minimise from the K task losses (K,)."""
        return (self.weights() * losses).sum()

    def observe(self, losses: Tensor) -> None:
        """Take note of the task losses (K,) of a step, before they are combined."""

    def end_epoch(self, losses: Tensor) -> None:
        """Take note of the mean task losses (K,) of the epoch that has just ended."""


class Equal(Weighting):
    """The sum of the losses."""


class Fixed(Weighting):
    """The weights that the configuration gives each task."""

    uses_fixed_weights: ClassVar[bool] = True


class Uncertainty(Weighting):
    """Homoscedastic uncertainty: the sum of exp(-s) L / 2 + s / 2 (Kendall, Gal and Cipolla 2018, eq. 10).

    Each log variance s stands where this sum is smallest, at the logarithm of the task's loss, so that a task weighs
    1 / (2 L) (in closed form: Kirchdorfer et al. 2024, "Analytical uncertainty-based loss weighting in multi-task
    learning"). The loss is a running mean over about the last ``MEMORY`` steps. Learned by gradient, as in the paper of
    2018, s hardly moves in the few steps that a client takes in a round.
    """

    total: Tensor
    count: Tensor

    def __init__(self, weights: dict[str, float], settings: WeightingSettings) -> None:
        super().__init__(weights, settings)
        # Buffers, so that they are saved with the client's state. The mean of no steps yet is 1, and s is 0.
        self.register_buffer("total", torch.zeros(len(weights)))
        self.register_buffer("count", torch.zeros(()))

    def observe(self, losses: Tensor) -> None:
        """Add a step's losses (K,) to sums that forget all older steps alike."""
        self.total.lerp_(losses, 1 / MEMORY)
        self.count.lerp_(torch.ones_like(self.count), 1 / MEMORY)

    def weights(self) -> Tensor:
        """1 / (2 L) of each task."""
        return torch.exp(-self._log_variance()) / 2

    def forward(self, losses: Tensor) -> Tensor:
        """Return the negative log likelihood of the losses under the variances of now."""
        log_variance = self._log_variance()
        return (torch.exp(-log_variance) * losses + log_variance).sum() / 2

    def _log_variance(self) -> Tensor:
        mean = torch.where(self.count > 0, self.total / self.count, torch.ones_like(self.total))
        return mean.clamp_min(SMALLEST_LOSS).log()


class DynamicWeightAverage(Weighting):
    """Weight a task by how slowly its loss fell between the two epochs before (Liu, Johns and Davison 2019, eq. 7)."""

    last: Tensor
    before: Tensor
    epochs: Tensor

    def __init__(self, weights: dict[str, float], settings: WeightingSettings) -> None:
        super().__init__(weights, settings)
        self.temperature = settings.dwa_temperature
        # Equal ratios until two epochs have been seen; buffers, so that they are saved with the client's state.
        self.register_buffer("last", torch.ones(len(weights)))
        self.register_buffer("before", torch.ones(len(weights)))
        self.register_buffer("epochs", torch.zeros((), dtype=torch.int64))

    def weights(self) -> Tensor:
        """K softmax(ratio / temperature), which sums to the number of tasks."""
        ratio = self.last / self.before.clamp_min(1e-12)
        return len(self.names) * torch.softmax(ratio / self.temperature, dim=0)

    def end_epoch(self, losses: Tensor) -> None:
        """Shift the window of two epochs by one; the first epoch counts for both."""
        self.before.copy_(self.last if self.epochs else losses)
        self.last.copy_(losses)
        self.epochs += 1


WEIGHTINGS: dict[str, type[Weighting]] = {
    "equal": Equal,
    "fixed": Fixed,
    "uncertainty": Uncertainty,
    "dwa": DynamicWeightAverage,
}


def build_weighting(settings: WeightingSettings, weights: dict[str, float]) -> Weighting:
    """Return the named weighting over the tasks in ``weights``.

    Raises:
        UserError: An unknown name.
    """
    return choose("weighting", WEIGHTINGS, settings.name)(weights, settings)
