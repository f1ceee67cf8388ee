"""Windows of one data set in the form of another: what fits is the same numbers, what does not is named."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data import watch
from shared.data.conform import common_spec, conform, pick
from shared.data.spec import InputSpec
from shared.data.windows import Meta, Windows
from shared.errors import UserError

CHANNELS = ("total_acc_x", "total_acc_y", "total_acc_z", "wrist_gyro_x", "light")
UNITS = ("g", "g", "g", "rad/s", "lx")


def spec(channels=CHANNELS, units=UNITS, size=(128,), rate: float | None = 50.0) -> InputSpec:
    return InputSpec(channels=tuple(channels), units=tuple(units), size=tuple(size), rate=rate)


def windows(of: InputSpec, n: int = 3) -> Windows:
    x = np.random.default_rng(0).normal(size=(n, *of.shape)).astype(np.float32)
    meta = Meta("mine", of, ("a", "b"), ("f",))
    return Windows(x, np.arange(n) % 2, np.array(["7"] * n), meta, np.ones((n, 1), np.float32))


def sine(of: InputSpec, frequency: float) -> Windows:
    wave = np.sin(2 * np.pi * frequency * np.arange(of.time.samples) / of.time.rate)
    found = windows(of, 1)
    return Windows(np.broadcast_to(wave, found.x.shape).astype(np.float32), found.y, found.person, found.meta, None)


def test_what_fits_already_is_left_as_it_is() -> None:
    one = windows(spec())
    assert conform(one, spec()) is one


@given(st.permutations(range(5)), st.integers(1, 5))
def test_channels_are_picked_by_name_in_the_order_that_is_asked_for(order: list[int], count: int) -> None:
    chosen = order[:count]
    one = windows(spec())
    wanted = spec([CHANNELS[row] for row in chosen], [UNITS[row] for row in chosen])
    other = conform(one, wanted)
    if wanted != spec():
        np.testing.assert_array_equal(other.x, one.x[:, chosen])
        assert other.meta.spec == wanted
        assert (other.features, other.meta.feature_names) == (None, ())
    assert (other.y.tolist(), other.people, other.meta.classes) == (one.y.tolist(), one.people, one.meta.classes)


def test_units_are_converted() -> None:
    one = windows(spec())
    other = conform(one, spec(units=("m/s²", "mg", "g", "degrees/s", "lx")))
    np.testing.assert_allclose(other.x, one.x * np.array([9.80665, 1000, 1, 180 / np.pi, 1])[:, None], rtol=1e-6)
    back = conform(other, spec())
    np.testing.assert_allclose(back.x, one.x, rtol=1e-6)


@pytest.mark.parametrize(("rate", "samples"), [(25.0, 64), (100.0, 256), (40.0, 103), (52.3, 140)])
def test_a_slow_movement_is_the_same_at_every_rate(rate: float, samples: int) -> None:
    found = conform(sine(spec(size=(samples,), rate=rate), 1.0), spec()).x[0, 0]
    rows = np.arange(128)
    first = (math.ceil(samples * 50 / rate) - 128) // 2  # the middle is kept
    expected = np.sin(2 * np.pi * (rows + first) / 50)
    np.testing.assert_allclose(found[20:-20], expected[20:-20], atol=0.02)


def test_what_the_lower_rate_cannot_hold_is_gone_and_not_folded() -> None:
    fast = sine(spec(size=(512,), rate=200.0), 40.0)  # at 50 Hz it would look like 10 Hz
    assert np.abs(conform(fast, spec()).x[0, 0, 20:-20]).max() < 0.02


def test_the_middle_of_longer_windows_is_kept() -> None:
    one = windows(spec(size=(138,)))
    np.testing.assert_array_equal(conform(one, spec()).x, one.x[:, :, 5:133])


def test_a_place_may_be_unsaid_on_either_side() -> None:
    named = [f"wrist_{axis}" for axis in CHANNELS[:3]]
    plain = spec(CHANNELS[:3], UNITS[:3])
    placed = spec(named, UNITS[:3])
    for own, wanted in ((plain, placed), (placed, plain)):
        one = windows(own)
        np.testing.assert_array_equal(conform(one, wanted).x, one.x)
    with pytest.raises(UserError, match="missing channels: hip_total_acc_x"):
        conform(windows(placed), spec([f"hip_{axis}" for axis in CHANNELS[:3]], UNITS[:3]))


@pytest.mark.parametrize(
    ("own", "wanted", "words"),
    [
        (spec(), spec(("total_acc_x", "heart"), ("g", "1/min")), ["missing channels: heart"]),
        (spec(), spec(units=("g", "g", "g", "rad/s", "1")), ["light is in lx, expected 1"]),
        (spec(), spec(units=("lx", "g", "g", "rad/s", "lx")), ["total_acc_x is in g, expected lx"]),
        (spec(), spec(size=(129,)), ["2.56 s", "at least 2.58 s"]),
        (spec(size=(100,), rate=25.0), spec(size=(128,), rate=20.0), ["4 s", "at least 6.4 s"]),
        (spec(), spec(size=(32, 24), rate=None), ["windows with a time axis", "expected images"]),
        (spec(size=(8, 8), rate=None), spec(size=(8, 9), rate=None), ["8 x 8 pixels, expected 8 x 9 pixels"]),
        (
            spec(("gyro_x",), ("rad/s",)),
            spec(("wrist_gyro_x", "hip_gyro_x"), ("rad/s", "rad/s")),
            ["one channel would stand for each of wrist_gyro_x, hip_gyro_x"],
        ),
        (
            spec(("wrist_gyro_x", "hip_gyro_x"), ("rad/s", "rad/s")),
            spec(("gyro_x",), ("rad/s",)),
            ["gyro_x may be any of wrist_gyro_x, hip_gyro_x", "data.channels"],
        ),
    ],
)
def test_what_cannot_be_brought_to_fit_is_named(own: InputSpec, wanted: InputSpec, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        conform(windows(own), wanted)
    for word in ["mine", *words]:
        assert word in str(error.value)


def test_the_common_channels_of_several_data_sets_keep_the_names_of_the_first() -> None:
    first = spec(("gyro_x", "total_acc_x", "light"), ("rad/s", "g", "lx"))
    second = spec(("wrist_total_acc_x", "wrist_gyro_x"), ("m/s²", "rad/s"), (64,), 25.0)
    assert common_spec([first, second]) == spec(("gyro_x", "total_acc_x"), ("rad/s", "g"))
    with pytest.raises(UserError, match=r"a channel in common, found gyro_x, total_acc_x, light; heart"):
        common_spec([first, spec(("heart",), ("1/min",))])
    with pytest.raises(UserError, match=r"one channel would stand for each of a_gyro_x, b_gyro_x: .*data.channels"):
        common_spec([spec(("a_gyro_x", "b_gyro_x"), ("rad/s", "rad/s")), first])
    assert pick(second, ["gyro_x"]) == spec(("gyro_x",), ("rad/s",), (64,), 25.0)
    with pytest.raises(UserError, match="missing channels: light; there are wrist_total_acc_x, wrist_gyro_x"):
        pick(second, ["light"])


def test_changes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    train, _ = watch.load(None)
    conform(train[:2], train.meta.spec.model_copy(update={"size": (32,), "rate": 25.0}))
    assert "windows of watch" in caplog.text
    assert "from 50 to 25 Hz" in caplog.text
    assert "the middle 1.28 s of 2.56 s" in caplog.text
