"""What one example is: its channels, their units, its size and its rate."""

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from shared.errors import UserError
from shared.plausible import Triad, find_triads
from shared.settings import Settings

Name = Annotated[str, Field(min_length=1, max_length=100)]
"""Of a data set, a channel or a unit: another machine may have sent it, and it is written to logs and cards."""

LARGEST = 1_000_000
"""Most samples, or pixels, of a channel. This and the number of channels keep an encoder that is built for a spec from
elsewhere in memory."""


class Time(NamedTuple):
    """The time axis of a window: T samples at a rate (Hz)."""

    samples: int
    rate: float

    @property
    def seconds(self) -> float:
        """Length of a window (s)."""
        return self.samples / self.rate


class InputSpec(Settings):
    """What one example is; x of N examples has the shape (N, ``*shape``).

    Args:
        channels: C names, all different; ``[place_]total_acc_x``, ``[place_]body_acc_x``, ``[place_]gyro_x`` and
            ``[place_]mag_x`` (and y, z) are known as three-axis sensors, any other name is a channel of its own.
        units: C units, "g" for acceleration, "rad/s" for gyroscopes and "uT" for magnetometers.
        size: (T,) samples of a window, or (H, W) pixels of an image.
        rate: Samples per second (Hz) of a window; None of an image.
    """

    channels: tuple[Name, ...] = Field(min_length=1, max_length=1000)
    units: tuple[Name, ...]
    size: tuple[PositiveInt, ...] = Field(min_length=1, max_length=2)
    rate: PositiveFloat | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if twice := [name for name, count in Counter(self.channels).items() if count > 1]:
            raise ValueError(f"channels must be unique, found {', '.join(twice)} more than once")
        if len(self.units) != len(self.channels):
            raise ValueError(f"expected a unit for each of {len(self.channels)} channels, found {list(self.units)}")
        if prod(self.size) > LARGEST:
            raise ValueError(f"expected a size of at most {LARGEST} values a channel, found {_extent(self.size)}")
        if (len(self.size) == 1) != (self.rate is not None):
            raise ValueError(
                f"expected a rate (Hz) of windows, and none of images; found {_extent(self.size)} and rate {self.rate}"
            )
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, T) or (C, H, W)."""
        return (len(self.channels), *self.size)

    @property
    def triads(self) -> tuple[Triad, ...]:
        """The complete three-axis sensors among the channels, in channel order."""
        return find_triads(self.channels)

    @property
    def time(self) -> Time:
        """The time axis.

        Raises:
            UserError: There is none.
        """
        if self.rate is None:
            raise UserError(f"expected windows with a time axis, found images of {_extent(self.size)}")
        return Time(self.size[0], self.rate)

    @property
    def extent(self) -> str:
        """Size, and rate if there is one, in words."""
        if self.rate is None:
            return _extent(self.size)
        return f"{_extent(self.size)} at {self.rate:g} Hz ({self.time.seconds:g} s)"

    def difference(self, found: "InputSpec") -> str:
        """Say in words how another spec differs from this one, which is what is expected; "" if it does not."""
        words = []
        missing = [name for name in self.channels if name not in found.channels]
        unknown = [name for name in found.channels if name not in self.channels]
        if missing:
            words.append(f"missing channels: {', '.join(missing)}")
        if unknown:
            words.append(f"unknown channels: {', '.join(unknown)}")
        if not missing and not unknown and found.channels != self.channels:
            words.append(f"channels in the order {', '.join(found.channels)}, expected {', '.join(self.channels)}")
        units = dict(zip(found.channels, found.units, strict=True))
        words += [
            f"{channel} is in {units[channel]}, expected {unit}"
            for channel, unit in zip(self.channels, self.units, strict=True)
            if units.get(channel, unit) != unit
        ]
        if found.size != self.size:
            words.append(f"the size is {_extent(found.size)}, expected {_extent(self.size)}")
        if rates := self.rate_difference(found):
            words.append(rates)
        return "; ".join(words)

    def rate_difference(self, found: "InputSpec") -> str:
        """Say in words how the rate of another spec differs from this one's; "" if it does not, or one has none."""
        if found.rate and self.rate and found.rate != self.rate:
            return f"the rate is {found.rate} Hz, expected {self.rate} Hz"
        return ""


def with_spec(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a card of the time when it named channels, units, rate and samples one by one.

    They become its block ``spec``; whether they are there, and right, is left to the one who reads it.
    """
    values = dict(flat)
    spec: dict[str, Any] = {name: values.pop(name) for name in ("channels", "units", "rate") if name in values}
    if "samples" in values:
        spec["size"] = (values.pop("samples"),)
    return values | {"spec": spec}


def _extent(size: tuple[int, ...]) -> str:
    return f"{size[0]} samples" if len(size) == 1 else f"{' x '.join(map(str, size))} pixels"
