"""What a three-axis sensor measures and where on the body it is worn, in a closed vocabulary.

An encoder of single sensors has weights for each word, so the words are the same for everybody: a new one changes the
shape of the weights. Its input is standardised by kind, not by channel.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shared.data.spec import InputSpec
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Meta
from shared.errors import UserError
from shared.plausible import SENSORS

KINDS = {"total_acc": 0.65, "body_acc": 0.25, "gyro": 1.0, "mag": 30.0}
"""Kinds of sensor, each with the usual root mean square of an axis, in the unit of ``SENSORS``: it stands in where
nobody has measured one."""

PLACES = ("", "head", "torso", "back", "waist", "arm", "wrist", "hand", "pocket", "leg", "ankle", "foot")
"""Where a sensor is worn; "" is unsaid. An arm is an upper or a lower one, and a leg a lower one: "pocket" is at the
thigh."""

SIDES = ("", "left", "right")

SYNONYMS = {
    "chest": "torso",
    "belt": "waist",
    "hip": "waist",
    "upper_arm": "arm",
    "forearm": "arm",
    "thigh": "pocket",
    "shin": "leg",
}


class Sensor(NamedTuple):
    """A three-axis sensor: its kind, place and side, by their numbers in the vocabulary, and its x, y, z channels."""

    kind: int
    place: int
    side: int
    channels: tuple[int, int, int]

    @property
    def word(self) -> str:
        """Its kind."""
        return list(KINDS)[self.kind]

    @property
    def name(self) -> str:
        """As its channels are called, without the axis."""
        return "_".join(filter(None, (SIDES[self.side], PLACES[self.place], self.word)))


def worn_sensors(spec: InputSpec) -> tuple[Sensor, ...]:
    """Return the three-axis sensors that all channels belong to, in channel order.

    Raises:
        UserError: A channel of no complete three-axis sensor, a unit other than that of its kind, an unknown place, or
            images.
    """
    if spec.rate is None:
        raise UserError("expected windows of worn sensors, found images")
    triads = spec.triads
    taken = {channel for triad in triads for channel in triad.channels}
    if rest := [name for channel, name in enumerate(spec.channels) if channel not in taken]:
        raise UserError(
            f"{_some(rest)} belong to no three-axis sensor; expected channels such as "
            f"wrist_total_acc_x, with y and z, of the kinds {', '.join(KINDS)}"
        )
    for triad in triads:
        for channel in triad.channels:
            if spec.units[channel] != (unit := SENSORS[triad.kind].unit):
                raise UserError(f"{spec.channels[channel]} is in {spec.units[channel]}, expected {unit}")
    return tuple(Sensor(list(KINDS).index(t.kind), *_place(t.place), t.channels) for t in triads)


def everybodys(specs: Sequence[InputSpec]) -> InputSpec:
    """Return a spec with every sensor that some spec has, in the order of the vocabulary, and the time of the first.

    Raises:
        UserError: As ``worn_sensors``.
    """
    seen = {sensor._replace(channels=(0, 1, 2)) for spec in specs for sensor in worn_sensors(spec)}
    units = {f"{sensor.name}_{axis}": SENSORS[sensor.word].unit for sensor in sorted(seen) for axis in "xyz"}
    return InputSpec(channels=tuple(units), units=tuple(units.values()), size=specs[0].size, rate=specs[0].rate)


def in_common(metas: Sequence[Meta]) -> Meta:
    """Return what stands for the windows of everybody: all sensors, the names of all data sets, and no activities.

    Raises:
        UserError: As ``worn_sensors``.
    """
    names = " + ".join(sorted({meta.name for meta in metas}))
    return Meta(names, everybodys([meta.spec for meta in metas]), classes=())


def pooled_by_kind(people: Sequence[tuple[InputSpec, ChannelStatistics]]) -> ChannelStatistics:
    """Pool the statistics of people with differing sensors: one value for each of ``KINDS`` instead of each channel.

    An axis is taken to have mean 0, because where gravity points depends on how a device is worn. What is pooled is the
    mean square of all axes of a kind, each sample counting alike; of a kind that nobody has, the usual one.

    Args:
        people: What each has, and the statistics of its channels.

    Raises:
        UserError: As ``worn_sensors``.
    """
    count, squares = np.zeros(len(KINDS)), np.zeros(len(KINDS))
    for spec, statistics in people:
        for sensor in worn_sensors(spec):
            count[sensor.kind] += statistics.count * len(sensor.channels)
            squares[sensor.kind] += statistics.squares[list(sensor.channels)].sum()
    usual = np.square(list(KINDS.values()))
    mean = np.divide(squares, count, out=usual, where=count > 0)
    samples = sum(statistics.count for _, statistics in people)
    return ChannelStatistics(samples, np.zeros(len(KINDS)), samples * mean)


def of_channels(by_kind: ChannelStatistics, spec: InputSpec) -> ChannelStatistics:
    """Return what ``pooled_by_kind`` gave, for the channels of a spec.

    Raises:
        UserError: As ``worn_sensors``; or not one value a kind.
    """
    if len(by_kind.total) != len(KINDS):
        raise UserError(f"expected sums of {len(KINDS)} kinds of sensor, found {len(by_kind.total)}")
    kinds = np.zeros(len(spec.channels), dtype=np.int64)
    for sensor in worn_sensors(spec):
        kinds[list(sensor.channels)] = sensor.kind
    return ChannelStatistics(by_kind.count, by_kind.total[kinds], by_kind.squares[kinds])


def _place(text: str) -> tuple[int, int]:
    """Return the numbers of the place and of the side that a channel's name begins with, as in ``left_wrist``."""
    words = text.split("_")
    sides = [word for word in words if word in SIDES[1:]]
    place = "_".join(word for word in words if word not in SIDES[1:])
    place = SYNONYMS.get(place, place)
    if place not in PLACES or len(sides) > 1:
        known = ", ".join(filter(None, (*PLACES, *SYNONYMS)))
        raise UserError(f"unknown place {text!r}; expected none or one of {known}, with left or right where it matters")
    return PLACES.index(place), SIDES.index(sides[0] if sides else "")


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
