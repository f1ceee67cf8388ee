"""Expert time and frequency features of sensor windows, computed for a whole batch at once.

They are the target of the feature task and the baseline that every encoder is shown beside. The list follows
the features that Anguita et al. publish with UCI HAR ("A public domain dataset for human activity recognition
using smartphones", ESANN 2013), with estimates that hold on short windows.

A window's channels first become named *signals*: at each place on the body the total acceleration, gravity,
body acceleration and its jerk, the rotation rate and its derivative, their magnitudes, and their parts along
and across gravity; a channel that belongs to no three-axis sensor is a signal of its own. Each signal is
described by its levels, each signal of motion (all but total acceleration and gravity) also by the shape of
its distribution and its course in time. Whatever grows
with the strength of a movement is given as a logarithm, so that no feature has a tail that a linear model or
a squared error could not live with.
"""

import math
from itertools import combinations, pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from shared.data.spec import InputSpec
from shared.errors import UserError

MIN_SAMPLES = 16
"""The shortest window (samples) that has a spectrum worth the name."""

GRAVITY_CUTOFF = 0.3
"""Acceleration slower than this (Hz) counts as gravity where a data set gives the total acceleration only."""

BAND_EDGES = (0.3, 1.0, 1.5, 2.0, 2.5, 3.5, 5.0, 7.0, 10.0, 15.0, 25.0)
"""Limits of the frequency bands (Hz): narrow around the pace of steps, wide above it."""

FLOOR = 1e-3
"""Strength (in the unit of the signal) that counts as rest: keeps logarithms and quotients finite."""

REFLECTIONS = 4
"""Order of the autoregressive model."""

CHUNK = 256
"""Windows computed at a time: bounds the extra memory (about 100 MB for 9 channels of 128 samples)."""

AXES = "xyz"


class _Table(NamedTuple):
    """Named columns: values (N, K), or named signals: values (N, S, T)."""

    names: list[str]
    values: Tensor


def expert_features(x: Tensor, spec: InputSpec) -> Tensor:
    """Return the features of each window, in the order of ``feature_names(spec)``.

    Args:
        x: (N, C, T) windows in physical units, T >= 16.
        spec: What the channels are and the sampling rate; windows may be of any length.

    Returns:
        Finite float32 (N, F), not standardised. F depends on ``spec``, not on T.

    Raises:
        UserError: ``x`` is not (N, C, T) with the channels of ``spec``, the windows are too short, or it is images.
    """
    if spec.rate is None:
        raise UserError(f"expert features: expected windows with a time axis, found images of {spec.extent}")
    if x.ndim != 3 or x.shape[1] != len(spec.channels) or x.shape[2] < MIN_SAMPLES:
        raise UserError(
            f"expert features need windows (N, {len(spec.channels)}, T) with T >= {MIN_SAMPLES}, found {tuple(x.shape)}"
        )
    if not len(x):
        return torch.zeros(0, len(feature_names(spec)), device=x.device)  # the FFT refuses empty batches
    return torch.cat([_features(chunk, spec).values for chunk in torch.split(x.float(), CHUNK)])


def feature_names(spec: InputSpec) -> list[str]:
    """Return the F unique names, ``signal.feature``, of the columns of ``expert_features``.

    A signal that is a channel of no sensor is called ``channel:<its name>``.
    """
    return _features(torch.zeros(1, len(spec.channels), MIN_SAMPLES), spec).names


def _features(x: Tensor, spec: InputSpec) -> _Table:
    """Return all features of a few windows (N, C, T)."""
    tables: list[_Table] = []
    resting: list[_Table] = []
    moving: list[_Table] = []
    for place in dict.fromkeys(triad.place for triad in spec.triads):
        sensors = _sensors(x, spec, place)
        for name, axes in sensors.items():
            tables.append(_between_axes(name, axes))
            group = resting if name.endswith(("total_acc", "gravity")) else moving
            group.append(_Table([f"{name}_{axis}" for axis in AXES], axes))
            group.append(_Table([f"{name}_magnitude"], _magnitude(axes)))
        if any(name.endswith("gravity") for name in sensors):
            direction, parts = _against_gravity(sensors)
            tables.append(direction)
            moving.append(parts)
    if lone := _channels_of_no_sensor(spec):
        moving.append(_Table([f"channel:{spec.channels[c]}" for c in lone], x[:, lone]))
    if resting:
        signals = _join(resting)
        tables.append(_levels(signals, _ranked(signals)))
    if moving:
        signals = _join(moving)
        ranked = _ranked(signals)
        tables += [_levels(signals, ranked), _shape(signals, ranked)]
        tables += [_reflections(signals), _spectrum(signals, spec.time.rate)]
    return _join(tables)


def _join(tables: list[_Table]) -> _Table:
    """Lay tables side by side."""
    return _Table([n for t in tables for n in t.names], torch.cat([t.values for t in tables], dim=1))


