"""Expert features against numpy and scipy on real windows, and what they must and must not depend on."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import linalg, signal, stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from shared.augmentations import TRANSFORMS, Channels
from shared.data import uci_har
from shared.data.partition import draw_labels
from shared.data.spec import InputSpec
from shared.data.windows import Windows
from shared.errors import UserError
from shared.features import BAND_EDGES, CHUNK, FLOOR, MIN_SAMPLES, expert_features, feature_names

pytestmark = pytest.mark.numerics

PHONE = tuple(f"{kind}_{axis}" for kind in ("total_acc", "body_acc", "gyro") for axis in "xyz")
WATCH = PHONE[:3] + PHONE[6:]
TWO_PLACES = ("light", *(f"{place}_{name}" for place in ("wrist", "ankle") for name in WATCH), "body_acc_x")
LAYOUTS = (PHONE, WATCH, TWO_PLACES, PHONE[3:6], PHONE[6:], ("light", "sound"))


def spec(names: tuple[str, ...], rate: float = 50.0) -> InputSpec:
    return InputSpec(channels=names, units=("g",) * len(names), size=(128,), rate=rate)


def table(x: Tensor, of: InputSpec) -> dict[str, NDArray[np.float32]]:
    return dict(zip(feature_names(of), expert_features(x, of).numpy().T, strict=True))


def noise(n: int, names: tuple[str, ...], samples: int, seed: int = 0) -> Tensor:
    return torch.randn(n, len(names), samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def real(uci_har_zip: Path) -> tuple[Windows, Windows]:
    return uci_har.load(uci_har_zip)


@pytest.fixture(scope="module")
def brisk(real: tuple[Windows, Windows]) -> Windows:
    """Windows of people who walk: every signal is far above the floor that keeps logarithms finite."""
    train, _ = real
    return train[np.flatnonzero(train.y == train.meta.classes.index("walking"))[:300:10]]


def sensor(windows: Windows, kind: str) -> NDArray[np.float64]:
    """The x, y and z (N, 3, T) of one sensor of a data set, in double precision."""
    found = next(triad for triad in windows.meta.spec.triads if triad.kind == kind)
    return windows.x[:, found.channels].astype(np.float64)


def table_of(windows: Windows) -> dict[str, NDArray[np.float32]]:
    return table(torch.from_numpy(windows.x), windows.meta.spec)


def test_levels_against_numpy(brisk: Windows) -> None:
    found, x = table_of(brisk), sensor(brisk, "total_acc")[:, 1]
    median = np.median(x, axis=1)
    expected = {
        "mean": x.mean(1),
        "std": np.log(x.std(1)),
        "deviation": np.log(np.abs(x - median[:, None]).mean(1)),
        "min": x.min(1),
        "max": x.max(1),
        "median": median,
        "range": np.log(stats.iqr(x, axis=1)),
        "energy": np.log((x**2).mean(1)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"total_acc_y.{name}"], value, atol=0.03, err_msg=name)


def test_shape_against_scipy(brisk: Windows) -> None:
    found, x = table_of(brisk), sensor(brisk, "gyro")[:, 2]
    centred = x - x.mean(1, keepdims=True)
    expected = {
        "entropy": stats.differential_entropy(x, axis=1, method="vasicek") - np.log(x.std(1)),
        "crossings": (np.diff(np.sign(centred)) != 0).mean(1),
        "skewness": stats.skew(x, axis=1),
        "kurtosis": np.log1p(stats.kurtosis(x, axis=1, fisher=False)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"gyro_z.{name}"], value, atol=0.03, err_msg=name)


def test_spectrum_against_scipy(brisk: Windows) -> None:
    found, x = table_of(brisk), sensor(brisk, "body_acc")[:, 0]
    frequency, density = signal.periodogram(x, fs=50.0, window="hann", detrend="constant")
    power = density * frequency[1]
    for low, high in pairwise(BAND_EDGES):
        inside = (frequency >= low) & (frequency < high)
        expected = np.log(power[:, inside].sum(1) + FLOOR**2)
        np.testing.assert_allclose(found[f"body_acc_x.power_{low:g}_{high:g}_hz"], expected, atol=1e-3)
    share = power / power.sum(1, keepdims=True)
    centroid = (share * frequency).sum(1)
    spread = np.sqrt((share * (frequency - centroid[:, None]) ** 2).sum(1))
    scaled = (frequency - centroid[:, None]) / spread[:, None]
    expected = {
        "spectral_entropy": stats.entropy(power, axis=1) / np.log(len(frequency)),
        "centroid": centroid,
        "peak_frequency": frequency[power.argmax(1)],
        "spectral_skewness": (share * scaled**3).sum(1),
        "spectral_kurtosis": np.log((share * scaled**4).sum(1)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"body_acc_x.{name}"], value, rtol=0.02, atol=0.02, err_msg=name)


@pytest.mark.parametrize("samples", [16, 17])
def test_the_fastest_wave_counts_once(samples: int) -> None:
    x = noise(20, ("light",), samples)
    frequency, power = signal.periodogram(x[:, 0].double().numpy(), fs=50.0, window="hann", detrend="constant")
    expected = (power * frequency).sum(1) / power.sum(1)
    np.testing.assert_allclose(table(x, spec(("light",)))["channel:light.centroid"], expected, atol=0.01)


@pytest.mark.parametrize("samples", [100, 101])
def test_a_sine_is_found_where_it_is(samples: int) -> None:
    time = np.arange(samples) / 50.0
    x = torch.from_numpy(3.0 + 0.8 * np.sin(2 * np.pi * 6.0 * time)).float().view(1, 1, -1)
    found = table(x, spec(("light",)))
    assert np.exp(found["channel:light.power_5_7_hz"][0]) == pytest.approx(0.8**2 / 2, rel=0.02)
    assert found["channel:light.peak_frequency"][0] == pytest.approx(6.0, abs=50.0 / samples)
    assert found["channel:light.centroid"][0] == pytest.approx(6.0, abs=0.1)
    assert found["channel:light.crossings"][0] * (samples - 1) == pytest.approx(12 * samples / 50, abs=1)


def test_reflections_against_yule_walker() -> None:
    """The last coefficient of a Yule-Walker fit is a reflection coefficient; on long signals Burg agrees."""
    rng = np.random.default_rng(0)
    x = signal.lfilter([1.0], [1.0, -1.2, 0.8, -0.3, 0.2], rng.standard_normal(20_000))
    found = table(torch.from_numpy(x).float().view(1, 1, -1), spec(("light",)))
    covariance = np.array([(x[lag:] * x[: len(x) - lag]).mean() for lag in range(5)])
    for order in range(1, 5):
        fit = linalg.solve_toeplitz(covariance[:order], covariance[1 : order + 1])
        assert found[f"channel:light.reflection_{order}"][0] == pytest.approx(-fit[-1], abs=0.01)


def test_reflections_are_burg_on_short_windows(brisk: Windows) -> None:
    """Each stage is the least-squares prediction of the forward from the backward error, and the reverse."""
    found, x = table_of(brisk), sensor(brisk, "gyro")[:, 0]
    for row, window in enumerate(x):
        forward = backward = window - window.mean()
        for order in range(1, 5):
            forward, backward = forward[1:], backward[:-1]
            left, right = np.concatenate([backward, forward]), np.concatenate([forward, backward])
            k = -linalg.lstsq(left[:, None], right)[0][0]
            assert found[f"gyro_x.reflection_{order}"][row] == pytest.approx(k, abs=0.01)
            forward, backward = forward + k * backward, backward + k * forward


def test_axes_together_against_numpy(brisk: Windows) -> None:
    found, x = table_of(brisk), sensor(brisk, "gyro")
    np.testing.assert_allclose(found["gyro.area"], np.log(np.abs(x).sum(1).mean(1)), atol=0.01)
    for i, j, pair in ((0, 1, "xy"), (0, 2, "xz"), (1, 2, "yz")):
        expected = [np.corrcoef(window)[i, j] for window in x]
        np.testing.assert_allclose(found[f"gyro.correlation_{pair}"], expected, atol=0.02)


def test_derived_signals(brisk: Windows) -> None:
    found = table_of(brisk)
    body, gyro = sensor(brisk, "body_acc"), sensor(brisk, "gyro")
    gravity = sensor(brisk, "total_acc") - body
    jerk = np.diff(body, axis=2) * 50.0
    np.testing.assert_allclose(found["body_acc_jerk_z.max"], jerk[:, 2].max(1), rtol=1e-3)
    np.testing.assert_allclose(found["gyro_magnitude.max"], np.linalg.norm(gyro, axis=1).max(1), rtol=1e-5)
    np.testing.assert_allclose(found["gravity_x.median"], np.median(gravity[:, 0], axis=1), atol=1e-5)
    down = gravity.mean(2)
    down /= np.linalg.norm(down, axis=1, keepdims=True)
    np.testing.assert_allclose(found["gravity.direction_y"], down[:, 1], atol=1e-5)
    np.testing.assert_allclose(found["gravity.angle_y"], np.arccos(down[:, 1]), atol=1e-4)
    vertical = np.einsum("nct,nc->nt", body, down)
    across = np.linalg.norm(body - vertical[:, None] * down[:, :, None], axis=1)
    np.testing.assert_allclose(found["body_acc_vertical.min"], vertical.min(1), atol=1e-4)
    np.testing.assert_allclose(found["body_acc_horizontal.max"], across.max(1), atol=1e-4)


def test_what_does_not_depend_on_orientation(real: tuple[Windows, Windows]) -> None:
    train, _ = real
    x = torch.from_numpy(train.x[::50])
    channels = Channels(train.meta.spec, x.std((0, 2)))
    turned = TRANSFORMS["rotate"](x, torch.Generator().manual_seed(0), channels)
    before, after = table(x, train.meta.spec), table(turned, train.meta.spec)
    strict = [n for n in before if "_magnitude." in n or "_vertical." in n or "_horizontal." in n]
    assert len(strict) > 200
    # A peak may jump between equal waves, a near-zero value may cross the mean: seldom, by rounding alone.
    moved = np.stack([np.abs(before[n] - after[n]) > 1e-2 for n in strict])
    assert moved.mean() < 1e-3
    assert np.abs(before["gravity.direction_x"] - after["gravity.direction_x"]).mean() > 0.3


@pytest.mark.parametrize("names", LAYOUTS)
def test_names_fit_the_columns(names: tuple[str, ...]) -> None:
    for rate in (20.0, 50.0, 100.0):
        of = spec(names, rate)
        columns = feature_names(of)
        assert len(set(columns)) == len(columns)
        for samples in (MIN_SAMPLES, 33, 128, 400):
            found = expert_features(noise(3, names, samples), of)
            assert found.shape == (3, len(columns)) and found.dtype == torch.float32
    none = torch.zeros(0, len(names), 64)
    assert expert_features(none, spec(names)).shape == (0, len(feature_names(spec(names))))


@given(
    st.sampled_from(LAYOUTS),
    st.sampled_from((16, 17, 128)),
    st.sampled_from((0.0, 1.0, -9.81, 1e-6, 300.0)),
    st.booleans(),
)
def test_still_sensors_are_finite(names: tuple[str, ...], samples: int, value: float, spike: bool) -> None:
    x = torch.full((2, len(names), samples), value)
    x[:, :, samples // 2] += float(spike)
    assert expert_features(x, spec(names)).isfinite().all()


def test_rows_do_not_depend_on_the_batch(real: tuple[Windows, Windows]) -> None:
    train, _ = real
    x = torch.from_numpy(train.x[: 2 * CHUNK + 1])
    batch = expert_features(x, train.meta.spec)
    for row in (0, CHUNK - 1, CHUNK, 2 * CHUNK):
        torch.testing.assert_close(
            expert_features(x[row : row + 1], train.meta.spec)[0], batch[row], rtol=1e-3, atol=1e-3
        )


@given(st.permutations(range(len(PHONE))), st.integers(0, 1000))
def test_features_follow_names_not_positions(order: list[int], seed: int) -> None:
    x = noise(2, PHONE, 64, seed)
    before = table(x, spec(PHONE))
    after = table(x[:, order], spec(tuple(PHONE[i] for i in order)))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=1e-3, err_msg=name)


def test_the_input_stays_as_it_was_and_may_be_double() -> None:
    x = noise(2, PHONE, 64).double()
    before = x.clone()
    torch.testing.assert_close(expert_features(x, spec(PHONE)), expert_features(x.float(), spec(PHONE)))
    assert torch.equal(x, before)


def test_gravity_is_estimated_from_total_acceleration() -> None:
    """A short window gives its mean; a long one gives what is slower than 0.3 Hz."""
    time = torch.arange(1000) / 50.0
    sway, step = 0.3 * torch.sin(2 * torch.pi * 0.1 * time), 0.2 * torch.sin(2 * torch.pi * 2.0 * time)
    x = torch.stack([1.0 + sway + step, torch.zeros(1000), torch.zeros(1000)])[None]
    long = table(x, spec(PHONE[:3]))
    assert np.exp(long["gravity_x.std"][0]) == pytest.approx(0.3 / 2**0.5, rel=0.02)
    assert np.exp(long["body_acc_x.std"][0]) == pytest.approx(0.2 / 2**0.5, rel=0.02)
    short = table(x[..., :128], spec(PHONE[:3]))
    assert np.exp(short["gravity_x.std"][0]) == pytest.approx(FLOOR, rel=0.01)
    assert short["gravity_x.mean"][0] == pytest.approx(x[0, 0, :128].mean().item(), abs=1e-5)
    assert short["gravity.angle_x"][0] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("shape", [(4, 8, 64), (4, 9, MIN_SAMPLES - 1), (9, 64)])
def test_refuses_windows_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"need windows \(N, 9, T\) with T >= 16, found \(\d+, \d+"):
        expert_features(torch.zeros(shape), spec(PHONE))


def test_a_linear_model_reads_activities_from_them(real: tuple[Windows, Windows]) -> None:
    """The baseline that encoders are compared with: at least 95 % with all labels, 86 % with 126 of them."""
    train, test = real
    columns, unseen = (expert_features(torch.from_numpy(part.x), part.meta.spec).numpy() for part in real)
    for rows, least in ((np.arange(len(train)), 0.95), (draw_labels(train, 1, seed=0), 0.86)):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=300))
        assert model.fit(columns[rows], train.y[rows]).score(unseen, test.y) >= least
