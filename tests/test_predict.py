"""Activities of a recording: right where it fits the model, refused in plain words where it does not."""

import csv
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import ROOT, unprivileged
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import resample_poly

from shared.checkpoint import EncoderCard
from shared.data import watch
from shared.data.statistics import ChannelStatistics
from shared.encoders import EncoderSettings, build_encoder
from shared.errors import UserError
from shared.evaluate import embed, estimate_norm_statistics, fit_linear_probe
from shared.export import Source, build_onnx
from shared.plausible import check_units
from shared.predict import (
    METADATA_KEY,
    Activity,
    Recording,
    load_model,
    main,
    predict,
    read_recording,
    resample,
)
from shared.seeding import seeded_initialisation

pytestmark = pytest.mark.numerics

RATE = watch.SPEC.time.rate
SETTINGS = EncoderSettings(
    name="fcn", width=8, norm="batch", pooling="mean", log_input=None, pooled_blocks="last", hidden=None, align=None
)
Signal = NDArray[np.float64]
Caplog = pytest.LogCaptureFixture


@pytest.fixture(scope="module")
def source() -> Source:
    train, test = watch.load(None)
    train, statistics = train[::4], ChannelStatistics.of(train)
    with seeded_initialisation(1):
        encoder = build_encoder(SETTINGS, train.meta.spec)
    encoder.standardise(statistics.mean, statistics.std)
    estimate_norm_statistics(encoder, train.x)
    card = EncoderCard.describe(encoder, train.meta, statistics, "digest")
    return Source(encoder, card, fit_linear_probe(train, embed(encoder, train.x), "all", 0), train, test)


