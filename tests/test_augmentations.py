"""Each transform keeps what its description says, for every window of a batch, and nothing else is identity."""

import math
from itertools import groupby

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from shared.augmentations import (
    GAIN,
    KEEPS_GRAVITY,
    MASK,
    NOISE,
    TILT_DEGREES,
    TRANSFORMS,
    Channels,
    compose,
)
from shared.data import uci_har
from shared.data.spec import InputSpec
from shared.errors import UserError

pytestmark = pytest.mark.numerics

PHONE = tuple(f"{kind}_{axis}" for kind in ("total_acc", "body_acc", "gyro") for axis in "xyz")
TWO_PLACES = (
    "heart_rate",
    *(f"wrist_total_acc_{axis}" for axis in "xyz"),
    *(f"ankle_gyro_{axis}" for axis in "zyx"),
    *(f"wrist_gyro_{axis}" for axis in "xyz"),
)
LAYOUTS = (PHONE, TWO_PLACES, PHONE[:3], PHONE[6:], ("light",), ("light", "sound"))
NOT_RANDOM = {"negate", "reverse"}


def channels_of(names: tuple[str, ...], rate: float = 50.0) -> Channels:
    spec = InputSpec(channels=names, units=("g",) * len(names), size=(128,), rate=rate)
    return Channels(spec, torch.linspace(0.5, 1.5, len(names)))


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def motion(n: int, names: tuple[str, ...], samples: int, seed: int = 0) -> Tensor:
    """Draw windows with an offset, a rhythm and noise in every channel."""
    draw = generator(seed)
    time = torch.arange(samples) / 50.0
    phase = 6.3 * torch.rand(n, len(names), 1, generator=draw)
    offset = torch.randn(n, len(names), 1, generator=draw)
    noise = 0.3 * torch.randn(n, len(names), samples, generator=draw)
    return offset + torch.sin(12.0 * time + phase) + noise


def run(name: str, x: Tensor, names: tuple[str, ...] = PHONE, seed: int = 0, rate: float = 50.0) -> Tensor:
    return TRANSFORMS[name](x, generator(seed), channels_of(names, rate))


