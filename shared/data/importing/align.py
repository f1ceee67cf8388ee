"""Samples at whatever times become even pieces without a gap, in which all sensors have one clock and one rate.

Needs numpy and scipy only, so that it can be used where there is no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import Akima1DInterpolator
from scipy.ndimage import median_filter, uniform_filter1d
from scipy.signal import resample_poly

from shared.data.importing.worn import Left, clipped, left_on_the_table, not_worn
from shared.errors import UserError
from shared.large import blocks

Floats = NDArray[np.float64]
Spans = list[tuple[float, float]]
"""From when to when (s)."""

LONGEST_GAP = 0.25
"""Samples are interpolated where they are lost for no longer than this (s), half of a walker's step."""
LOST_STEPS = 1.5
"""A sample is lost where a step is longer than this many usual ones."""
NEAR_STEPS = 25
"""Steps whose median is the usual step there, so that a rate that changes loses no samples."""
ROUNDED_STEPS = 5
"""Steps whose mean is free of the rounding of time stamps."""
UNEVEN_STEP = 0.25
"""A step is uneven where it differs from the usual one, or several of them, by more than this share of one."""
UNEVEN_SHARE = 0.01
"""A clock is even where no more than this share of its steps is uneven."""
RATE_CHANGE = 1.2
"""The rate changes where it is somewhere higher than usual by this factor."""
RATE_TOLERANCE = 0.01
"""Rates that differ by less than this share are the same: devices keep their nominal rate no better."""
LOWEST_SHARE, HIGHEST_SHARE = 0.4, 100.0
"""Rates that can be resampled, as multiples of the target: lower ones have lost too much of a movement."""
OUT_OF_ORDER, OUT_OF_ORDER_SECONDS = 0.01, 1.0
"""Samples are sorted where no more than this share comes late, by no more than this time; else a clock was set back."""
ABSOLUTE = 1e8
"""Times above this (s) count from 1970."""
INTERPOLATED, AROUND = 2**16, 5
"""Moments at which samples are interpolated at a time, and samples on each side that are taken too."""
REPEATED = 0.01
"""Share of samples that may have the time of the one before them; the later one is dropped."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Samples of sensors that share a clock.

    Args:
        name: What to call it in a message.
        time: (N,) seconds, NaN where it is lost.
        x: (N, C), NaN where a value is lost.
        channels: C names.
    """

    name: str
    time: Floats
    x: Floats
    channels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a recording without a gap.

    Args:
        start: Time of the first sample (s).
        rate: Samples per second (Hz).
        x: (N, C) of all channels.
        filled: bool (N,), whether a sample was interpolated where others are lost.
    """

    start: float
    rate: float
    x: Floats
    filled: NDArray[np.bool_]

    @property
    def time(self) -> Floats:
        """(N,) seconds."""
        return self.start + np.arange(len(self.x)) / self.rate


@dataclass
class Found:
    """What was found in a recording, for the quality page and for messages.

    Args:
        start: Time of its first sample (s).
        seconds: From its first to its last sample.
        rates: Samples per second (Hz), by stream.
        uneven: Share of steps that are uneven, by stream.
        filled: Samples that were lost and interpolated.
        sorted: Samples that came late and were put in order.
        repeated: Samples that were dropped because they repeat the time of another.
        gaps: Where nothing was recorded for long.
        left: What was recorded and left out, by reason.
    """

    start: float = 0.0
    seconds: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)
    uneven: dict[str, float] = field(default_factory=dict)
    filled: int = 0
    sorted: int = 0
    repeated: int = 0
    gaps: Spans = field(default_factory=list)
    left: dict[Left, Spans] = field(default_factory=dict)


def align(streams: Sequence[Stream], rate: float, seconds: float) -> tuple[list[Piece], Found]:
    """Bring sensors to one clock and one rate.

    Args:
        streams: Of one recording, in physical units (g, rad/s).
        rate: Target (Hz). A single stream with an even clock keeps its own rate where it is the same within 1 %.
        seconds: Of a window: pieces that are shorter are left out, and what is constant for this long was not measured.

    Returns:
        The pieces, in time order, whose channels are those of the streams one after another; and what was found.

    Raises:
        UserError: Time goes back, stands still, is in another unit or is too slow; or there are too few samples.
    """
    found = Found()
    clocks = [_clock(_in_order(stream, found), rate, found) for stream in streams]
    spans = [_covered(clock, seconds, found) for clock in clocks]
    common = spans[0]
    for more in spans[1:]:
        common = _both(common, more)
    found.start = min(float(clock.time[0]) for clock in clocks)
    found.seconds = max(float(clock.time[-1]) for clock in clocks) - found.start
    found.filled = sum(clock.filled for clock in clocks)
    found.left[Left.APART] = _apart(clocks)
    long = [span for span in common if span[1] - span[0] >= seconds - 1.5 / rate]  # n samples span n - 1 steps
    found.left[Left.SHORT] = [span for span in common if span not in long]
    return [_piece(clocks, start, end, rate) for start, end in long], found


@dataclass(frozen=True, eq=False)
class _Clock:
    """A stream in the order of time, with its steps.

    Args:
        stream: Its samples.
        steps: (N - 1,) seconds from each sample to the next.
        usual: (N - 1,) the usual step around each.
        rate: Samples per second (Hz).
        even: Whether nearly all steps are usual ones, or several at once.
    """

    stream: Stream
    steps: Floats
    usual: Floats
    rate: float
    even: bool

    @property
    def time(self) -> Floats:
        return self.stream.time

    @property
    def lost(self) -> NDArray[np.bool_]:
        """Which steps (N - 1,) pass over lost samples."""
        return self.steps > LOST_STEPS * self.usual

    @property
    def filled(self) -> int:
        """Samples that are lost in gaps short enough to be filled."""
        short = self.lost & (self.steps <= LONGEST_GAP)
        return int((np.rint(self.steps / self.usual) - 1)[short].sum())


def _in_order(stream: Stream, found: Found) -> Stream:
    """Return the samples that are whole, in the order of time, each time once."""
    whole = np.isfinite(stream.time) & np.isfinite(stream.x).all(axis=1)
    time, x = stream.time[whole], stream.x[whole]
    steps = np.diff(time)
    if (late := steps < 0).any():
        row = int(late.argmax())
        if late.mean() > OUT_OF_ORDER or -steps.min() > OUT_OF_ORDER_SECONDS:
            raise UserError(
                f"{stream.name}: time goes back from {time[row]:.12g} to {time[row + 1]:.12g} s at sample {row + 2}; "
                "where a file holds several recordings, give each a file"
            )
        order = np.argsort(time, kind="stable")
        time, x, found.sorted = time[order], x[order], found.sorted + int(late.sum())
    again = np.append(False, np.diff(time) == 0)
    if again.any():
        same = again & np.append(False, (x[1:] == x[:-1]).all(axis=1))
        differing = int((again & ~same).sum())
        if differing > REPEATED * len(time):
            raise UserError(
                f"{stream.name}: {differing} of {len(time)} samples have the time of the one before them, and other "
                "values; expected a time of its own for each sample"
            )
        time, x, found.repeated = time[~again], x[~again], found.repeated + int(again.sum())
    if len(time) < NEAR_STEPS:
        raise UserError(
            f"{stream.name} is too short: expected at least {NEAR_STEPS} samples with a time and values of "
            f"{', '.join(stream.channels)}, found {len(time)}"
        )
    return Stream(stream.name, time, x, stream.channels)


def _clock(stream: Stream, target: float, found: Found) -> _Clock:
    """Find the usual steps of a stream, once its rate is one that can be resampled."""
    steps = np.diff(stream.time)
    median = float(np.median(steps))
    lowest, highest = LOWEST_SHARE * target, HIGHEST_SHARE * target
    if not lowest <= 1 / median <= highest:
        factors = [factor for factor in (1e3, 1e6, 1e9, 1e-3, 1e-6, 1e-9) if lowest <= factor / median <= 5 * target]
        raise UserError(
            f"{stream.name}: windows at {target:g} Hz need samples at {lowest:g} to {highest:g} Hz, found one every "
            f"{median:.6g} s" + (f"; its unit of time looks wrong by a factor of {factors[0]:g}" if factors else "")
        )
    # Means of a few, because time stamps that are rounded coarsely differ by a step or more from one to the next.
    usual: Floats = median_filter(uniform_filter1d(steps, ROUNDED_STEPS), NEAR_STEPS, mode="nearest")
    rate = _mean_rate(steps, usual)
    off = np.abs(steps - np.rint(steps / usual) * usual)[steps <= LONGEST_GAP]
    uneven = float((off > UNEVEN_STEP * usual[steps <= LONGEST_GAP]).mean()) if len(off) else 0.0
    found.rates[stream.name], found.uneven[stream.name] = rate, uneven
    return _Clock(stream, steps, usual, rate, uneven <= UNEVEN_SHARE)


def _covered(clock: _Clock, seconds: float, found: Found) -> Spans:
    """Return from when to when a worn sensor measured without a gap."""
    time, x, channels = clock.time, clock.stream.x, clock.stream.channels
    bad = np.zeros(len(time), np.bool_)
    for reason, mask in {
        Left.NOT_WORN: not_worn(x, channels, clock.rate, seconds),
        Left.TABLE: left_on_the_table(x, channels, clock.rate),
        Left.CLIPPED: clipped(x, channels),
    }.items():
        found.left.setdefault(reason, []).extend(_runs(time, mask & ~bad))
        bad |= mask
    gap = clock.lost & (clock.steps > LONGEST_GAP)
    found.gaps += [(float(time[row]), float(time[row + 1])) for row in np.flatnonzero(gap)]
    rows = np.flatnonzero(~bad)
    if not len(rows):
        return []
    cuts = np.flatnonzero((np.diff(rows) > 1) | gap[rows[:-1]]) + 1
    return [(float(time[part[0]]), float(time[part[-1]])) for part in np.split(rows, cuts)]


def _runs(time: Floats, mask: NDArray[np.bool_]) -> Spans:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return [(float(time[first]), float(time[end - 1])) for first, end in edges.reshape(-1, 2)]


def _both(first: Spans, second: Spans) -> Spans:
    """Return what lies in a span of each, both in time order."""
    shared, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if start < end:
            shared.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return shared


def _apart(clocks: Sequence[_Clock]) -> Spans:
    """Return what some sensors measured before the last began and after the first ended."""
    starts, ends = [float(clock.time[0]) for clock in clocks], [float(clock.time[-1]) for clock in clocks]
    if max(starts) >= min(ends):
        return [(min(starts), max(ends))]
    return [(a, b) for a, b in ((min(starts), max(starts)), (min(ends), max(ends))) if b - a > LONGEST_GAP]


def _piece(clocks: Sequence[_Clock], start: float, end: float, target: float) -> Piece:
    """Return what all sensors measured from start to end at the target rate."""
    parts, rate = [], target
    for clock in clocks:
        first = int(np.searchsorted(clock.time, start, side="right")) - 1
        last = int(np.searchsorted(clock.time, end, side="left"))
        rate, ratio = _rate_within(clock.steps[first:last], clock.usual[first:last]), Fraction(1)
        if abs(rate / target - 1) >= RATE_TOLERANCE:
            ratio = Fraction(target / rate).limit_denominator(1000)
        elif len(clocks) > 1 or not clock.even:
            rate = target
        moments = start + np.arange(int((end - start) * rate + 1e-6) + 1) / rate
        within = np.clip(moments, clock.time[first], clock.time[last])
        x = interpolated(clock.time[first : last + 1], clock.stream.x[first : last + 1], within)
        parts.append(x if ratio == 1 else resample_poly(x, ratio.numerator, ratio.denominator, axis=0, padtype="edge"))
        rate *= float(ratio)
    length = min(*map(len, parts), int((end - start) * rate + 1e-6) + 1)  # a filter adds some at the end
    moments = start + np.arange(length) / rate
    filled = np.zeros(length, np.bool_)
    for clock in clocks:
        before = np.clip(np.searchsorted(clock.time, moments, side="right") - 1, 0, len(clock.steps) - 1)
        away = np.minimum(moments - clock.time[before], clock.time[before + 1] - moments)
        filled |= clock.lost[before] & (away > clock.usual[before] / 2)
    return Piece(start, rate, np.concatenate([part[:length] for part in parts], axis=1), filled)


def interpolated(time: Floats, x: Floats, moments: Floats) -> Floats:
    """Return samples at other moments, (M, C), by the cubics of Akima ("A new method of interpolation", 1970).

    They are made of some samples at a time, with a few more at each end: a cubic depends on three samples on each side.

    Args:
        time: (N,) seconds, ascending.
        x: (N, C).
        moments: (M,) seconds, ascending, none outside ``time``.
    """
    parts = []
    for some in blocks(moments, INTERPOLATED):
        first = max(0, int(np.searchsorted(time, some[0])) - AROUND)
        last = int(np.searchsorted(time, some[-1])) + AROUND
        parts.append(Akima1DInterpolator(time[first:last], x[first:last])(some))
    return np.concatenate(parts)


def _rate_within(steps: Floats, usual: Floats) -> float:
    """Return the rate (Hz) of a piece, the highest where it changes."""
    mean = _mean_rate(steps, usual)
    highest = 1 / float(np.quantile(usual, 0.05))
    return highest if highest > RATE_CHANGE * mean else mean


def _mean_rate(steps: Floats, usual: Floats) -> float:
    """Return samples per second (Hz), those that are lost counted, gaps not."""
    lost = steps > LOST_STEPS * usual
    inside = ~lost | (steps <= LONGEST_GAP)
    return float(np.where(lost, np.rint(steps / usual), 1)[inside].sum() / steps[inside].sum())
