"""Samples at any times become even pieces: movements stay, no piece lies over a gap, what was not worn is left out."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from recordings import RATE, recording
from scipy.interpolate import Akima1DInterpolator
from scipy.signal import butter, lfilter

from shared.data.importing import align as aligning
from shared.data.importing.align import LONGEST_GAP, Piece, Stream, align
from shared.data.importing.labels import Track
from shared.data.importing.worn import Left, clipped, left_on_the_table, not_worn
from shared.errors import UserError
from shared.gravity import CUTOFF, body_acceleration

Floats = NDArray[np.float64]
ACC = ("total_acc_x", "total_acc_y", "total_acc_z")
NAMES = (*ACC, "gyro_x", "gyro_y", "gyro_z")


def swing(time: Floats, frequency: float) -> Floats:
    """Total acceleration of 1 g that swings, (N, 3)."""
    movement = 0.3 * np.sin(2 * np.pi * frequency * time)
    return np.stack([movement, np.ones_like(time), 0.5 * movement], axis=1)


def aligned(time: Floats, x: Floats, rate: float = 50.0) -> list[Piece]:
    return align([Stream("walk", time, x, NAMES[: x.shape[1]])], rate, 2.56)[0]


@given(
    rate=st.floats(21.0, 400.0),
    frequency=st.floats(0.3, 4.0),
    jitter=st.floats(0.0, 0.2),
    decimals=st.sampled_from([3, 6]),
    start=st.sampled_from([0.0, 1.7e9]),
)
def test_movements_and_time_are_kept_at_any_rate_with_any_jitter(
    rate: float, frequency: float, jitter: float, decimals: int, start: float
) -> None:
    steps = np.arange(int(12 * rate))
    time = (steps + np.random.default_rng(0).uniform(-jitter, jitter, len(steps))) / rate
    x = swing(time, frequency)
    stamps = np.unique(time.round(decimals), return_index=True)[1]
    (piece,) = aligned(start + time.round(decimals)[stamps], x[stamps])
    assert piece.rate == pytest.approx(50.0, rel=0.0101)
    assert len(piece.x) / piece.rate == pytest.approx(12.0, abs=3 / 21)
    inner = (piece.time - start > 1) & (piece.time - start < 11)
    # A clock that is rounded to a millisecond, or slow samples, tell a swing of 4 Hz less well.
    np.testing.assert_allclose(piece.x[inner], swing(piece.time - start, frequency)[inner], atol=0.05)


@given(
    st.lists(st.tuples(st.floats(0.0, 60.0), st.floats(0.02, 3.0)), max_size=4),
    st.floats(30.0, 200.0),
)
def test_a_piece_lies_over_no_gap_and_all_time_between_gaps_is_in_a_piece(
    gaps: list[tuple[float, float]], rate: float
) -> None:
    time = np.arange(0, 60, 1 / rate)
    keep = np.ones(len(time), np.bool_)
    for start, length in gaps:
        keep &= (time < start) | (time >= start + length)
    if keep.sum() < 100:
        return
    time = time[keep]
    pieces, found = align([Stream("walk", time, swing(time, 1.0), ACC)], 50.0, 2.56)
    breaks = [(a, b) for a, b in pairwise(time) if b - a > LONGEST_GAP]
    assert found.gaps == breaks
    for piece in pieces:
        assert not any(piece.time[0] < b - 1e-6 and piece.time[-1] > a + 1e-6 for a, b in breaks)  # of rounding
    inside = sum(len(piece.x) / piece.rate for piece in pieces)
    short = sum(b - a for a, b in found.left[Left.SHORT])
    assert inside + short == pytest.approx(
        time[-1] - time[0] - sum(b - a for a, b in breaks), abs=0.05 * (len(breaks) + 1)
    )


def test_a_faster_movement_than_the_target_rate_can_carry_is_filtered_out() -> None:
    time = np.arange(0, 20, 1 / 200)
    x = swing(time, 1.0)
    x[:, 0] += 0.5 * np.sin(2 * np.pi * 60 * time)  # at 50 Hz it would look like 10 Hz
    (piece,) = aligned(time, x)
    inner = slice(50, -50)
    np.testing.assert_allclose(piece.x[inner], swing(piece.time, 1.0)[inner], atol=0.01)


def test_time_stamps_that_are_rounded_to_ten_milliseconds_lose_no_samples() -> None:
    time = np.arange(0, 20, 1 / 70)
    pieces, found = align([Stream("walk", time.round(2), swing(time, 1.0), ACC)], 50.0, 2.56)
    assert (found.filled, len(pieces)) == (0, 1)
    assert found.rates["walk"] == pytest.approx(70, rel=0.01)
    np.testing.assert_allclose(pieces[0].x[50:-50], swing(pieces[0].time, 1.0)[50:-50], atol=0.05)


def test_sensors_of_other_rates_and_starts_share_a_clock_and_what_only_one_measured_is_told() -> None:
    fast, slow = np.arange(0, 30, 1 / 104), np.arange(4.003, 20, 1 / 26)
    streams = [Stream("acc", fast, swing(fast, 1.0), ACC), Stream("gyro", slow, swing(slow, 1.5), NAMES[3:])]
    (piece,), found = align(streams, 50.0, 2.56)
    assert piece.start == pytest.approx(4.003)
    assert found.left[Left.APART] == [(0.0, slow[0]), (slow[-1], fast[-1])]
    inner = slice(50, -50)
    expected = np.concatenate([swing(piece.time, 1.0), swing(piece.time, 1.5)], axis=1)
    np.testing.assert_allclose(piece.x[inner], expected[inner], atol=0.02)
    assert found.rates == pytest.approx({"acc": 104, "gyro": 26}, rel=1e-3)


def test_sensors_that_never_measured_together_give_nothing() -> None:
    early, late = np.arange(0, 10, 0.02), np.arange(20, 30, 0.02)
    streams = [Stream("acc", early, swing(early, 1), ACC), Stream("gyro", late, swing(late, 1), NAMES[3:])]
    pieces, found = align(streams, 50.0, 2.56)
    assert (pieces, found.left[Left.APART]) == ([], [(0.0, late[-1])])


def test_lost_samples_are_marked_where_they_were_filled() -> None:
    time, x = np.arange(500) / RATE, recording(samples=500)
    keep = ~np.isin(np.arange(500), [100, 200, 201, 202])
    (piece,), found = align([Stream("walk", time[keep], x[keep], NAMES)], 50.0, 2.56)
    np.testing.assert_array_equal(np.flatnonzero(piece.filled), [100, 200, 201, 202])
    assert found.filled == 4
    np.testing.assert_allclose(piece.x[~piece.filled], x[keep], atol=1e-9)


def test_repeated_and_late_samples_are_counted() -> None:
    time, x = np.arange(1000) / RATE, recording()
    order = np.insert(np.arange(1000), 300, 299)
    order[[500, 501]] = order[[501, 500]]
    pieces, found = align([Stream("walk", time[order], x[order], NAMES)], 50.0, 2.56)
    assert (found.repeated, found.sorted) == (1, 1)
    np.testing.assert_allclose(pieces[0].x, x, atol=1e-9)


# What no worn sensor gives


def still(minutes: int, rate: float, noise: float) -> Floats:
    gravity = np.array([0.0, 0.0, 1.0])
    return gravity + np.random.default_rng(0).normal(0, noise, (round(60 * minutes * rate), 3))


@pytest.mark.parametrize(
    ("minutes", "noise", "share"),
    [(70, 0.005, 1.0), (70, 0.02, 0.0), (50, 0.005, 0.0)],  # a table; a sleeper moves more; an hour is not over
)
def test_a_device_on_a_table_is_still_for_an_hour(minutes: int, noise: float, share: float) -> None:
    assert left_on_the_table(still(minutes, 10.0, noise), ACC, 10.0).mean() == share


def test_an_hour_on_a_table_within_a_day_is_left_out_to_the_minute() -> None:
    x = np.concatenate([swing(np.arange(0, 600, 0.1), 1.0), still(90, 10.0, 0.004), swing(np.arange(0, 600, 0.1), 1.0)])
    pieces, found = align([Stream("day", np.arange(len(x)) / 10, x, ACC)], 10.0, 2.5)
    ((start, end),) = found.left[Left.TABLE]
    assert (start, end) == (pytest.approx(600, abs=60), pytest.approx(6000, abs=60))
    assert [len(piece.x) for piece in pieces] == [pytest.approx(6000, abs=600)] * 2


def test_zeros_and_constants_are_not_worn_but_a_zero_that_is_passed_is() -> None:
    x = recording(samples=1000)
    x[100:110, :3] = 0  # 0.2 s
    x[200:220, :3] = 0  # 0.4 s
    x[400:600] = x[400]
    mask = not_worn(x, NAMES, RATE, 2.56)
    np.testing.assert_array_equal(np.flatnonzero(mask), [*range(200, 220), *range(400, 600)])


def test_a_sensor_at_its_limit_for_several_samples_is_clipped_and_a_peak_is_not() -> None:
    x = recording(samples=1000)
    limited = np.clip(x, -2.0, 2.0)
    expected = np.zeros(1000, np.bool_)
    for values in limited.T:
        at = np.abs(values) == 2.0
        run = np.flatnonzero(np.diff(np.concatenate([[0], at, [0]])))
        for first, end in run.reshape(-1, 2):
            expected[first:end] |= end - first >= 3
    limited[:, 3:] *= 3  # gyroscopes that cannot measure 4 rad/s are no gyroscopes
    assert expected.any()
    np.testing.assert_array_equal(clipped(limited, NAMES), expected)
    assert not clipped(x, NAMES).any()


def test_a_clock_that_was_set_back_is_refused() -> None:
    time = np.arange(1000) / RATE
    with pytest.raises(UserError, match=r"walk: time goes back from 9.98 to 1 s at sample 501"):
        aligned(np.where(time < 10, time, time - 9), recording())


# Labels, gravity


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from(["walk", "sit", ""])), min_size=1, max_size=20))
def test_a_track_tells_the_label_of_the_last_sample(samples: list[tuple[float, str]]) -> None:
    time, labels = (np.array(values) for values in zip(*sorted(samples, key=lambda one: one[0]), strict=True))
    track = Track.of_samples(time, labels)
    moments = np.linspace(-1, 101, 50)
    told = [labels[time <= moment][-1] if (time <= moment).any() else "" for moment in moments]
    np.testing.assert_array_equal(track.at(moments), told)


def test_gravity_is_what_turns_slowly_and_nothing_is_delayed() -> None:
    time = np.arange(0, 60, 0.02)
    slow, fast = np.sin(2 * np.pi * CUTOFF / 10 * time), 0.2 * np.sin(2 * np.pi * 2.0 * time)
    body = body_acceleration((slow + fast)[:, np.newaxis], 50.0)[:, 0]
    inner = slice(500, -500)
    np.testing.assert_allclose(body[inner], fast[inner], atol=0.01)


def test_gravity_of_a_filter_that_is_run_forwards_and_backwards_by_hand() -> None:
    total = recording(samples=1000)[:, :1]
    b, a = butter(3, 0.3, fs=50.0)
    padded = np.concatenate([np.repeat(total[:1], 3000, axis=0), total, np.repeat(total[-1:], 3000, axis=0)])
    by_hand = lfilter(b, a, lfilter(b, a, padded, axis=0)[::-1], axis=0)[::-1][3000:-3000]
    np.testing.assert_allclose(body_acceleration(total, 50.0)[300:-300], (total - by_hand)[300:-300], atol=0.02)


@given(count=st.integers(2, 200), some=st.integers(1, 60), still=st.integers(0, 30), seed=st.integers(0, 99))
def test_samples_interpolated_a_part_at_a_time_are_those_interpolated_at_once(
    count: int, some: int, still: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.uniform(0.01, 0.03, count))
    x = rng.normal(size=(count, 3))
    x[count // 2 : count // 2 + still] = 1.0
    moments = np.sort(np.concatenate([time[[0, -1]], rng.uniform(time[0], time[-1], 2 * count)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aligning, "INTERPOLATED", some)
        found = aligning.interpolated(time, x, moments)
    np.testing.assert_allclose(found, Akima1DInterpolator(time, x)(moments), rtol=1e-12, atol=1e-12)


def test_recordings_are_read_and_aligned_where_there_is_no_torch() -> None:
    code = (
        "import sys, shared.gravity, shared.data.importing.propose, shared.data.importing.cutting; "
        "assert not {'torch', 'sklearn', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
