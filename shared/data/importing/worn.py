"""Which samples no worn sensor gives: zero or constant, still for an hour, or at the limit of what it can measure.

Needs numpy only, so that it can be used where there is no torch.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.plausible import find_triads

LONGEST_ZERO = 0.25
"""Total acceleration is zero for no longer than this (s): gravity is always there."""

STILL_BLOCK, STILL_BLOCKS, STILL = 60.0, 60, 0.013
"""A device lies on a table where for 60 minutes in a row no axis of its total acceleration has, within a minute (s), a
standard deviation above this (g): the limits of van Hees et al., PLoS ONE 6(7), 2011, e22922. Sleepers move more."""

CLIPPED_RUN = 3
"""Samples in a row that are equal to the largest or smallest of a recording, which a movement is not."""
LIMITS = {"total_acc": 1.5, "body_acc": 1.5, "gyro": 4.0}
"""Sensors cannot measure less than this (g, rad/s), so that what is equal and smaller is stillness."""


class Left(StrEnum):
    """Why a stretch is left out."""

    NOT_WORN = "zero or constant"
    TABLE = "still for an hour"
    CLIPPED = "clipped"
    APART = "not measured by all sensors"
    SHORT = "shorter than a window"


def not_worn(x: NDArray[np.float64], channels: Sequence[str], rate: float, seconds: float) -> NDArray[np.bool_]:
    """Return which samples no sensor measured: all channels are constant, or total acceleration is zero.

    Args:
        x: (N, C) at an even rate.
        channels: C names.
        rate: Samples per second (Hz).
        seconds: Noise moves some channel within this time.
    """
    constant: NDArray[np.bool_] = _run_lengths(x) >= seconds * rate
    for triad in find_triads(channels):
        if triad.kind == "total_acc":
            zero = (x[:, list(triad.channels)] == 0).all(axis=1)
            constant |= zero & (_run_lengths(zero[:, np.newaxis]) > LONGEST_ZERO * rate)
    return constant


def left_on_the_table(x: NDArray[np.float64], channels: Sequence[str], rate: float) -> NDArray[np.bool_]:
    """Return which samples lie in an hour without movement, by the total acceleration; none where there is none.

    Args:
        x: (N, C) in g, at an even rate.
        channels: C names.
        rate: Samples per second (Hz).
    """
    still = np.ones(len(x), np.bool_)
    block = round(STILL_BLOCK * rate)
    blocks = len(x) // block
    total = [list(triad.channels) for triad in find_triads(channels) if triad.kind == "total_acc"]
    if not total or blocks < STILL_BLOCKS:
        return ~still
    for columns in total:
        deviation = x[: blocks * block, columns].reshape(blocks, block, 3).std(axis=1)
        still[: blocks * block] &= np.repeat((deviation < STILL).all(axis=1), block)
    still[blocks * block :] = still[blocks * block - 1]
    return still & (_run_lengths(still[:, np.newaxis]) >= STILL_BLOCKS * block)


def clipped(x: NDArray[np.float64], channels: Sequence[str]) -> NDArray[np.bool_]:
    """Return which samples are at the limit of a three-axis sensor, several in a row.

    Args:
        x: (N, C) in g and rad/s.
        channels: C names.
    """
    found = np.zeros(len(x), np.bool_)
    for triad in find_triads(channels):
        for channel in triad.channels:
            values = x[:, channel]
            for limit in (values.max(), values.min()):
                if abs(limit) >= LIMITS[triad.kind]:
                    at = values == limit
                    found |= at & (_run_lengths(at[:, np.newaxis]) >= CLIPPED_RUN)
    return found


def _run_lengths(x: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many equal rows (N, C) in a row each row (N,) is one of."""
    run = np.concatenate([[0], (x[1:] != x[:-1]).any(axis=1).cumsum()])
    lengths: NDArray[np.int64] = np.bincount(run)[run]
    return lengths
