"""Does a data set fit what is expected, and what has to be done so that it does?

``conform`` picks and orders channels, converts units, brings windows to another rate, and keeps the middle of longer
ones. What cannot be brought to fit is refused in words.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from shared.data.spec import InputSpec
from shared.data.windows import Windows
from shared.errors import UserError
from shared.large import blocks, stack
from shared.plausible import SENSORS, axis_of

LOG = logging.getLogger(__name__)

FINEST = 1000
"""Rates are taken to be in a ratio of whole numbers up to this."""

NAME_ONE = "say which by data.channels"

Floats = NDArray[np.float32]


def conform(windows: Windows, spec: InputSpec) -> Windows:
    """Bring windows to a spec; as many come out, with the same labels and people.

    A channel is found by its name. An axis of a known sensor is found without its place too, where the place is unsaid
    on one side and there is one such sensor. Features that came with the data set belong to its own windows: they stay
    only where nothing changes.

    Args:
        windows: Of a data set.
        spec: What is expected.

    Raises:
        UserError: Channels that are missing or are measured at several places, units that cannot be converted, windows
            that are too short, or images where windows are expected.
    """
    own = windows.meta.spec
    if own == spec:
        return windows
    rows, complaints = locate(spec.channels, own.channels)
    factors = [factor(own.units[row], unit) for row, unit in zip(rows, spec.units, strict=False)]
    complaints += [
        f"{own.channels[row]} is in {own.units[row]}, expected {unit}"
        for row, unit, factor in zip(rows, spec.units, factors, strict=False)
        if factor is None and not complaints
    ]
    complaints += _misfit_of_size(own, spec)
    if complaints:
        raise UserError(f"the windows of {windows.meta.name} cannot be brought to it: {'; '.join(complaints)}")
    scale = np.array(factors, np.float32).reshape(-1, *[1] * len(own.size))

    def fitted(x: Floats) -> Floats:
        scaled = x[:, rows] * scale
        return scaled if spec.rate is None else _middle(_resample(scaled, own, spec), spec.size[0])

    if changes := _changes(own, spec, rows):
        LOG.warning("the windows of %s are changed to fit: %s", windows.meta.name, "; ".join(changes))
    return replace(
        windows,
        x=stack(map(fitted, blocks(windows.x)), spec.shape, np.float32),
        meta=replace(windows.meta, spec=spec, feature_names=()),
        features=None,
    )


def common_spec(specs: Sequence[InputSpec]) -> InputSpec:
    """Return the first spec with those of its channels that every other spec has too, found as ``conform`` finds them.

    Raises:
        UserError: No channel is in all of them, or one of them would stand for several.
    """
    first, *others = specs
    channels = [name for name in first.channels if all(_find(name, other.channels) for other in others)]
    if not channels:
        heard = "; ".join(", ".join(spec.channels) for spec in specs)
        raise UserError(f"data sets that are used together need a channel in common, found {heard}")
    for other in others:
        if complaints := locate(channels, other.channels)[1]:
            raise UserError(
                f"{'; '.join(complaints)}: name the channels of one place by data.channels, or one data set by "
                "data.sets=[] data.name=NAME"
            )
    return pick(first, channels)


def at_rate(spec: InputSpec, rate: float) -> InputSpec:
    """Return the spec that windows have once they are brought to another rate (Hz)."""
    ratio = Fraction(rate / spec.time.rate).limit_denominator(FINEST)
    return spec if ratio == 1 else spec.model_copy(update={"rate": rate, "size": (math.ceil(spec.size[0] * ratio),)})


def pick(spec: InputSpec, channels: Sequence[str]) -> InputSpec:
    """Return a spec with these of its channels, in this order and by these names.

    Raises:
        UserError: A channel that is not there, or is measured at several places.
    """
    rows, complaints = locate(channels, spec.channels)
    if complaints:
        raise UserError(f"{'; '.join(complaints)}; there are {', '.join(spec.channels)}")
    return spec.model_copy(update={"channels": tuple(channels), "units": tuple(spec.units[row] for row in rows)})


def _resample(x: Floats, own: InputSpec, spec: InputSpec) -> Floats:
    """Bring windows (N, C, T) from the rate of one spec to that of another, without aliases."""
    ratio = Fraction(spec.time.rate / own.time.rate).limit_denominator(FINEST)
    if ratio == 1:
        return x
    from scipy.signal import resample_poly  # slow to import, and most processes need none of it

    even: Floats = resample_poly(x, ratio.numerator, ratio.denominator, axis=2, padtype="line").astype(np.float32)
    return even


def _middle(x: Floats, samples: int) -> Floats:
    first = (x.shape[2] - samples) // 2
    return np.ascontiguousarray(x[:, :, first : first + samples])


def locate(wanted: Sequence[str], channels: Sequence[str], remedy: str = NAME_ONE) -> tuple[list[int], list[str]]:
    """Return where each wanted channel is, and complaints about those that are nowhere or at several places.

    Args:
        wanted: Names.
        channels: Names of those that are there.
        remedy: What to do where one may be any of several.
    """
    found = {name: _find(name, channels) for name in wanted}
    missing = [name for name, names in found.items() if not names]
    complaints = [f"missing channels: {', '.join(missing)}"] if missing else []
    complaints += [
        f"{name} may be any of {', '.join(names)}: {remedy}" for name, names in found.items() if len(names) > 1
    ]
    if not complaints:
        shared = [name for name, (one,) in found.items() if sum([one] == names for names in found.values()) > 1]
        complaints = [f"one channel would stand for each of {', '.join(shared)}"] if shared else []
    return [channels.index(names[0]) for names in found.values() if names], complaints


def _find(name: str, channels: Sequence[str]) -> list[str]:
    """Return the channels that a name may stand for."""
    if name in channels:
        return [name]
    wanted = axis_of(name)
    if wanted is None:
        return []
    named = {channel: axis_of(channel) for channel in channels}
    return [
        channel
        for channel, axis in named.items()
        if axis and (axis.kind, axis.axis) == (wanted.kind, wanted.axis) and "" in (axis.place, wanted.place)
    ]


def factor(unit: str, wanted: str) -> float | None:
    """Return what numbers in one unit are multiplied by to be in another; None where that is unknown."""
    if unit == wanted:
        return 1.0
    for sensor in SENSORS.values():
        per_unit = {sensor.unit: 1.0, **sensor.others}
        if unit in per_unit and wanted in per_unit:
            return per_unit[wanted] / per_unit[unit]
    return None


def _misfit_of_size(own: InputSpec, spec: InputSpec) -> list[str]:
    if (own.rate is None) != (spec.rate is None):
        kinds = ["images" if one.rate is None else "windows with a time axis" for one in (own, spec)]
        return [f"they are {kinds[0]}, expected {kinds[1]}"]
    if own.rate is None:
        return [] if own.size == spec.size else [f"images are {_pixels(own)}, expected {_pixels(spec)}"]
    ratio = Fraction(spec.time.rate / own.time.rate).limit_denominator(FINEST)
    if math.ceil(own.size[0] * ratio) < spec.size[0]:
        return [f"windows are of {own.time.seconds:g} s, expected at least {spec.time.seconds:g} s"]
    return []


def _pixels(spec: InputSpec) -> str:
    return " x ".join(map(str, spec.size)) + " pixels"


def _changes(own: InputSpec, spec: InputSpec, rows: Sequence[int]) -> list[str]:
    """Say what is done beyond a choice of channels."""
    changes = [
        f"{own.channels[row]} from {own.units[row]} to {unit}"
        for row, unit in zip(rows, spec.units, strict=True)
        if own.units[row] != unit
    ]
    if own.rate != spec.rate:
        changes.append(f"from {own.rate:g} to {spec.rate:g} Hz")
    if own.rate is not None and not np.isclose(own.time.seconds, spec.time.seconds):
        changes.append(f"the middle {spec.time.seconds:g} s of {own.time.seconds:g} s")
    return changes