def _columns(signals: list[str], statistics: dict[str, Tensor]) -> _Table:
    """Name K statistics, each of N x S values, of S signals."""
    names = [f"{signal}.{statistic}" for statistic in statistics for signal in signals]
    values = [value.reshape(len(value), len(signals)) for value in statistics.values()]
    return _Table(names, torch.cat(values, dim=1))


def _channels_of_no_sensor(spec: InputSpec) -> list[int]:
    """Return the channels that are not part of a complete three-axis sensor."""
    taken = {channel for triad in spec.triads for channel in triad.channels}
    return [channel for channel in range(len(spec.channels)) if channel not in taken]


def _sensors(x: Tensor, spec: InputSpec, place: str) -> dict[str, Tensor]:
    """Return what is measured at one place and what follows from it, each (N, 3, T)."""
    measured = {t.kind: x[:, list(t.channels)] for t in spec.triads if t.place == place}
    found: dict[str, Tensor] = {}
    body = measured.get("body_acc")
    if (total := measured.get("total_acc")) is not None:
        gravity = _low_pass(total, spec.time.rate) if body is None else total - body
        body = total - gravity
        found |= {"total_acc": total, "gravity": gravity}
    if body is not None:
        found |= {"body_acc": body, "body_acc_jerk": _derivative(body, spec.time.rate)}
    if (gyro := measured.get("gyro")) is not None:
        found |= {"gyro": gyro, "gyro_jerk": _derivative(gyro, spec.time.rate)}
    if (mag := measured.get("mag")) is not None:
        found |= {"mag": mag}
    return {f"{place}_{name}" if place else name: axes for name, axes in found.items()}


def _low_pass(x: Tensor, rate: float) -> Tensor:
    """Keep the frequencies up to ``GRAVITY_CUTOFF``: the mean alone in a window shorter than 3.3 s."""
    kept = torch.fft.rfftfreq(x.shape[-1], 1 / rate, device=x.device) <= GRAVITY_CUTOFF
    slow: Tensor = torch.fft.irfft(torch.fft.rfft(x) * kept, n=x.shape[-1])
    return slow


def _derivative(x: Tensor, rate: float) -> Tensor:
    """Return the change per second, of the same length: the first value stands twice."""
    change = torch.diff(x) * rate
    return torch.cat([change[..., :1], change], dim=-1)


def _magnitude(axes: Tensor) -> Tensor:
    """Return the norm (N, 1, T) of vectors (N, 3, T): four times as fast as ``torch.linalg.norm`` here."""
    return axes.square().sum(1, keepdim=True).sqrt()


def _between_axes(name: str, axes: Tensor) -> _Table:
    """Describe a sensor's axes together: signal magnitude area (log) and the correlations of its axes."""
    centred = axes - axes.mean(-1, keepdim=True)
    std = centred.square().mean(-1).sqrt() + FLOOR
    columns = {"area": (axes.abs().sum(1).mean(-1) + FLOOR).log()}
    for i, j in combinations(range(3), 2):
        covariance = (centred[:, i] * centred[:, j]).mean(-1)
        columns[f"correlation_{AXES[i]}{AXES[j]}"] = covariance / (std[:, i] * std[:, j])
    return _columns([name], columns)


def _against_gravity(sensors: dict[str, Tensor]) -> tuple[_Table, _Table]:
    """Return which way is down, as columns, and motion along and across that direction, as signals.

    The columns are the mean gravity's direction cosines and its angles to the axes (rad).
    """
    name, gravity = next((name, axes) for name, axes in sensors.items() if name.endswith("gravity"))
    down = normalize(gravity.mean(-1), dim=1)
    cosines = {f"direction_{axis}": down[:, [i]] for i, axis in enumerate(AXES)}
    angles = {f"angle_{axis}": down[:, [i]].clamp(-1, 1).acos() for i, axis in enumerate(AXES)}
    names, parts = [], []
    for sensor in (s for s in sensors if s.endswith(("body_acc", "gyro"))):
        along = (sensors[sensor] * down[..., None]).sum(1, keepdim=True)
        across = _magnitude(sensors[sensor] - along * down[..., None])
        names += [f"{sensor}_vertical", f"{sensor}_horizontal"]
        parts += [along, across]
    return _columns([name], cosines | angles), _Table(names, torch.cat(parts, dim=1))


def _ranked(signals: _Table) -> Tensor:
    """Return the values (N, S, T) of each signal in ascending order."""
    return signals.values.sort(dim=-1).values


def _levels(signals: _Table, ranked: Tensor) -> _Table:
    """Describe where the values of each signal lie and how far they spread (logarithms, see the module)."""
    x = signals.values
    mean = x.mean(-1, keepdim=True)
    median = _quantile(ranked, 0.5)
    statistics = {
        "mean": mean,
        "std": ((x - mean).square().mean(-1).sqrt() + FLOOR).log(),
        "deviation": ((x - median).abs().mean(-1) + FLOOR).log(),
        "min": ranked[..., 0],
        "max": ranked[..., -1],
        "median": median,
        "range": (_quantile(ranked, 0.75) - _quantile(ranked, 0.25) + FLOOR).log(),
        "energy": (x.square().mean(-1) + FLOOR**2).log(),
    }
    return _columns(signals.names, statistics)