def deviation(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


seeds = st.integers(0, 2**31 - 1)
batches = st.tuples(st.sampled_from((1, 2, 5)), st.sampled_from(LAYOUTS), st.integers(16, 67), seeds)
phones = st.tuples(st.sampled_from((1, 2, 5)), st.integers(16, 67), seeds)


@pytest.mark.parametrize("name", TRANSFORMS)
@given(batches)
def test_conformance(name: str, batch: tuple[int, tuple[str, ...], int, int]) -> None:
    n, names, samples, seed = batch
    x = motion(n, names, samples, seed)
    before = x.clone()
    first, second = (run(name, x, names, seed, rate=20.0) for _ in range(2))
    assert first.shape == x.shape and first.dtype == torch.float32
    assert first.isfinite().all()
    assert torch.equal(first, second), "the same generator state must give the same result"
    assert torch.equal(x, before), "the input must stay as it was"
    first.fill_(7.0)
    assert torch.equal(x, before), "the result must not share memory with the input"


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("samples", [1, 2, 3, 5])
def test_tiny_windows(name: str, samples: int) -> None:
    assert run(name, motion(3, PHONE, samples)).isfinite().all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_constant_windows_stay_finite(name: str) -> None:
    for value in (0.0, 1.0):
        assert run(name, torch.full((4, 9, 32), value)).isfinite().all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_window_is_changed_in_its_own_way(name: str) -> None:
    x = motion(1, PHONE, 64).expand(40, -1, -1)
    y = run(name, x)
    assert not any(close(a, b) for a, b in zip(x, y, strict=True)), "no transform may be the identity"
    different = len({tuple(window.flatten().tolist()) for window in y})
    if name in NOT_RANDOM:
        assert different == 1
    else:
        choices = {"drop_sensor": 2, "shuffle_axes": 5, "drop_octave": 10}
        assert different >= choices.get(name, 20)


@pytest.mark.parametrize("name", TRANSFORMS)
@given(phones)
def test_keeps_gravity_tells_the_truth(name: str, phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    x = motion(n, PHONE, samples, seed)
    moved = (run(name, x, seed=seed).mean(-1) - x.mean(-1)).abs()
    gravity = moved[:, :3].amax(1)
    if name in KEEPS_GRAVITY:
        assert (gravity < 1e-5).all()
    else:
        assert (gravity > 1e-5).all()
    if name in KEEPS_GRAVITY - {"rotate_about_gravity"}:
        assert (moved < 1e-5).all(), "the mean of every other channel stays as well"


def test_keeps_gravity_names_transforms() -> None:
    assert set(TRANSFORMS) > KEEPS_GRAVITY


def test_gravity_on_real_windows(uci_har_zip) -> None:
    windows, _ = uci_har.load(uci_har_zip)
    x = torch.from_numpy(windows.x[::20])
    channels = Channels(windows.meta.spec, x.std((0, 2)))
    total = next(triad.channels for triad in windows.meta.spec.triads if triad.kind == "total_acc")
    for name in sorted(KEEPS_GRAVITY | {"tilt", "time_warp", "resize_crop", "mask_time"}):
        y = TRANSFORMS[name](x, generator(), channels)
        cosine = torch.cosine_similarity(x[:, total].mean(-1), y[:, total].mean(-1)).clamp(max=1)
        degrees = torch.rad2deg(cosine.acos())
        assert degrees.quantile(0.99) < (0.1 if name in KEEPS_GRAVITY else TILT_DEGREES), name


@given(st.sampled_from((1, 4)), seeds)
def test_jitter_is_white_and_in_units_of_the_channels(n: int, seed: int) -> None:
    x = motion(n, PHONE, 2000, seed)
    noise = run("jitter", x, seed=seed) - x
    strength = noise.std(-1) / channels_of(PHONE).std
    assert (strength > NOISE[0] * 0.9).all() and (strength < NOISE[1] * 1.1).all()
    assert close(strength / strength.mean(1, keepdim=True), torch.ones(n, 9), 0.1)
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean(-1) / noise.square().mean(-1)
    assert (neighbours.abs() < 0.12).all()


@given(phones)
def test_scale_is_one_gain_per_sensor(phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    x = motion(n, PHONE, samples, seed)
    y = deviation(run("scale", x, seed=seed))
    d = deviation(x)
    gain = (y * d).sum(-1) / d.square().sum(-1)
    assert close(y, gain[..., None] * d)
    assert (gain > GAIN[0] - 1e-4).all() and (gain < GAIN[1] + 1e-4).all()
    assert close(gain[:, :6], gain[:, :1].expand(-1, 6)) and close(gain[:, 6:], gain[:, 6:7].expand(-1, 3))
    assert ((gain[:, 0] - gain[:, 6]).abs() > 1e-6).all(), "accelerometer and gyroscope scale apart"


@given(phones)
def test_magnitude_warp_is_one_smooth_positive_curve(phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    samples = 8 * samples
    x = motion(n, PHONE, samples, seed)
    x[:, 0] = torch.tensor([1.0, -1.0]).repeat(samples // 2)
    x[:, 2] = x[:, 0] + x[:, 1]
    y = run("magnitude_warp", x, seed=seed)
    # Of a square wave of +1 and -1, half the step between neighbours is the gain between them.
    gain = -y[:, 0].diff(dim=1)[:, ::2] / 2
    assert (gain > 0).all()
    assert (gain.diff(dim=1).abs() < 0.15 * gain.amax(1, keepdim=True)).all()
    assert (gain.std(1) > 1e-3).all()
    assert close(deviation(y)[:, 2], deviation(y)[:, 0] + deviation(y)[:, 1]), "the curve is the same for all"


def axes_of(name: str, n: int, seed: int = 0) -> Tensor:
    """Return the matrices (n, 3, 3) that a transform of axes multiplies a sensor by."""
    return run(name, torch.eye(3).repeat(n, 1, 1), PHONE[:3], seed)


@pytest.mark.parametrize("name", ["rotate", "tilt", "rotate_about_gravity", "shuffle_axes"])
@given(batches)
def test_axes_of_a_place_turn_together(name: str, batch: tuple[int, tuple[str, ...], int, int]) -> None:
    n, names, samples, seed = batch
    x = motion(n, names, samples, seed)
    y = run(name, x, names, seed)
    triads = channels_of(names).spec.triads
    for a in triads:
        for b in triads:
            if a.place == b.place:
                products = [(w[:, a.channels] * w[:, b.channels]).sum(1) for w in (x, y)]
                assert close(*products), "norms and angles within a place stay"
    lone = [c for c in range(len(names)) if not any(c in t.channels for t in triads)]
    assert torch.equal(x[:, lone], y[:, lone])


@pytest.mark.parametrize("name", ["rotate", "tilt", "rotate_about_gravity"])
def test_rotations_are_proper(name: str) -> None:
    matrix = axes_of(name, 200)
    assert close(matrix @ matrix.mT, torch.eye(3).expand(200, 3, 3))
    assert close(torch.linalg.det(matrix), torch.ones(200))


def test_rotate_is_uniform() -> None:
    matrix = axes_of("rotate", 20000)
    assert close(matrix.mean(0), torch.zeros(3, 3), 0.02)
    assert close(matrix.square().mean(0), torch.full((3, 3), 1 / 3), 0.02)
    # Under the uniform law the angle has density (1 - cos a) / pi, so its mean is pi / 2 + 2 / pi.
    angle = ((matrix.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos()
    assert angle.mean().item() == pytest.approx(math.pi / 2 + 2 / math.pi, abs=0.02)


def test_places_rotate_apart() -> None:
    channels = channels_of(tuple(f"{side}_gyro_{axis}" for side in ("left", "right") for axis in "xyz"))
    x = torch.eye(3).repeat(8, 2, 1)
    y = TRANSFORMS["rotate"](x, generator(), channels)
    assert ((y[:, :3] - y[:, 3:]).abs().amax((1, 2)) > 0.01).all()


def test_tilt_stays_small_and_leans_every_way() -> None:
    matrix = axes_of("tilt", 5000)
    degrees = torch.rad2deg(((matrix.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos())
    assert degrees.max() < TILT_DEGREES + 0.1 and degrees.max() > 0.95 * TILT_DEGREES
    assert close(matrix.mean(0), torch.eye(3) * matrix.mean(0).diagonal(), 0.01)


@given(phones)
def test_rotate_about_gravity_keeps_the_vertical_part(phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    x = motion(n, PHONE, samples, seed)
    y = run("rotate_about_gravity", x, seed=seed)
    down = x[:, :3].mean(-1, keepdim=True)
    for first in (0, 3, 6):
        vertical = [(w[:, first : first + 3] * down).sum(1) for w in (x, y)]
        assert close(*vertical, 1e-3)
    assert torch.equal(run("rotate_about_gravity", x[:, 6:], PHONE[6:], seed), x[:, 6:])


def test_shuffle_axes_draws_all_orders_but_the_first() -> None:
    matrix = axes_of("shuffle_axes", 300)
    orders = {tuple(m.argmax(1).tolist()) for m in matrix}
    assert len(orders) == 5 and (0, 1, 2) not in orders
    assert set(matrix.unique().tolist()) == {0.0, 1.0}


@given(batches)
def test_negate_and_reverse(batch: tuple[int, tuple[str, ...], int, int]) -> None:
    n, names, samples, seed = batch
    x = motion(n, names, samples, seed)
    assert np.array_equal(run("negate", x, names).numpy(), -x.numpy())
    assert np.array_equal(run("reverse", x, names).numpy(), x.numpy()[:, :, ::-1])


def ramp_beside(x: Tensor) -> Tensor:
    """Let the first channel count the samples, so that it tells where each sample came from."""
    return torch.cat([torch.arange(float(x.shape[-1])).expand(len(x), 1, -1), x[:, 1:]], 1)


@given(phones)
def test_permute_moves_whole_pieces(phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    x = ramp_beside(motion(n, PHONE, samples, seed))
    y = run("permute", x, seed=seed)
    for before, after in zip(x, y, strict=True):
        source = after[0].long()
        assert sorted(source.tolist()) == list(range(samples))
        assert torch.equal(after, before[:, source]), "all channels are cut alike"
        assert 1 <= (source.diff() != 1).sum() <= 3, "four pieces have at most three seams"


@given(phones)
def test_shift_is_a_roll(phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    x = ramp_beside(motion(n, PHONE, samples, seed))
    for before, after in zip(x, run("shift", x, seed=seed), strict=True):
        offset = int(after[0, 0])
        assert offset != 0
        assert np.array_equal(after.numpy(), np.roll(before.numpy(), -offset, axis=1))


@pytest.mark.parametrize("name", ["time_warp", "resize_crop"])
@given(phones)
def test_time_is_read_in_order(name: str, phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    x = ramp_beside(motion(n, PHONE, samples, seed))
    for before, after in zip(x.numpy(), run(name, x, seed=seed).numpy(), strict=True):
        place = after[0].astype(np.float64)
        assert (np.diff(place) > 0).all() and place[0] >= 0 and place[-1] <= samples - 1
        expected = np.stack([np.interp(place, np.arange(samples), channel) for channel in before])
        np.testing.assert_allclose(after, expected, atol=2e-4)
        if name == "time_warp":
            assert place[0] == 0 and place[-1] == pytest.approx(samples - 1)
            assert np.diff(place).std() > 1e-3
        else:
            np.testing.assert_allclose(np.diff(place), np.diff(place).mean(), atol=1e-4)
            assert 0.49 < np.diff(place).mean() < 1


def spectra(x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.fft.rfft(w.double().numpy()) for w in (x, y))


@given(phones)
def test_smooth_only_weakens(phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    x = motion(n, PHONE, samples, seed)
    before, after = spectra(x, run("smooth", x, seed=seed))
    response = (after * before.conj()).sum(1).real / (np.abs(before) ** 2).sum(1)
    np.testing.assert_allclose(after, response[:, None] * before, atol=1e-3)
    assert (np.diff(response) < 1e-3).all(), "the faster, the weaker"
    assert (response > -1e-3).all() and (response < 1 + 1e-3).all()
    assert (response[:, -1] < 0.02).all()


@given(phones, st.sampled_from((10.0, 50.0, 200.0)))
def test_drop_octave_removes_an_octave(phone: tuple[int, int, int], rate: float) -> None:
    n, samples, seed = phone
    x = motion(n, PHONE, samples, seed)
    before, after = spectra(x, run("drop_octave", x, seed=seed, rate=rate))
    gone = (np.abs(after) < 1e-3 * np.abs(before)).all(1)
    for window, (b, a) in zip(gone, zip(before, after, strict=True), strict=True):
        waves = np.flatnonzero(window)
        assert len(waves) and waves[0] > 0
        assert waves[-1] < 2 * waves[0] and np.array_equal(waves, np.arange(waves[0], waves[-1] + 1))
        np.testing.assert_allclose(a[:, ~window], b[:, ~window], atol=1e-3)


@given(phones)
def test_shift_phase_keeps_spectra_and_relations(phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    x = motion(n, PHONE, samples, seed)
    before, after = spectra(x, run("shift_phase", x, seed=seed))
    np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-3)
    cross = [w[:, :1] * w[:, 1:].conj() for w in (before, after)]
    np.testing.assert_allclose(cross[1], cross[0], atol=2e-2)


@given(phones)
def test_drop_sensor_flattens_one_sensor(phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    x = motion(n, PHONE, samples, seed)
    for before, after in zip(x, run("drop_sensor", x, seed=seed), strict=True):
        flat = (after.std(-1) < 1e-6).nonzero().flatten().tolist()
        assert flat in ([0, 1, 2, 3, 4, 5], [6, 7, 8])
        kept = [c for c in range(9) if c not in flat]
        assert torch.equal(before[kept], after[kept])
        assert close(before.mean(-1), after.mean(-1))


def test_drop_sensor_of_a_single_sensor_drops_a_channel() -> None:
    y = run("drop_sensor", motion(60, PHONE[:3], 32), PHONE[:3])
    flat = y.std(-1) < 1e-6
    assert (flat.sum(1) == 1).all() and flat.any(0).all()


@given(phones)
def test_mask_time_blanks_one_stretch(phone: tuple[int, int, int]) -> None:
    n, samples, seed = phone
    x = motion(n, PHONE, samples, seed)
    for before, after in zip(x, run("mask_time", x, seed=seed), strict=True):
        masked = (before != after).any(0).tolist()
        runs = [(value, len(list(group))) for value, group in groupby(masked)]
        lengths = [length for value, length in runs if value]
        assert len(lengths) == 1
        assert MASK[0] * samples - 1 <= lengths[0] <= MASK[1] * samples + 1
        hole = after[:, torch.tensor(masked)]
        assert close(hole, before.mean(-1, keepdim=True).expand_as(hole))


def test_compose_applies_in_order() -> None:
    x, channels = motion(4, PHONE, 40), channels_of(PHONE)
    both, one = generator(3), generator(3)
    expected = TRANSFORMS["permute"](TRANSFORMS["mask_time"](x, one, channels), one, channels)
    assert torch.equal(compose(["mask_time", "permute"])(x, both, channels), expected)
    assert torch.equal(compose([])(x, both, channels), x)


def test_compose_refuses_an_unknown_name() -> None:
    with pytest.raises(UserError, match=r"unknown augmentation 'jiter' \(did you mean 'jitter'\?\)"):
        compose(["scale", "jiter"])
