"""Which channels are a three-axis sensor, and are their numbers in the units that they are said to be in?

Recordings and data sets are checked alike. Needs numpy only, so that it can be used where there is no torch.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.errors import UserError
from shared.large import blocks


class Plausible(NamedTuple):
    """Magnitudes that a sensor worn by a person can measure.

    Args:
        unit: That it must be in.
        expected: Magnitude, in words.
        quantile: Of all magnitudes, what lies between ``low`` and ``high``.
        low: In our unit.
        high: In our unit.
        others: Units that others use, per unit of ours.
    """

    unit: str
    expected: str
    quantile: float
    low: float
    high: float
    others: dict[str, float]


ACCELERATION = {"m/s²": 9.80665, "mg": 1000.0}
FIELD = {"mT": 1e-3, "gauss": 1e-2, "nT": 1e3}
SENSORS = {
    "total_acc": Plausible("g", "with a median magnitude of about 1 (0.5 to 5)", 0.5, 0.5, 5.0, ACCELERATION),
    "body_acc": Plausible("g", "with a median magnitude below 3", 0.5, 0.0, 3.0, ACCELERATION),
    "gyro": Plausible("rad/s", "with 95 % of the magnitudes below 20", 0.95, 0.0, 20.0, {"degrees/s": 180 / math.pi}),
    "mag": Plausible("uT", "with a median magnitude of about 50 (5 to 300)", 0.5, 5.0, 300.0, FIELD),
}
"""By kind of three-axis sensor (acceleration with gravity, acceleration without, rotation rate, magnetic field), the
surest first. An accelerometer at rest measures gravity, 1 g. At a wrist in quick exercises half of the magnitudes lie
above 2.5 g, and 5 % of the rotation rates above 10 rad/s; the limits leave room for more. The field of the earth is 22
to 67 uT, and most rooms have iron in them."""

_AXIS = re.compile(rf"(?:(?P<place>\w+)_)?(?P<kind>{'|'.join(SENSORS)})_(?P<axis>[xyz])")


@dataclass(frozen=True)
class Triad:
    """A three-axis sensor: what it measures, where it is worn ("" if unsaid) and its x, y, z channels."""

    kind: str
    place: str
    channels: tuple[int, int, int]

    @property
    def device(self) -> str:
        """The part that measures: total and body acceleration are of one accelerometer."""
        return "acc" if self.kind.endswith("acc") else self.kind


class Axis(NamedTuple):
    """What the name of a channel says: the kind of its sensor, where it is worn ("" if unsaid), and which axis."""

    kind: str
    place: str
    axis: str


def axis_of(channel: str) -> Axis | None:
    """Return what the name of a channel says; None where it is no axis of a known kind of sensor."""
    match = _AXIS.fullmatch(channel)
    return Axis(match["kind"], match["place"] or "", match["axis"]) if match else None


def find_triads(channels: Sequence[str]) -> tuple[Triad, ...]:
    """Return the complete three-axis sensors among channels, in channel order."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for index, name in enumerate(channels):
        if named := axis_of(name):
            found.setdefault((named.kind, named.place), {})[named.axis] = index
    return tuple(
        Triad(kind, place, (axes["x"], axes["y"], axes["z"])) for (kind, place), axes in found.items() if len(axes) == 3
    )


MOST_JUDGED = 2**22
"""Samples that are judged, about: of longer recordings it is every so many-th."""

DIVIDE = "divide it by {factor:.5f}"


def check_units(source: str, channels: Sequence[str], x: NDArray[np.floating[Any]], remedy: str = DIVIDE) -> None:
    """Refuse magnitudes that no human movement has in the sensors' units; name the unit that they look like.

    Only three-axis sensors can be judged. People who sit still turn so slowly that degrees per second go unnoticed.

    Args:
        source: What to call the numbers in a message.
        channels: C names.
        x: (N, C, T) windows of one person, or one long recording (1, C, T).
        remedy: What to do where it looks like another ``{unit}``, of which ours has ``{factor}``.

    Raises:
        UserError: Names the sensor, what was expected and what was found.
    """
    kinds = list(SENSORS)
    every = max(1, x.size // x.shape[1] // MOST_JUDGED)
    for triad in sorted(find_triads(channels), key=lambda triad: kinds.index(triad.kind)):
        limits = SENSORS[triad.kind]
        axes = (block[:, list(triad.channels), ::every].astype(np.float64) for block in blocks(x))
        magnitude = np.concatenate([np.linalg.norm(part, axis=1).ravel() for part in axes])
        value = float(np.quantile(magnitude, limits.quantile))
        if not limits.low <= value <= limits.high:
            others = (unit for unit, factor in limits.others.items() if limits.low <= value / factor <= limits.high)
            unit = next(others, None)
            found = "" if unit is None else remedy.format(unit=unit, factor=limits.others[unit])
            hint = "" if unit is None else f": it looks like {unit}; {found}"
            name = channels[triad.channels[0]].removesuffix("_x")
            raise UserError(f"{source}: {name} must be in {limits.unit}, {limits.expected}, found {value:.3g}{hint}")