def _shape(signals: _Table, ranked: Tensor) -> _Table:
    """Describe the form of each signal's distribution, whatever its mean and width.

    ``entropy`` is the spacing estimate of Vasicek ("A test for normality based on sample entropy", 1976) for
    the values divided by their standard deviation; ``crossings`` is the share of steps that cross the mean;
    ``kurtosis`` is a logarithm.
    """
    centred = signals.values - signals.values.mean(-1, keepdim=True)
    std = centred.square().mean(-1).sqrt() + FLOOR
    scaled = centred / std[..., None]
    cube = scaled.square() * scaled
    above = centred > 0
    statistics = {
        "entropy": _entropy(ranked) - std.log(),
        "crossings": (above[..., 1:] != above[..., :-1]).float().mean(-1),
        "skewness": cube.mean(-1),
        "kurtosis": (cube * scaled).mean(-1).add(1).log(),
    }
    return _columns(signals.names, statistics)


def _quantile(ranked: Tensor, q: float) -> Tensor:
    """Return the q-quantile (..., 1) of values in ascending order, interpolated linearly."""
    position = q * (ranked.shape[-1] - 1)
    low, high = math.floor(position), math.ceil(position)
    return torch.lerp(ranked[..., [low]], ranked[..., [high]], position - low)


def _entropy(ranked: Tensor) -> Tensor:
    """Return Vasicek's differential entropy (...) of values in ascending order, spacings at least ``FLOOR``."""
    samples = ranked.shape[-1]
    window = math.floor(math.sqrt(samples) + 0.5)
    padded = torch.nn.functional.pad(ranked, (window, window), mode="replicate")
    spacing = padded[..., 2 * window :] - padded[..., :samples]
    return ((spacing + FLOOR) * (samples / (2 * window))).log().mean(-1)


def _reflections(signals: _Table) -> _Table:
    """Return the reflection coefficients of an autoregressive model by Burg's method, each within [-1, 1].

    Burg ("Maximum entropy spectral analysis", 1975): each stage minimises the energy of the forward plus
    the backward prediction error. The coefficients say the same as those of the model itself and, unlike
    them, stay bounded for smooth signals.
    """
    forward = signals.values - signals.values.mean(-1, keepdim=True)
    backward = forward
    columns = {}
    for order in range(1, REFLECTIONS + 1):
        forward, backward = forward[..., 1:], backward[..., :-1]
        energy = (forward.square() + backward.square()).mean(-1, keepdim=True) + FLOOR**2
        k = -2 * (forward * backward).mean(-1, keepdim=True) / energy
        columns[f"reflection_{order}"] = k
        forward, backward = forward + k * backward, backward + k * forward
    return _columns(signals.names, columns)


def _spectrum(signals: _Table, rate: float) -> _Table:
    """Describe the power spectrum (Hann window, mean removed) of each signal.

    Band powers are logarithms of the mean square in the band; a band between two frequencies of a short
    window holds none. Moments are those of the spectrum read as a distribution over frequency (Hz).
    """
    frequency, power = _periodogram(signals.values, rate)
    columns = {}
    for low, high in _bands(rate):
        inside = (frequency >= low) & (frequency < high)
        columns[f"power_{low:g}_{high:g}_hz"] = (power[..., inside].sum(-1) + FLOOR**2).log()
    share = power + FLOOR**2 / power.shape[-1]
    share = share / share.sum(-1, keepdim=True)
    centroid = (share * frequency).sum(-1, keepdim=True)
    spread = (share * (frequency - centroid).square()).sum(-1, keepdim=True).sqrt()
    scaled = (frequency - centroid) / spread
    columns |= {
        "spectral_entropy": -(share * share.log()).sum(-1) / math.log(len(frequency)),
        "centroid": centroid,
        "peak_frequency": frequency[power.argmax(-1)],
        "spectral_skewness": (share * scaled.pow(3)).sum(-1),
        "spectral_kurtosis": (share * scaled.pow(4)).sum(-1).log(),
    }
    return _columns(signals.names, columns)


def _periodogram(x: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Return frequencies (K,) in Hz and the mean square (..., K) at each of them, K = T // 2 + 1."""
    samples = x.shape[-1]
    taper = torch.hann_window(samples, dtype=x.dtype, device=x.device)
    spectrum = torch.fft.rfft((x - x.mean(-1, keepdim=True)) * taper).abs().square()
    twice = torch.full((spectrum.shape[-1],), 2.0, dtype=x.dtype, device=x.device)
    twice[0] = 1.0
    if samples % 2 == 0:
        twice[-1] = 1.0
    frequency = torch.fft.rfftfreq(samples, 1 / rate, device=x.device)
    return frequency, spectrum * twice / (samples * taper.square().sum())


def _bands(rate: float) -> list[tuple[float, float]]:
    """Return the frequency bands (Hz) that begin below half the sampling rate."""
    return [(low, high) for low, high in pairwise(BAND_EDGES) if low < rate / 2]
