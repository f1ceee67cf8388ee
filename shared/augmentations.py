"""Random transformations of a batch of sensor windows, each one line in ``TRANSFORMS``.

A transform takes raw windows (N, C, T) in physical units, a generator on the device of the windows, and what
the channels are; it returns new windows of the same shape and leaves its input as it was. Everything random
is drawn for each window separately and for the whole batch at once, so that the same generator state always
gives the same result.

Sitting and standing differ in the direction of gravity alone, so each transform says what it keeps, and
``KEEPS_GRAVITY`` lists those that leave the window mean of the total acceleration as it was. *Deviation* below
is what is left of a channel after its window mean.

Jitter, scaling, rotation, permutation and the two warps follow Um et al. ("Data augmentation of wearable
sensor data for Parkinson's disease monitoring using convolutional neural networks", 2017), here in forms that
respect gravity and the physics of one rigid body carrying several sensors.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn.functional import normalize

from shared.data.spec import InputSpec
from shared.errors import choose
from shared.plausible import Triad
from shared.settings import Settings

NOISE = (0.02, 0.15)
"""Standard deviation of ``jitter``, in units of each channel's standard deviation over the training data."""

GAIN = (0.7, 1.4)
"""Factor of ``scale``."""

GAIN_LOG_STD = 0.3
"""Strength of the gain curve of ``magnitude_warp``: standard deviation of its logarithm."""

SPEED_LOG_STD = 0.4
"""Strength of ``time_warp``: standard deviation of the logarithm of the local speed."""

CURVE_WAVES = 4
"""Half waves that a smooth random curve has in a window, at most."""

TILT_DEGREES = 30.0
"""Largest angle of ``tilt``."""

SEGMENTS = 4
"""Segments of ``permute``."""

CROP = (0.5, 1.0)
"""Share of the window that ``resize_crop`` keeps."""

MASK = (0.1, 0.3)
"""Share of the window that ``mask_time`` blanks."""

CUTOFF_HZ = (2.0, 8.0)
"""Cut-off of ``smooth`` (Hz)."""

OCTAVE_HZ = (0.5, 8.0)
"""Lower end of the octave that ``drop_octave`` removes (Hz)."""


@dataclass(frozen=True, eq=False)
class Channels:
    """What a transform must know of the C channels.

    Args:
        spec: Their rate, and the three-axis sensors among them; other channels are sensors of their own.
        std: (C,) standard deviation of each channel over the training data, on the device of the windows.
    """

    spec: InputSpec
    std: Tensor


Transform = Callable[[Tensor, Generator, Channels], Tensor]


class ViewSettings(Settings):
    """How a view of a window is made, for all tasks that compare views.

    Which transformations keep what matters depends on the data, not on the task.

    Args:
        transforms: Names of transforms of the kind of input (``shared.transforms``), applied in this order.
        reorient: How each window of a batch is turned before the views of all tasks are made of it, as if the device
            had been worn another way; a name of ``TRANSFORMS``. None: windows are seen as they were recorded.
    """

    transforms: tuple[str, ...] = Field(min_length=1)
    reorient: Literal["rotate", "tilt", "rotate_about_gravity"] | None