@pytest.fixture(scope="module")
def models(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for artifact in build_onnx(source):
        (folder / artifact.file).write_bytes(artifact.content)
    return folder


@pytest.fixture(scope="module")
def signal() -> Signal:
    """A real recording of a person whom nothing was trained on: about a minute of an exercise, (samples, 6)."""
    recordings = watch._read(watch._find())
    whose = [index for index, person in enumerate(recordings["subject"]) if person == 9]
    found: Signal = np.asarray(recordings["X"][whose[0]], dtype=np.float64)
    return found


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return functools.partial(write_columns, tmp_path / "recording.csv")


def write_columns(path: Path, columns: dict[str, Any]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def columns_of(signal: Signal, time: Signal | None = None) -> dict[str, Signal]:
    columns = dict(zip(watch.SPEC.channels, signal.T.copy(), strict=True))
    return columns if time is None else {"time": time} | columns


def even_time(samples: int, rate: float = RATE) -> Signal:
    return np.arange(samples) / rate


def read_out(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_real_recording_gets_the_activities_that_the_probe_gives_its_windows(
    source: Source, models: Path, signal: Signal, write: Write, tmp_path: Path
) -> None:
    shuffled = dict(sorted(columns_of(signal, even_time(len(signal)) + 7.5).items(), reverse=True))
    main(["--model", str(models / "classifier.onnx"), str(write(shuffled)), "--out", str(tmp_path / "out.csv")])
    rows = read_out(tmp_path / "out.csv")

    starts = range(0, len(signal) - 127, 64)
    windows = np.stack([signal[start : start + 128].T for start in starts]).astype(np.float32)
    probe = source.probe
    expected = probe.classifier.predict_proba(probe.scaler.transform(embed(source.encoder, windows)))
    assert len(rows) == len(windows) > 20
    assert [row["activity"] for row in rows] == [source.train.meta.classes[k] for k in expected.argmax(axis=1)]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected.max(axis=1), atol=2e-4)
    np.testing.assert_allclose([float(row["start_s"]) for row in rows], [7.5 + k / 50 for k in starts], atol=1e-3)
    np.testing.assert_allclose([float(row["end_s"]) - float(row["start_s"]) for row in rows], 2.56, atol=2e-3)
    assert {path.name for path in tmp_path.iterdir()} == {"recording.csv", "out.csv"}


def test_a_model_of_the_time_before_its_card_had_a_block_spec_is_read(models: Path, tmp_path: Path) -> None:
    model = onnx.load(models / "classifier.onnx")
    card = json.loads(model.metadata_props[0].value)
    spec = card.pop("spec")
    card |= {"channels": spec["channels"], "units": spec["units"], "rate": spec["rate"], "samples": spec["size"][0]}
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    onnx.save(model, tmp_path / "older.onnx")
    assert load_model(tmp_path / "older.onnx").card == load_model(models / "classifier.onnx").card
    assert load_model(tmp_path / "older.onnx").card.spec == watch.SPEC


def test_rate_on_the_command_line_counts_time_from_zero_and_writes_to_standard_output(
    models: Path, signal: Signal, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(models / "classifier.onnx")
    main(["--model", model, str(write(columns_of(signal))), "--rate", "50"])
    stated = capsys.readouterr().out
    main(["--model", model, str(write(columns_of(signal, even_time(len(signal)))))])
    assert capsys.readouterr().out == stated
    assert stated.splitlines()[0] == "start_s,end_s,activity,probability"
    assert stated.splitlines()[1].startswith("0.000,2.560,")


def test_a_recording_of_another_rate_is_resampled(models: Path, signal: Signal, write: Write) -> None:
    model = load_model(models / "classifier.onnx")
    here = predict(model, read_recording(write(columns_of(signal)), model.card.spec, 50.0))
    faster = resample_poly(signal, 2, 1, axis=0, padtype="edge")
    there = predict(model, read_recording(write(columns_of(faster)), model.card.spec, 100.0))
    assert len(here) == len(there)
    same = np.mean([a.name == b.name for a, b in zip(here, there, strict=True)])
    assert same > 0.9
    np.testing.assert_allclose([a.start for a in there], [a.start for a in here], atol=1e-9)


@given(st.floats(21.0, 400.0), st.floats(0.2, 5.0))
def test_resampling_keeps_levels_movements_and_time(rate: float, frequency: float) -> None:
    time = np.arange(int(10 * rate)) / rate
    x = np.stack([np.ones_like(time), np.sin(2 * np.pi * frequency * time)], axis=1)
    there = resample(Recording("here", x, rate, 3.0), 50.0)
    assert there.start == 3.0
    assert there.rate == pytest.approx(50.0, rel=0.01)
    assert len(there.x) / there.rate == pytest.approx(len(time) / rate, abs=1.5 / min(rate, 50))
    again = np.arange(len(there.x)) / there.rate
    inner = (again > 1) & (again < 9)
    np.testing.assert_allclose(there.x[:, 0], 1, atol=0.01)
    np.testing.assert_allclose(there.x[inner, 1], np.sin(2 * np.pi * frequency * again[inner]), atol=0.03)


def test_nearly_the_rate_of_the_model_is_not_resampled_but_keeps_its_time(signal: Signal) -> None:
    recording = Recording("here", signal, 49.8, 0.0)
    assert resample(recording, 50.0) is recording


def test_time_gives_the_rate_although_its_stamps_are_rounded(signal: Signal, write: Write) -> None:
    rate = 128.0
    path = write(columns_of(signal, even_time(len(signal), rate).round(3)))
    assert read_recording(path, watch.SPEC, None)[0].rate == pytest.approx(rate, rel=1e-3)


Change = Callable[[dict[str, Signal]], dict[str, Signal]]


def scaled(kind: str, factor: float) -> Change:
    return lambda columns: {name: factor * x if kind in name else x for name, x in columns.items()}


def retimed(change: Callable[[Signal], Signal]) -> Change:
    return lambda columns: columns | {"time": change(columns["time"])}


def without(*names: str) -> Change:
    return lambda columns: {name: x for name, x in columns.items() if name not in names}


def faster_later(time: Signal) -> Signal:
    return np.cumsum(np.where(np.arange(len(time)) < len(time) / 2, 0.02, 0.0167))


def jittered(time: Signal) -> Signal:
    return time + np.random.default_rng(0).uniform(-0.0045, 0.0045, len(time))


REFUSED: dict[str, tuple[Change, str]] = {
    "m/s²": (
        scaled("acc", 9.80665),
        r"total_acc must be in g, .* found \d+\.?\d*: it looks like m/s²; divide it by 9.8",
    ),
    "milli-g": (scaled("acc", 1000), "it looks like mg; divide it by 1000"),
    "no gravity": (
        scaled("acc", 0.01),
        r"total_acc must be in g, with a median magnitude of about 1 \(0.5 to 5\), found",
    ),
    "degrees": (
        scaled("gyro", 180 / np.pi),
        "gyro must be in rad/s, .*: it looks like degrees/s; divide it by 57.29578",
    ),
    "missing": (
        without("gyro_x", "gyro_y"),
        r"missing columns: gyro_x, gyro_y; expected total_acc_x \(g\), .*time \(s\)",
    ),
    "unknown": (lambda columns: columns | {"label": columns["time"]}, "unknown columns: 'label'; expected total_acc_x"),
    "misspelt": (
        lambda columns: without("gyro_z")(columns) | {"gyro_Z": columns["gyro_z"]},
        r"missing columns: gyro_z; unknown columns: 'gyro_Z' \(did you mean 'gyro_z'\?\)",
    ),
    "no rate": (without("time"), "at what rate.* Give --rate HZ, or a column time in seconds"),
    "too many lost samples": (
        lambda columns: {name: np.delete(x, np.s_[::7]) for name, x in columns.items()},
        "expected a sample every 0.02 s, found that 14 % of them are lost, and interpolate at most 10 %",
    ),
    "zeros": (
        lambda columns: {name: x if name == "time" else 0 * x for name, x in columns.items()},
        "all of it is zero or constant, which no worn sensor measures",
    ),
    "constant": (
        lambda columns: {name: x if name == "time" else 0 * x + 0.6 for name, x in columns.items()},
        "all of it is zero or constant, which no worn sensor measures",
    ),
    "irregular": (retimed(jittered), "time is irregular: expected a sample every 0.0"),
    "rate changes": (retimed(faster_later), "time is irregular: expected a sample every 0.018"),
    "backwards": (retimed(lambda t: t[::-1]), r"time must increase, found \S+ after \S+ \(sample 2\)"),
    "repeated": (
        retimed(lambda t: np.repeat(t[::2], 2)[: len(t)]),
        r"time must increase, found 0 after 0 \(sample 2\)",
    ),
    "milliseconds": (retimed(lambda t: 1000 * t), r"time must be in seconds, found a sample every 20; .*milliseconds"),
    "nanoseconds": (retimed(lambda t: 1e9 * t), "it looks like nanoseconds: divide it by 1000000000"),
    "slow": (retimed(lambda t: 5 * t), "a model of 50 Hz needs a recording of 20 to 5000 Hz, found 10 Hz"),
    "NaN": (
        lambda columns: columns | {"gyro_y": np.where(np.arange(len(columns["time"])) == 3, np.nan, columns["gyro_y"])},
        "line 5, column gyro_y: expected a number, found 'nan'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_model_is_refused_in_plain_words(case: str, signal: Signal, write: Write) -> None:
    change, message = REFUSED[case]
    path = write(change(columns_of(signal, even_time(len(signal)))))
    with pytest.raises(UserError, match=message) as error:
        read_recording(path, watch.SPEC, None)
    assert "recording.csv" in str(error.value)


TEXTS = {
    "empty": (b"", "is not a CSV file: its first line must name the columns"),
    "picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xd8", "is not a CSV file: it holds bytes that are no text"),
    "no header": (b"0.1,0.2,1.0,0,0,0\n0.1,0.2,1.0,0,0,0\n", "first line must name the columns, found the numbers 0.1"),
    "semicolons": (b"time;total_acc_x\n0;1\n", "is it separated by commas"),
    "prose": (b"Dear reader\n", "missing columns: total_acc_x, .*unknown columns: 'Dear reader'"),
    "only a header": (b"{header}\n", "holds no samples below its header"),
    "a word": (b"{header}\n1,1,1,1,1,x\n", "line 2, column gyro_z: expected a number, found 'x'"),
    "an empty cell": (
        b"{header}\n1,1,1,1,1,1\n1,,1,1,1,1\n",
        "line 3, column total_acc_y: expected a number, found ''",
    ),
    "infinite": (b"{header}\n1,1,1,1,1,inf\n", "line 2, column gyro_z: expected a number, found 'inf'"),
    "a short line": (b"{header}\n1,1,1,1,1,1\n1,1,1\n", "line 3: expected 6 columns, found 3"),
    "only short lines": (b"{header}\n1,1,1\n", "line 2: expected 6 columns, found 3"),
    "one line": (b"time,{header}\n0,1,1,1,1,1,1\n", "too short"),
    "more than float32 holds": (
        b"{header}\n1,1,1,1,1,1\n1,1,1e39,1,1,1\n",
        r"line 3, column total_acc_z: expected a number of at most 3.4e\+38 \(float32\), found '1e39'",
    ),
    "less than float32 holds": (b"{header}\n1,1,1,1,1,-1e39\n", "line 2, column gyro_z: .*float32.*, found '-1e39'"),
    "no time": (b"time,{header}\nnoon,1,1,1,1,1,1\n", "line 2, column time: expected seconds, or an ISO 8601 time"),
    "times and numbers": (
        b"time,{header}\n2024-05-01T10:00:00,1,1,1,1,1,1\n0.02,1,1,1,1,1,1\n",
        "line 3, column time: expected seconds, or an ISO 8601 time as on all other lines, found '0.02'",
    ),
    "numbers and times": (
        b"time,{header}\n0,1,1,1,1,1,1\n2024-05-01T10:00:00,1,1,1,1,1,1\n",
        "line 3, column time: expected seconds, or an ISO 8601 time as on all other lines, found '2024-05-01T10:00:00'",
    ),
    "twice": (b"{header},gyro_x\n", "columns that occur twice: gyro_x"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_is_no_table_of_numbers_is_refused_by_line(case: str, tmp_path: Path) -> None:
    content, message = TEXTS[case]
    path = tmp_path / "recording.csv"
    path.write_bytes(content.replace(b"{header}", ",".join(watch.SPEC.channels).encode()))
    with pytest.raises(UserError, match=message) as error:
        read_recording(path, watch.SPEC, None if case == "one line" else 50.0)
    assert "recording.csv" in str(error.value)


def test_rates_that_disagree_are_refused(signal: Signal, write: Write) -> None:
    path = write(columns_of(signal, even_time(len(signal))))
    with pytest.raises(UserError, match="--rate says 100 Hz, the column time says 50 Hz"):
        read_recording(path, watch.SPEC, 100.0)
    assert read_recording(path, watch.SPEC, 50.0)[0].rate == pytest.approx(50.0)


@pytest.mark.parametrize("rate", [0.0, -50.0, float("nan"), float("inf")])
def test_a_senseless_rate_is_refused(rate: float, signal: Signal, write: Write) -> None:
    with pytest.raises(UserError, match="needs a recording of 20 to 5000 Hz"):
        read_recording(write(columns_of(signal)), watch.SPEC, rate)


def test_units_of_all_real_recordings_are_right_and_wrong_ones_are_noticed() -> None:
    for index, signal in enumerate(watch._read(watch._find())["X"]):
        check_units(f"recording {index}", watch.SPEC.channels, signal.T[np.newaxis])
        for wrong in ([9.80665] * 3 + [1] * 3, [1000] * 3 + [1] * 3, [1] * 3 + [180 / np.pi] * 3):
            with pytest.raises(UserError, match="it looks like"):
                check_units("wrong", watch.SPEC.channels, (signal * wrong).T[np.newaxis])


def test_acceleration_without_gravity_is_judged_too(signal: Signal, write: Write) -> None:
    channels = tuple(name.replace("total", "wrist_body") for name in watch.SPEC.channels)
    spec = watch.SPEC.model_copy(update={"channels": channels})
    walking = dict(zip(channels, (signal * [0.4, 0.4, 0.4, 1, 1, 1]).T, strict=True))
    assert read_recording(write(walking), spec, 50.0)[0].x.shape == signal.shape
    with pytest.raises(UserError, match=r"wrist_body_acc must be in g, .*: it looks like m/s²"):
        read_recording(write(scaled("acc", 9.80665)(walking)), spec, 50.0)


def test_a_recording_shorter_than_a_window_is_refused(models: Path, signal: Signal, write: Write) -> None:
    model = load_model(models / "classifier.onnx")
    shortest = read_recording(write(columns_of(signal[:128])), model.card.spec, 50.0)
    assert len(predict(model, shortest)) == 1
    short = read_recording(write(columns_of(signal[:127])), model.card.spec, 50.0)
    with pytest.raises(UserError, match=r"too short: expected at least 2.56 s \(128 samples at 50 Hz\), found 2.54 s"):
        predict(model, short)


def test_what_is_no_classifier_of_ours_is_refused(models: Path, tmp_path: Path) -> None:
    stranger = onnx.load(models / "classifier.onnx")
    del stranger.metadata_props[:]
    onnx.save(stranger, tmp_path / "stranger.onnx")
    onnx.helper.set_model_props(stranger, {METADATA_KEY: '{"kind": "classifier"}'})
    onnx.save(stranger, tmp_path / "half.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.onnx").write_bytes((models / "classifier.onnx").read_bytes()[:5000])
    for name, message in {
        tmp_path / "stranger.onnx": "is not a model that fedhar exported",
        tmp_path / "half.onnx": "is not a model that fedhar exported: data: Field required$",
        tmp_path / "text.onnx": "is not an ONNX model",
        tmp_path / "empty.onnx": "is not an ONNX model",
        tmp_path / "cut.onnx": "is not an ONNX model",
        tmp_path / "none.onnx": "cannot read the model .*No such file",
        models / "encoder.onnx": r"encoder.onnx is an encoder, which names no activities; use the classifier.onnx",
    }.items():
        with pytest.raises(UserError, match=message):
            load_model(name)


def named(models: Path, path: Path, rate: float | None = None) -> list[Activity]:
    model = load_model(models / "classifier.onnx")
    return predict(model, read_recording(path, model.card.spec, rate))


def still(name: str, value: float) -> Callable[[str, Signal], Signal]:
    """Make the channels whose name begins so constant."""
    return lambda channel, x: np.full_like(x, value) if channel.startswith(name) else x


UNWORN = {
    "zeros": still("", 0.0),
    "acceleration of zero": still("total_acc", 0.0),
    "constants": still("", 0.6),
    "the last value, again and again": lambda channel, x: np.full_like(x, x[0]),
}


@pytest.mark.parametrize(("first", "last", "timed"), [(0, 200, True), (300, 460, False), (1000, None, True)])
@pytest.mark.parametrize("case", UNWORN)
def test_no_window_lies_over_what_no_worn_sensor_measures(
    case: str, first: int, last: int | None, timed: bool, models: Path, signal: Signal, write: Write, caplog: Caplog
) -> None:
    columns = columns_of(signal)
    for name, x in columns.items():
        x[first:last] = UNWORN[case](name, x[first:last])
    last = len(signal) if last is None else last
    path = write({"time": even_time(len(signal))} | columns if timed else columns)
    activities = named(models, path, None if timed else 50.0)

    starts = [*range(0, first - 127, 64), *range(last, len(signal) - 127, 64)]
    np.testing.assert_allclose([a.start for a in activities], [start / 50 for start in starts], atol=1e-6)
    (message,) = caplog.messages
    assert str(path) in message
    assert f"{max(first - 1, 0) / 50:.2f} to {min(last, len(signal) - 1) / 50:.2f} s" in message


@pytest.mark.parametrize(
    ("name", "samples"), [("total_acc", 12), ("gyro", 400), ("total_acc_x", 400), ("", 12), ("total_acc_y", 400)]
)
def test_what_a_worn_sensor_may_measure_is_kept(
    name: str, samples: int, models: Path, signal: Signal, write: Write, caplog: Caplog
) -> None:
    """A moment of free fall, a gyroscope that gives nothing for slow turns, an axis at rest."""
    columns = columns_of(signal)
    for channel, x in columns.items():
        x[300 : 300 + samples] = still(name, 0.0)(channel, x[300 : 300 + samples])
    assert len(named(models, write(columns), 50.0)) == (len(signal) - 128) // 64 + 1
    assert not caplog.messages


@given(st.data())
def test_a_few_lost_samples_are_interpolated(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    x, rate = rng.normal(0.5, 1, (600, 6)), data.draw(st.sampled_from([25.0, 50.0, 128.0]))
    lost = np.zeros(600, bool)
    for first in data.draw(st.lists(st.integers(1, 590), max_size=6)):
        lost[first : first + data.draw(st.integers(1, 4))] = True
    lost[[0, -1]] = False
    runs = np.diff(np.flatnonzero(~lost))
    assume(runs.max() / rate < 0.25)
    time = np.arange(600)[~lost] / rate + 7.5
    with tempfile.TemporaryDirectory() as folder:
        path = write_columns(Path(folder) / "recording.csv", columns_of(x[~lost], time))
        (whole,) = read_recording(path, watch.SPEC, None)
    assert (whole.rate, whole.start) == (pytest.approx(rate, rel=1e-6), 7.5)
    assert whole.x.shape == x.shape
    np.testing.assert_array_equal(whole.x[~lost], x[~lost])
    kept = np.flatnonzero(~lost)
    for sample in np.flatnonzero(lost):
        before, after = kept[kept < sample][-1], kept[kept > sample][0]
        share = (sample - before) / (after - before)
        np.testing.assert_allclose(whole.x[sample], (1 - share) * x[before] + share * x[after])


def test_lost_samples_are_counted_and_change_little(models: Path, signal: Signal, write: Write, caplog: Caplog) -> None:
    kept = np.delete(np.arange(len(signal)), [200, 400, 401, 402, 800])
    here = named(models, write(columns_of(signal, even_time(len(signal)))))
    assert not caplog.messages
    there = named(models, write(columns_of(signal[kept], kept / 50)))
    assert [(a.start, a.name) for a in there] == [(pytest.approx(a.start), a.name) for a in here]
    (message,) = caplog.messages
    assert message.endswith("recording.csv: 5 lost samples were interpolated, in gaps of up to 0.25 s")


@pytest.mark.parametrize("leap", [0.3, 0.5, 3600.0, 1e9])
def test_a_recording_is_cut_at_long_gaps(
    leap: float, models: Path, signal: Signal, write: Write, caplog: Caplog
) -> None:
    """The second piece is too short for a window."""
    cuts = np.searchsorted([400, 500], np.arange(len(signal)), side="right")
    time = even_time(len(signal)) + leap * cuts
    activities = named(models, write(columns_of(signal, time)))
    parts = [named(models, write(columns_of(signal[rows], time[rows]))) for rows in (np.s_[:400], np.s_[500:])]
    assert len(activities) == sum(map(len, parts))
    for found, expected in zip(activities, itertools.chain(*parts), strict=True):
        assert found.name == expected.name
        np.testing.assert_allclose([found.start, found.probability], [expected.start, expected.probability], rtol=1e-4)
    gaps, short = caplog.messages
    for first in (400, 500):
        assert f"{time[first - 1]:.2f} to {time[first]:.2f} s" in gaps
    assert "(shorter than a window)" in short
    assert f"{time[400]:.2f} to {time[499] + 0.02:.2f} s" in short


def test_pieces_that_are_all_shorter_than_a_window_are_refused(models: Path, signal: Signal, write: Write) -> None:
    time = even_time(300) + np.arange(300) // 100
    with pytest.raises(UserError, match=r"too short: .*\(128 samples at 50 Hz\), found 2.00 s without a gap"):
        named(models, write(columns_of(signal[:300], time)))


ISO = {
    "T": lambda moment: moment.isoformat(),
    "milliseconds": lambda moment: moment.isoformat(timespec="milliseconds"),
    "space": lambda moment: moment.isoformat(" "),
    "UTC": lambda moment: moment.isoformat() + "Z",
    "zone": lambda moment: moment.replace(tzinfo=timezone(timedelta(hours=2))).isoformat(),
    "padded": lambda moment: f" {moment.isoformat()} ",
}


@pytest.mark.parametrize("case", ISO)
@pytest.mark.parametrize("start", [datetime(2024, 5, 1, 10), datetime(2024, 12, 31, 23, 59, 50)])
def test_iso_times_count_from_the_first(start: datetime, case: str, models: Path, signal: Signal, write: Write) -> None:
    expected = named(models, write(columns_of(signal, even_time(len(signal)))))
    moments = [ISO[case](start + k * timedelta(milliseconds=20)) for k in range(len(signal))]
    found = named(models, write({"time": moments} | columns_of(signal)))
    assert [a.name for a in found] == [a.name for a in expected]
    np.testing.assert_allclose([a.start for a in found], [a.start for a in expected], atol=1e-3)


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_values_that_the_model_cannot_compute_with_are_refused(
    value: float, models: Path, signal: Signal, write: Write
) -> None:
    signal = signal.copy()
    signal[200] = value
    with pytest.raises(UserError, match=r"cannot compute with the window at 2\.56 s, whose largest value is 3e\+38"):
        named(models, write(columns_of(signal)), 50.0)


@pytest.mark.parametrize("victim", ["recording.csv", "classifier.onnx"])
@pytest.mark.parametrize("way", ["as it is", "relative", "symbolic link", "hard link", "through a folder"])
def test_the_output_never_takes_the_place_of_an_input(
    way: str, victim: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recording is no recording: nothing has been read yet."""
    recording, model = tmp_path / "recording.csv", tmp_path / "classifier.onnx"
    recording.write_text("no recording")
    model.write_text("no model")
    out = tmp_path / "out"
    if way == "as it is":
        out = tmp_path / victim
    elif way == "relative":
        monkeypatch.chdir(tmp_path)
        out = Path(victim)
    elif way == "through a folder":
        (tmp_path / "folder").mkdir()
        out = tmp_path / "folder" / ".." / victim
    elif way == "symbolic link":
        out.symlink_to(tmp_path / victim)
    else:
        out.hardlink_to(tmp_path / victim)
    with pytest.raises(UserError, match=f"--out .* is the same file as .*{victim}, which it would overwrite"):
        main(["--model", str(model), str(recording), "--rate", "50", "--out", str(out)])
    assert (recording.read_text(), model.read_text()) == ("no recording", "no model")


ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
"""


def test_it_runs_where_nothing_but_onnxruntime_numpy_scipy_pydantic_and_rich_is_installed(
    models: Path, signal: Signal, write: Write, tmp_path: Path
) -> None:
    others = ("torch", "onnx", "sklearn", "yaml", "flwr", "safetensors", "seglearn", "matplotlib", "ray")
    (tmp_path / "sitecustomize.py").write_text(ABSENT.format(others))
    command = [sys.executable, "-m", "shared.predict", "--model", str(models / "classifier.onnx"), "--rate", "50"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    recording = write(columns_of(signal))
    done = subprocess.run([*command, str(recording)], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == (len(signal) - 128) // 64 + 2
    recording.write_text(recording.read_text().replace("gyro_x", "gyro"))
    refused = subprocess.run([*command, str(recording)], env=environment, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: ")
    assert "Traceback" not in refused.stderr


def test_an_output_that_cannot_be_written_is_one_readable_error(
    models: Path, signal: Signal, write: Write, tmp_path: Path
) -> None:
    folder, recording = tmp_path / "folder", write(columns_of(signal))
    folder.mkdir(mode=0o555)
    command = [*unprivileged(), sys.executable, "-m", "shared.predict"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    inputs = ["--model", str(models / "classifier.onnx"), str(recording), "--rate", "50"]
    out = folder / "below" / "out.csv"
    done = subprocess.run([*command, *inputs, "--out", str(out)], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: cannot write {out}: Permission denied\n"
    for out, why in ((recording / "out.csv", "File exists"), (folder, "it is a folder or a device")):
        with pytest.raises(UserError, match=f"^cannot write {out}: {why}$"):
            main([*inputs, "--out", str(out)])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "recording.csv"]


def test_collected_recordings_that_went_wrong(models: Path, cases: Path, caplog: Caplog) -> None:
    (good,) = named(models, cases / "predict-good.csv")
    assert not caplog.messages
    zeros = named(models, cases / "predict-zero-stretch.csv")
    assert [a.start for a in zeros] == pytest.approx([0, 1.28, 7.68])
    iso = named(models, cases / "predict-iso-time.csv")
    assert [(a.start, a.name) for a in iso] == [(0, good.name)]
    lost = named(models, cases / "predict-one-lost-sample.csv")
    assert [a.start for a in lost] == pytest.approx([0, 1.28, 2.56])
    told = [message.split(".csv: ")[1] for message in caplog.messages]
    assert told == [
        "left out (no samples, or none that a worn sensor gives): 3.82 to 7.68 s",
        "3 lost samples were interpolated, in gaps of up to 0.25 s",
    ]
    with pytest.raises(UserError, match=r"line \d+, column \w+: expected a number .*float32.*, found '1e\+39'"):
        named(models, cases / "predict-1e39-nan-probability.csv")
