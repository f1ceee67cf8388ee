"""Channel statistics that add up, so that a federation can standardise without pooling windows."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.windows import Windows
from shared.errors import UserError
from shared.large import let_go

LOG = logging.getLogger(__name__)

SMALLEST_STD = 1e-6
"""Floor of a standard deviation, in the channel's unit: a constant channel must not divide by zero."""

CONSTANT = 1e-7
"""A channel is constant whose standard deviation is at most this share of its mean, or ``SMALLEST_STD``."""

SUMMED = 2**20
"""Values that are summed at once: what float64 takes of memory is 8 bytes a value."""

LISTED = 10
"""People whose ids a warning lists."""


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Count, sum and sum of squares of each channel; the sum of two people's statistics is their pooled one.

    Args:
        count: Samples per channel (windows times samples per window).
        total: float64 (C,) sum of the samples, in the channels' units.
        squares: float64 (C,) sum of the squared samples.
    """

    count: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, windows: Windows) -> "ChannelStatistics":
        """Sum up the samples of windows (N, C, T), or the pixels of images (N, C, H, W), in float64."""
        channels = windows.x.shape[1]
        total, squares = np.empty(channels), np.empty(channels)
        size = prod(windows.meta.spec.size)
        count = len(windows) * size
        for channel in range(channels):
            total[channel], squares[channel] = _sums(windows.x[:, channel].reshape(-1, size), 0, count)
        return cls(count, total, squares)

    @classmethod
    def from_dict(cls, sums: Mapping[str, Any]) -> "ChannelStatistics":
        """Read back what ``to_dict`` gave; other keys are left alone."""
        return cls(int(sums["count"]), np.array(sums["total"]), np.array(sums["squares"]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, as messages and JSON carry them, without loss."""
        return {"count": self.count, "total": self.total.tolist(), "squares": self.squares.tolist()}

    def __add__(self, other: "ChannelStatistics") -> "ChannelStatistics":
        if self.total.shape != other.total.shape:
            raise UserError(
                f"channel statistics of {len(self.total)} and of {len(other.total)} channels cannot be added"
            )
        return ChannelStatistics(self.count + other.count, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each channel, float64 (C,), in the channels' units."""
        return self.total / self._counted()

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation of each channel, float64 (C,), at least ``SMALLEST_STD``."""
        variance = self.squares / self._counted() - np.square(self.mean)
        return np.maximum(np.sqrt(np.maximum(variance, 0)), SMALLEST_STD)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Which channels never change, bool (C,)."""
        limits: NDArray[np.float64] = np.maximum(CONSTANT * np.abs(self.mean), SMALLEST_STD)
        return self.std <= limits

    def _counted(self) -> int:
        if self.count < 1:
            raise UserError("channel statistics of no windows have no mean or standard deviation")
        return self.count


def _sums(rows: NDArray[np.float32], first: int, count: int) -> tuple[float, float]:
    """Return the sum, and the sum of squares, of ``count`` values of rows (N, T) that follow one another, in float64.

    Halves are summed and added, where there are many values: NumPy adds pairwise in the same way, so that the sums are
    those of all values at once.
    """
    if count <= SUMMED:
        samples = rows.shape[1]
        within = rows[first // samples : -(-(first + count) // samples)].astype(np.float64).ravel()
        values = within[first % samples :][:count]
        let_go(rows)
        return float(values.sum()), float(np.square(values).sum())
    half = count // 2 // 8 * 8
    left, right = _sums(rows, first, half), _sums(rows, first + half, count - half)
    return left[0] + right[0], left[1] + right[1]


def warn_of_constant(people: Mapping[str, ChannelStatistics], channels: Sequence[str]) -> None:
    """Log a warning of each channel that never changes in all windows of a person: its sensor may be broken or missing.

    Args:
        people: Statistics of each person's windows.
        channels: C names.
    """
    constant = {person: statistics.constant for person, statistics in people.items()}
    for index, channel in enumerate(channels):
        if whose := [person for person, found in constant.items() if found[index]]:
            ids = ", ".join(whose[:LISTED]) + (", ..." if len(whose) > LISTED else "")
            count = f"{len(whose)} of {len(people)} people" if len(people) > 1 else "person"
            LOG.warning("channel %s never changes in the windows of %s %s: is the sensor broken?", channel, count, ids)