def compose(names: Sequence[str], transforms: Mapping[str, Transform] | None = None) -> Transform:
    """Return the transform that applies the named ones in order; without names, windows pass as they are.

    Args:
        names: Keys of ``transforms``.
        transforms: To choose from; None: those of sensors.

    Raises:
        UserError: A name that is not among them.
    """
    table = TRANSFORMS if transforms is None else transforms
    steps = [choose("augmentation", table, name) for name in names]

    def apply(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
        for step in steps:
            x = step(x, generator, channels)
        return x

    return apply


def sensors_of(channels: Channels, count: int) -> list[int]:
    """Return for each of ``count`` channels the number of its sensor, from 0.

    Total and body acceleration of a place come from one accelerometer.
    """
    sensor = {c: (triad.place, triad.device) for triad in channels.spec.triads for c in triad.channels}
    keys = [sensor.get(c, c) for c in range(count)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def jitter(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Add white noise of one strength per window; keeps every channel's window mean."""
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    noise -= noise.mean(-1, keepdim=True)
    strength = _uniform(x, generator, (len(x), 1, 1), *NOISE)
    return torch.addcmul(x, noise, strength * channels.std.to(x)[:, None])


def scale(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Multiply the deviation by one gain per window and sensor.

    Keeps every channel's window mean, the direction of each sensor's deviation at each moment, and so total
    minus body acceleration up to the same gain.
    """
    sensors = sensors_of(channels, x.shape[1])
    gain = _uniform(x, generator, (len(x), max(sensors) + 1), *GAIN)[:, sensors, None]
    return torch.lerp(x.mean(-1, keepdim=True), x, gain)


def magnitude_warp(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Multiply the deviation by a smooth positive gain curve, the same for all channels of a window.

    Keeps every channel's window mean; what the curve adds to the mean is taken off again.
    """
    gain = (GAIN_LOG_STD * _curve(x, generator)).exp()
    mean = x.mean(-1, keepdim=True)
    warped = (x - mean) * gain[:, None]
    return warped + (mean - warped.mean(-1, keepdim=True))


def rotate(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Rotate all sensors of a place by the same uniform random rotation.

    Keeps the norm of each sensor at each moment and the angles between sensors of a place; gravity points
    anywhere afterwards.
    """
    return mix_axes(x, channels, lambda triads: random_rotations(x, generator, len(x)))


def tilt(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Rotate all sensors of a place by up to ``TILT_DEGREES`` about a random axis: a device worn askew.

    Keeps the norm of each sensor at each moment; gravity moves by no more than that angle.
    """

    def draw(triads: list[Triad]) -> Tensor:
        axis = torch.randn(len(x), 3, generator=generator, dtype=x.dtype, device=x.device)
        angle = _uniform(x, generator, (len(x), 1), 0.0, math.radians(TILT_DEGREES))
        return _rotation(_turn_about(axis, angle))

    return mix_axes(x, channels, draw)


def rotate_about_gravity(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Turn all sensors of a place about its mean total acceleration by any angle: facing another way.

    Keeps the mean of the total acceleration, the norm of each sensor and its part along gravity. Places
    where the total acceleration is not measured stay as they are.
    """

    def draw(triads: list[Triad]) -> Tensor:
        total = [list(triad.channels) for triad in triads if triad.kind == "total_acc"]
        axis = x[:, total[0]].mean(-1) if total else x.new_zeros(len(x), 3)
        return _rotation(_turn_about(axis, _uniform(x, generator, (len(x), 1), -math.pi, math.pi)))

    return mix_axes(x, channels, draw)


def shuffle_axes(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Exchange x, y and z, in all sensors of a place alike; never leaves them in place.

    Keeps all values and the norm of each sensor at each moment; gravity lies along another axis afterwards.
    """
    orders = torch.tensor(list(permutations(range(3)))[1:], device=x.device)
    matrices = torch.eye(3, dtype=x.dtype, device=x.device)[orders]
    return mix_axes(x, channels, lambda triads: matrices[_integers(x, generator, len(orders))])


def negate(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Flip the sign of all values; keeps energy and spectrum, turns gravity upside down. Not random."""
    return -x


def reverse(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Run time backwards; keeps the values, their mean and the power spectrum. Not random."""
    return x.flip(-1)


def permute(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Cut the window into ``SEGMENTS`` pieces of random length and put them in another order.

    Keeps the values, their mean, and the order within each piece; all channels are cut alike.
    """
    samples = x.shape[-1]
    cut = torch.arange(1, SEGMENTS, device=x.device) + _uniform(x, generator, (len(x), SEGMENTS - 1), -0.4, 0.4)
    edges = torch.nn.functional.pad((cut * (samples / SEGMENTS)).round().long(), (1, 0))
    lengths = torch.diff(edges, append=edges.new_full((len(x), 1), samples))
    ranks = torch.tensor(list(permutations(range(SEGMENTS)))[1:], device=x.device)
    rank = ranks[_integers(x, generator, len(ranks))]
    before = (lengths[:, None] * (rank[:, None] < rank[:, :, None])).sum(-1)
    time = torch.arange(samples, device=x.device)
    segment = (time[None, :, None] >= edges[:, None, 1:]).sum(-1)
    target = time + (before - edges).gather(1, segment)
    return torch.empty_like(x).scatter_(2, target[:, None].expand(x.shape), x)


def shift(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Move the window in time, what leaves at one end comes back at the other.

    Keeps the values, their mean and the power spectrum.
    """
    samples = x.shape[-1]
    offset = 1 + _integers(x, generator, max(samples - 1, 1))
    source = (torch.arange(samples, device=x.device) + offset[:, None]) % samples
    return x.gather(2, source[:, None].expand(x.shape))


def time_warp(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Play the window at a smoothly changing speed.

    Keeps the first and last sample, the order of events and the range of values; the mean moves a little.
    """
    speed = (SPEED_LOG_STD * _curve(x, generator)).exp()
    travelled = speed.cumsum(-1) - speed[:, :1]
    share = travelled / travelled[:, -1:].clamp_min(torch.finfo(x.dtype).tiny)
    return read_at(x, share * (x.shape[-1] - 1))


def resize_crop(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Stretch a random part of the window over the whole of it: slower movement, seen for a shorter time.

    Keeps the order of events; values stay within their range, and the mean becomes that of the part.
    """
    return crop(x, generator, CROP)


def crop(x: Tensor, generator: Generator, shares: tuple[float, float]) -> Tensor:
    """Stretch a random part of each window, of a share between two, over the whole of it: (N, C, T) to the same."""
    share = _uniform(x, generator, (len(x), 1), *shares)
    last = x.shape[-1] - 1
    start = _uniform(x, generator, (len(x), 1), 0.0, 1.0) * (1 - share) * last
    return read_at(x, start + share * torch.arange(last + 1, dtype=x.dtype, device=x.device))


def smooth(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Low-pass each window at a random cut-off (second-order Butterworth, run forwards and backwards).

    Keeps every channel's window mean and the phase of each frequency; no frequency gains power.
    """
    cutoff = _log_uniform(x, generator, (len(x), 1), *CUTOFF_HZ)
    return _filter(x, 1 / (1 + (_frequencies(x, channels.spec.time.rate) / cutoff) ** 4))


def drop_octave(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Remove all frequencies between a random one and its double.

    Keeps every channel's window mean and all other frequencies. The octave begins between the slowest wave
    of the window and a quarter of the rate, so that it always holds a frequency.
    """
    slowest = max(OCTAVE_HZ[0], channels.spec.time.rate / x.shape[-1])
    highest = max(2 * slowest, min(OCTAVE_HZ[1], channels.spec.time.rate / 4))
    low = _log_uniform(x, generator, (len(x), 1), slowest, highest)
    frequency = _frequencies(x, channels.spec.time.rate)
    return _filter(x, ((frequency < low) | (frequency >= 2 * low)).to(x.dtype))


def shift_phase(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Turn the phase of all frequencies by one random angle per window: another shape of the same rhythm.

    Keeps every channel's window mean, the power spectrum, and the phases between channels.
    """
    angle = _uniform(x, generator, (len(x), 1), -math.pi, math.pi)
    # The mean and, in windows of even length, the fastest wave are real: they have no phase to turn.
    wave = torch.arange(x.shape[-1] // 2 + 1, device=x.device)
    turned = angle * ((wave > 0) & (2 * wave < x.shape[-1]))
    return _filter(x, torch.polar(torch.ones_like(turned), turned))


def drop_sensor(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Hold one sensor of each window at its window mean; with a single sensor, one of its channels.

    Keeps every channel's window mean and all other sensors. An accelerometer goes as one, with total and body
    acceleration.
    """
    sensors = sensors_of(channels, x.shape[1])
    if max(sensors) == 0:
        sensors = list(range(x.shape[1]))
    lost = _integers(x, generator, max(sensors) + 1)
    dropped = torch.tensor(sensors, device=x.device) == lost[:, None]
    return torch.where(dropped[..., None], x.mean(-1, keepdim=True), x)


def mask_time(x: Tensor, generator: Generator, channels: Channels) -> Tensor:
    """Hold all channels at their window mean for a random stretch; keeps everything outside of it."""
    samples = x.shape[-1]
    length = (_uniform(x, generator, (len(x), 1), *MASK) * samples).round().clamp_min(1)
    start = (_uniform(x, generator, (len(x), 1), 0.0, 1.0) * (samples - length + 1)).floor()
    time = torch.arange(samples, device=x.device)
    masked = (time >= start) & (time < start + length)
    return torch.where(masked[:, None], x.mean(-1, keepdim=True), x)


TRANSFORMS: dict[str, Transform] = {
    "jitter": jitter,
    "scale": scale,
    "magnitude_warp": magnitude_warp,
    "rotate": rotate,
    "tilt": tilt,
    "rotate_about_gravity": rotate_about_gravity,
    "shuffle_axes": shuffle_axes,
    "negate": negate,
    "reverse": reverse,
    "permute": permute,
    "shift": shift,
    "time_warp": time_warp,
    "resize_crop": resize_crop,
    "smooth": smooth,
    "drop_octave": drop_octave,
    "shift_phase": shift_phase,
    "drop_sensor": drop_sensor,
    "mask_time": mask_time,
}

KEEPS_GRAVITY = frozenset(
    {
        "jitter",
        "scale",
        "magnitude_warp",
        "rotate_about_gravity",
        "reverse",
        "permute",
        "shift",
        "smooth",
        "drop_octave",
        "shift_phase",
        "drop_sensor",
    }
)
"""Transforms that leave the window mean of every total acceleration as it was.

``tilt`` turns it by up to ``TILT_DEGREES``; ``time_warp``, ``resize_crop`` and ``mask_time`` move it a little; the
others destroy it.
"""


def _uniform(x: Tensor, generator: Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Draw uniformly from [low, high), in the type and on the device of ``x``."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=x.dtype, device=x.device)


def _log_uniform(x: Tensor, generator: Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Draw from [low, high) so that each octave is as likely as another."""
    return _uniform(x, generator, shape, math.log(low), math.log(high)).exp()


def _integers(x: Tensor, generator: Generator, end: int) -> Tensor:
    """Draw one of 0..end-1 for each window: int64 (N,)."""
    return torch.randint(end, (len(x),), generator=generator, device=x.device)


def _curve(x: Tensor, generator: Generator) -> Tensor:
    """Draw a smooth curve (N, T) of mean 0 and mean square 1 in expectation, from the slowest cosines."""
    samples = x.shape[-1]
    weight = torch.randn(len(x), CURVE_WAVES, generator=generator, dtype=x.dtype, device=x.device)
    time = (torch.arange(samples, dtype=x.dtype, device=x.device) + 0.5) / samples
    wave = torch.arange(1, CURVE_WAVES + 1, dtype=x.dtype, device=x.device)[:, None]
    return weight @ (torch.cos(math.pi * wave * time) * math.sqrt(2 / CURVE_WAVES))


def read_at(x: Tensor, position: Tensor) -> Tensor:
    """Read each window at fractional positions (N, T) between 0 and T - 1, interpolating linearly."""
    last = x.shape[-1] - 1
    low = position.long().clamp_max(last)
    high = (low + 1).clamp_max(last)
    before, after = (x.gather(2, index[:, None].expand(x.shape)) for index in (low, high))
    return torch.lerp(before, after, (position - low)[:, None])


def _frequencies(x: Tensor, rate: float) -> Tensor:
    """Return the frequencies (T // 2 + 1,) of a window (Hz)."""
    frequencies: Tensor = torch.fft.rfftfreq(x.shape[-1], 1 / rate, dtype=x.dtype, device=x.device)
    return frequencies


def _filter(x: Tensor, response: Tensor) -> Tensor:
    """Multiply the spectrum of all channels of a window by its response (N, T // 2 + 1)."""
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(x) * response[:, None], n=x.shape[-1])
    return filtered


def random_rotations(x: Tensor, generator: Generator, count: int) -> Tensor:
    """Draw rotations (count, 3, 3) uniformly from SO(3), in the type and on the device of ``x``.

    Quaternions of normal draws are uniform (Shoemake 1992).
    """
    return _rotation(torch.randn(count, 4, generator=generator, dtype=x.dtype, device=x.device))


def mix_axes(x: Tensor, channels: Channels, draw: Callable[[list[Triad]], Tensor]) -> Tensor:
    """Multiply all triads of a place by the matrices (N, 3, 3) drawn for them; other channels stay."""
    mixing = torch.eye(x.shape[1], dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
    for place in dict.fromkeys(triad.place for triad in channels.spec.triads):
        triads = [triad for triad in channels.spec.triads if triad.place == place]
        matrix = draw(triads)
        for triad in triads:
            axes = torch.tensor(triad.channels, device=x.device)
            mixing[:, axes[:, None], axes] = matrix
    return torch.bmm(mixing, x)


def _turn_about(axis: Tensor, angle: Tensor) -> Tensor:
    """Return the quaternions (N, 4) that turn by angles (N, 1), in radians, about axes (N, 3) of any length."""
    return torch.cat([(angle / 2).cos(), (angle / 2).sin() * normalize(axis, dim=1)], dim=1)


def _rotation(quaternion: Tensor) -> Tensor:
    """Return the rotation matrices (N, 3, 3) of quaternions (N, 4) of any length."""
    w, x, y, z = normalize(quaternion, dim=1).unbind(1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=1),
    ]
    return torch.stack(rows, dim=1)
