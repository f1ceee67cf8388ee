"""Activities of a recording: right where it fits the model, refused in plain words where it does not."""

import csv
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import ROOT, modules_without, unprivileged
from numpy.typing import NDArray
from recordings import (
    BAD,
    DISTURBED,
    SAME,
    TIME,
    cut,
    phyphox,
    recording,
    sensor_logger,
    spread,
    text,
    write_recipe,
    zipped,
)
from recordings import columns as whole_columns
from recordings import write as write_file
from scipy.interpolate import CubicSpline
from scipy.signal import resample_poly

from shared.checkpoint import EncoderCard
from shared.data import watch
from shared.data.importing.recipe_file import read_recipe
from shared.data.spec import InputSpec
from shared.data.statistics import ChannelStatistics
from shared.encoders import build_encoder
from shared.errors import UserError, run_command
from shared.evaluate import embed, estimate_norm_statistics, fit_linear_probe
from shared.export import Source, build_onnx
from shared.plausible import check_units
from shared.predict import METADATA_KEY, Activity, load_model, main, predict, read_recording
from shared.seeding import seeded_initialisation
from tests.pretext import encoder_of

pytestmark = pytest.mark.numerics

RATE = watch.SPEC.time.rate
SETTINGS = encoder_of("fcn", 8)
Signal = NDArray[np.float64]
UCI_HAR = InputSpec(
    channels=tuple(f"{sensor}_{axis}" for sensor in ("body_acc", "gyro", "total_acc") for axis in "xyz"),
    units=("g",) * 3 + ("rad/s",) * 3 + ("g",) * 3,
    size=(128,),
    rate=50.0,
)


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


LAYOUTS = {
    "semicolons": "columns parted by semicolons: so that ",
    "tabs and decimal commas": "columns parted by tabs, decimal commas: so that ",
    "comments": "the first sample in line 4: so that ",
    "ISO times": "time from 'time', ISO 8601: 50 Hz by its usual step; 0.0 % of the steps differ",
    "nanoseconds": "time from 'time' in ns: 50 Hz by its usual step; 0.0 % of the steps differ",
    "units in names": "total_acc from 'Acceleration x (m/s^2)' and y, z in m/s²: ",
    "rows twice": "50 samples repeat the time of another and were dropped",
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_what_was_guessed_and_done_is_told_in_a_line(case: str, tmp_path: Path) -> None:
    name, content = SAME[case]
    notes = read_recording(write_file(tmp_path / name, content), watch.SPEC).notes
    assert any(note.startswith(LAYOUTS[case]) for note in notes), notes
    assert not any("\n" in note for note in notes)


def test_notes_of_a_logger_beside_its_one_file_are_left_out(tmp_path: Path) -> None:
    content = {
        "Raw Data.csv": text(whole_columns()),
        "meta/device.csv": '"property","value"\n"deviceModel","phone"\n',
        "meta/time.csv": '"event","experiment time"\n"START",0.0\n"PAUSE",20.0\n',
    }
    found = read_recording(write_file(tmp_path / "mine.zip", zipped(content)), watch.SPEC)
    np.testing.assert_allclose(found.x, cut(recording()), atol=1e-5)
    again = content["Raw Data.csv"]
    twice = {"walk 1/Raw Data.csv": again, "walk 2/Raw Data.csv": again}
    same = read_recording(write_file(tmp_path / "twice.zip", zipped(twice)), watch.SPEC)
    assert (same.x == found.x).all() and any("the same file as" in note for note in same.notes)
    several = {"walk 1/Raw Data.csv": again, "walk 2/Raw Data.csv": again.rstrip("\n").rsplit("\n", 1)[0]}
    with pytest.raises(UserError, match=r"expected one recording of one person, found 2: .*walk 1.*, .*walk 2"):
        read_recording(write_file(tmp_path / "two.zip", zipped(several)), watch.SPEC)


# Every recording that import reads right is read right here, too: the same files give the same windows.


@pytest.mark.parametrize("case", SAME)
def test_one_recording_in_many_spellings_gives_the_same_windows(case: str, tmp_path: Path) -> None:
    name, content = SAME[case]
    found = read_recording(write_file(tmp_path / name, content), watch.SPEC)
    expected = cut(recording())
    np.testing.assert_allclose(found.x, expected, atol=2e-4)
    np.testing.assert_allclose(found.spans, [(1.28 * k, 1.28 * k + 2.56) for k in range(len(expected))], atol=1e-4)
    assert any(note.startswith("total_acc from ") for note in found.notes)


@pytest.mark.parametrize("case", DISTURBED)
def test_what_every_phone_records_gives_nearly_the_undisturbed_windows(case: str, tmp_path: Path) -> None:
    content, tolerance = DISTURBED[case]
    found = read_recording(write_file(tmp_path / "a.csv", content()), watch.SPEC)
    starts = np.rint(found.spans[:, 0] * RATE).astype(int)
    expected = np.stack([recording()[start : start + 128].T for start in starts])
    assert len(found.x) in (13, 14)
    if "fast" in case:  # it keeps its own rate, which is the same within 1 %, and its time
        np.testing.assert_allclose(np.diff(found.spans, axis=1), 128 / RATE / 1.007, rtol=1e-4)
        return
    error = np.sqrt(((found.x - expected) ** 2).mean(axis=(0, 2)))[:, np.newaxis]
    assert (error < tolerance * spread(expected)).all()


@pytest.mark.parametrize("logger", [sensor_logger, phyphox])
@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_or_a_zip_with_a_file_for_each_sensor(
    logger: Callable[[], dict[str, str]], packed: bool, tmp_path: Path
) -> None:
    for name, content in logger().items():
        write_file(tmp_path / "mine" / name, content)
    write_file(tmp_path / "mine.zip", zipped(logger()))
    found = read_recording(tmp_path / ("mine.zip" if packed else "mine"), watch.SPEC)
    expected = cut(CubicSpline(TIME, recording())(np.arange(0.011, 18.98, 0.02)))
    error = np.sqrt(((found.x - expected) ** 2).mean(axis=(0, 2)))[:, np.newaxis]
    assert (error < 0.05 * spread(expected)).all()
    assert found.spans[0, 0] == pytest.approx(0.011 if logger is phyphox else 0.007, abs=1e-3)
    told = "\n".join(found.notes)
    assert "100 Hz of " in told
    assert "brought to 50 Hz" in told


Change = Callable[[dict[str, Signal]], dict[str, Signal]]


def scaled(kind: str, factor: float) -> Change:
    return lambda columns: {name: factor * x if kind in name else x for name, x in columns.items()}


def retimed(change: Callable[[Signal], Signal]) -> Change:
    return lambda columns: columns | {"time": change(columns["time"])}


def without(*names: str) -> Change:
    return lambda columns: {name: x for name, x in columns.items() if name not in names}


REFUSED: dict[str, tuple[Change, str]] = {
    "no gravity": (
        scaled("acc", 0.01),
        r"missing channels: total_acc_x, .*Found body_acc from 'total_acc_x' .* 0\.01\d* has no gravity in it; ",
    ),
    "missing": (
        without("gyro_x", "gyro_y"),
        r"missing channels: gyro_x, gyro_y\. Found total_acc from .* in a recipe, and give it by --recipe",
    ),
    "of two places": (
        lambda columns: {f"{side}_{name}": x for side in ("left", "right") for name, x in columns.items()},
        "total_acc_x may be any of left_total_acc_x, right_total_acc_x: say which in a recipe",
    ),
    "no rate": (without("time"), "at what rate.* give --rate HZ"),
    "too many lost samples": (
        lambda columns: {name: np.delete(x, np.s_[::7]) for name, x in columns.items()},
        r"no window of 2\.56 s .* is left of .* windows have too many lost samples",
    ),
    "zeros": (
        lambda columns: {name: x if name == "time" else 0 * x for name, x in columns.items()},
        "no window of .* s are zero or constant",
    ),
    "constant": (
        lambda columns: {name: x if name == "time" else 0 * x + 0.6 for name, x in columns.items()},
        "no window of .* s are zero or constant",
    ),
    "backwards": (retimed(lambda t: t[::-1]), r"time goes back from \S+ to \S+ s at sample 2"),
    "repeated": (
        retimed(lambda t: np.repeat(t[::2], 2)[: len(t)]),
        r"\d+ of \d+ samples have the time of the one before them, and other values",
    ),
    "slow": (retimed(lambda t: 5 * t), r"windows at 50 Hz need samples at 20 to 5000 Hz, found one every 0\.1 s"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_model_is_refused_in_plain_words(case: str, signal: Signal, write: Write) -> None:
    change, message = REFUSED[case]
    path = write(change(columns_of(signal, even_time(len(signal)))))
    with pytest.raises(UserError, match=message) as error:
        read_recording(path, watch.SPEC, None)
    assert "recording.csv" in str(error.value)


TEXTS = {
    "empty": (b"", "is empty: it has 0 bytes"),
    "picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xd8", "is not a table of text"),
    "no header": (50 * b"0.1,0.2,1.0,0,0,0\n", "no columns look like x, y and z of an accelerometer"),
    "prose": (b"Dear reader\n", "holds no samples below its header"),
    "only a header": (b"{header}\n", "holds no samples below its header"),
    "a word": (b"{header}\n1,1,1,1,1,x\n", "line 2, column 'gyro_z': expected a number, found 'x'"),
    "times and numbers": (
        b"time,{header}\n" + 24 * b"2024-05-01T10:00:00,1,1,1,1,1,1\n" + b"0.02,1,1,1,1,1,1\n",
        "line 26, column 'time': expected an ISO 8601 time, as .*, found '0.02'",
    ),
    "one line": (b"time,{header}\n0,1,1,1,1,1,1\n", "at what rate"),
    "less than float32 holds": (b"{header}\n1,1,1,1,1,-1e39\n", "line 2, column 'gyro_z': .*float32.*, found '-1e39'"),
    "twice": (b"{header},gyro_x\n1,1,1,1,1,1,1\n", "expected columns of different names, found 'gyro_x' twice"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_is_no_table_of_numbers_is_refused_by_line(case: str, tmp_path: Path) -> None:
    content, message = TEXTS[case]
    path = write_file(tmp_path / "recording.csv", content.replace(b"{header}", ",".join(watch.SPEC.channels).encode()))
    with pytest.raises(UserError, match=message) as error:
        read_recording(path, watch.SPEC, None if case == "one line" else 50.0)
    assert "recording.csv" in str(error.value)


UNUSED = {"a column that is not there", "a test person without a recording", "a path that fits nothing"}
"""Of what is refused as a data set: people and activities, which a recording whose activities are named needs not."""


@pytest.mark.parametrize("case", BAD)
def test_what_is_bad_is_refused_in_one_message_and_nothing_is_written(
    case: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    changes = BAD[case](tmp_path / "in")
    options = [] if changes is None else ["--recipe", str(write_recipe(tmp_path, **changes))]
    arguments = ["--model", str(models / "classifier.onnx"), str(tmp_path / "in"), "--out", str(tmp_path / "out.csv")]
    monkeypatch.setattr(sys, "argv", ["predict", *arguments, *options])
    with pytest.raises(SystemExit) as exit_code:
        run_command(main)
    told = capsys.readouterr()
    if case in UNUSED or "interval" in case:
        assert exit_code.value.code == 0
        assert len(read_out(tmp_path / "out.csv")) == 14
        return
    assert exit_code.value.code == 2
    assert not (tmp_path / "out.csv").exists()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert told.err.startswith("error: ")


def test_rates_that_disagree_are_refused(signal: Signal, write: Write) -> None:
    path = write(columns_of(signal, even_time(len(signal))))
    with pytest.raises(UserError, match="--rate says 100 Hz, the column 'time' says 50 Hz"):
        read_recording(path, watch.SPEC, 100.0)
    np.testing.assert_array_equal(read_recording(path, watch.SPEC, 50.2).x, read_recording(path, watch.SPEC).x)


@pytest.mark.parametrize("rate", [0.0, -50.0, float("nan"), float("inf"), 10.0])
def test_a_senseless_rate_is_refused(rate: float, signal: Signal, write: Write) -> None:
    with pytest.raises(
        UserError, match=r"samples per second above 0, found|need samples at 20 to 5000 Hz, found one every 0\.1 s"
    ):
        read_recording(write(columns_of(signal)), watch.SPEC, rate)


def test_units_of_all_real_recordings_are_right_and_wrong_ones_are_noticed() -> None:
    for index, signal in enumerate(watch._read(watch._find())["X"]):
        check_units(f"recording {index}", watch.SPEC.channels, signal.T[np.newaxis])
        for wrong in ([9.80665] * 3 + [1] * 3, [1000] * 3 + [1] * 3, [1] * 3 + [180 / np.pi] * 3):
            with pytest.raises(UserError, match="it looks like"):
                check_units("wrong", watch.SPEC.channels, (signal * wrong).T[np.newaxis])


@pytest.mark.parametrize("place", ["", "wrist_"])
@pytest.mark.parametrize("sensor", ["body", "total"])
def test_units_are_found_out_by_magnitude_and_told(sensor: str, place: str, signal: Signal, write: Write) -> None:
    channels = tuple(name.replace("total", f"{place}{sensor}") for name in watch.SPEC.channels)
    spec = watch.SPEC.model_copy(update={"channels": channels})
    acc, gyro = (0.4 if sensor == "body" else 1.0), 180 / np.pi
    x = signal * [acc, acc, acc, 1, 1, 1]
    mine = dict(zip(channels, (x * ([9.80665] * 3 + [gyro] * 3)).T, strict=True))
    found = read_recording(write(mine), spec, 50.0)
    np.testing.assert_allclose(
        found.x, read_recording(write(dict(zip(channels, x.T, strict=True))), spec, 50.0).x, rtol=1e-5
    )
    assert [note.split(":")[0] for note in found.notes] == [
        f"{place}{sensor}_acc from '{place}{sensor}_acc_x' and y, z in m/s²",
        "gyro from 'gyro_x' and y, z in degrees/s",
    ]


def test_a_recording_shorter_than_a_window_is_refused(models: Path, signal: Signal, write: Write) -> None:
    model = load_model(models / "classifier.onnx")
    shortest = read_recording(write(columns_of(signal[:128])), model.card.spec, 50.0)
    assert len(predict(model, shortest)) == 1
    with pytest.raises(UserError, match=r"no window of 2\.56 s \(128 samples at 50 Hz\) is left of 2\.52 s"):
        read_recording(write(columns_of(signal[:127])), model.card.spec, 50.0)


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


def named(models: Path, path: Path, rate: float | None = None) -> tuple[list[Activity], list[str]]:
    """Return the activities, and what was filled and left out."""
    model = load_model(models / "classifier.onnx")
    found = read_recording(path, model.card.spec, rate)
    return predict(model, found), [note for note in found.notes if not re.search(" from '", note)]


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
    case: str, first: int, last: int | None, timed: bool, models: Path, signal: Signal, write: Write
) -> None:
    columns = columns_of(signal)
    for name, x in columns.items():
        x[first:last] = UNWORN[case](name, x[first:last])
    last = len(signal) if last is None else last
    path = write({"time": even_time(len(signal))} | columns if timed else columns)
    activities, (note,) = named(models, path, None if timed else 50.0)

    starts = [*range(0, first - 127, 64), *range(last, len(signal) - 127, 64)]
    np.testing.assert_allclose([a.start for a in activities], [start / 50 for start in starts], atol=1e-6)
    assert note == f"left out (zero or constant): {first / 50:.2f} to {(last - 1) / 50:.2f} s"


@pytest.mark.parametrize(
    ("name", "samples"), [("total_acc", 12), ("gyro", 400), ("total_acc_x", 400), ("", 12), ("total_acc_y", 400)]
)
def test_what_a_worn_sensor_may_measure_is_kept(
    name: str, samples: int, models: Path, signal: Signal, write: Write
) -> None:
    """A moment of free fall, a gyroscope that gives nothing for slow turns, an axis at rest."""
    columns = columns_of(signal)
    for channel, x in columns.items():
        x[300 : 300 + samples] = still(name, 0.0)(channel, x[300 : 300 + samples])
    activities, notes = named(models, write(columns), 50.0)
    assert (len(activities), notes) == ((len(signal) - 128) // 64 + 1, [])


def test_lost_samples_are_counted_and_change_little(models: Path, signal: Signal, write: Write) -> None:
    kept = np.delete(np.arange(len(signal)), [200, 400, 401, 402, 800])
    here, _ = named(models, write(columns_of(signal, even_time(len(signal)))))
    there, notes = named(models, write(columns_of(signal[kept], kept / 50)))
    assert [(a.start, a.name) for a in there] == [(pytest.approx(a.start), a.name) for a in here]
    assert notes == ["5 lost samples were interpolated, in gaps of up to 0.25 s"]


def test_windows_of_which_too_much_is_lost_are_left_out_and_named(models: Path, signal: Signal, write: Write) -> None:
    kept = np.delete(np.arange(len(signal)), [row for row in range(400, 460) if row % 10 < 4])
    activities, notes = named(models, write(columns_of(signal[kept], kept / 50)))
    left = {5, 6}  # windows that start at sample 320 and 384: 15 and 19 % lost; at 448: 3 %
    starts = [64 * k / 50 for k in range((len(signal) - 128) // 64 + 1) if k not in left]
    np.testing.assert_allclose([a.start for a in activities], starts, atol=1e-6)
    assert notes[-1:] == ["left out (windows with more than 10 % lost samples): 6.40 to 10.24 s"]


@pytest.mark.parametrize("leap", [0.3, 0.5, 3600.0, 1e9])
def test_a_recording_is_cut_at_long_gaps(leap: float, models: Path, signal: Signal, write: Write) -> None:
    """The second piece is too short for a window."""
    cuts = np.searchsorted([400, 500], np.arange(len(signal)), side="right")
    time = even_time(len(signal)) + leap * cuts
    activities, notes = named(models, write(columns_of(signal, time)))
    parts = [named(models, write(columns_of(signal[rows], time[rows])))[0] for rows in (np.s_[:400], np.s_[500:])]
    assert len(activities) == sum(map(len, parts))
    origin = {True: time[500], False: 0.0}[time[500] > 1e8]  # the last part alone would count from its first sample
    for number, (found, expected) in enumerate(zip(activities, itertools.chain(*parts), strict=True)):
        start = expected.start + (origin if number >= len(parts[0]) else 0.0)
        assert found.name == expected.name
        np.testing.assert_allclose([found.start, found.probability], [start, expected.probability], rtol=1e-4)
    edges = [f"{time[row - 1]:.2f} to {time[row]:.2f} s" for row in (400, 500)]
    assert notes == [
        f"left out (gap): {', '.join(edges)}",
        f"left out (shorter than a window): {time[400]:.2f} to {time[499]:.2f} s",
    ]


def test_many_gaps_are_counted(models: Path, signal: Signal, write: Write) -> None:
    time = even_time(len(signal)) + np.arange(len(signal)) // 130
    _, notes = named(models, write(columns_of(signal, time)))
    gaps = (len(signal) - 1) // 130
    assert notes[0].endswith(f" s and {gaps - 10} more, {1.02 * gaps:.0f} s in all")


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
    expected, _ = named(models, write(columns_of(signal, even_time(len(signal)))))
    moments = [ISO[case](start + k * timedelta(milliseconds=20)) for k in range(len(signal))]
    found, notes = named(models, write({"time": moments} | columns_of(signal)))
    away = timedelta(hours=2) if case == "zone" else timedelta()
    assert notes == [f"times count from {(start - away).isoformat(timespec='milliseconds')}Z"]
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


@pytest.mark.parametrize("recipe", [False, True])
def test_it_runs_where_only_what_it_needs_is_installed(
    recipe: bool, models: Path, signal: Signal, write: Write, tmp_path: Path
) -> None:
    needed = {"onnxruntime", "numpy", "scipy", "polars", "pydantic", "rich"} | ({"pyyaml"} if recipe else set())
    others = modules_without(needed)
    assert {"torch", "onnx", "sklearn", "flwr", "jinja2", "matplotlib"} <= set(others)
    assert recipe == ("yaml" not in others)
    (tmp_path / "sitecustomize.py").write_text(ABSENT.format(others))
    command = [sys.executable, "-m", "shared.predict", "--model", str(models / "classifier.onnx"), "--rate", "50"]
    if recipe:
        command += ["--recipe", str(write_recipe(tmp_path, time=None))]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    recording = write(columns_of(signal))
    done = subprocess.run([*command, str(recording)], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count(f"{recording}: ")) == (0, 0 if recipe else 2), done.stderr
    assert len(done.stderr.splitlines()) == (0 if recipe else 2)
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


def test_collected_recordings_that_went_wrong(models: Path, cases: Path) -> None:
    (good,), notes = named(models, cases / "predict-good.csv")
    assert notes == []
    iso, notes = named(models, cases / "predict-iso-time.csv")
    assert [(a.start, a.name) for a in iso] == [(0, good.name)]
    assert notes == ["times count from 2024-05-01T10:00:00.000Z"]
    zeros, notes = named(models, cases / "predict-zero-stretch.csv")
    assert [a.start for a in zeros] == pytest.approx([0, 1.28, 7.68])
    assert notes == ["left out (zero or constant): 3.84 to 7.66 s"]
    lost, notes = named(models, cases / "predict-one-lost-sample.csv")
    assert [a.start for a in lost] == pytest.approx([0, 1.28, 2.56])
    assert notes == ["3 lost samples were interpolated, in gaps of up to 0.25 s"]
    with pytest.raises(
        UserError, match=r"line 62, column 'total_acc_x': expected a number .*float32.*, found '1e\+39'"
    ):
        named(models, cases / "predict-1e39-nan-probability.csv")


def test_body_acceleration_is_computed_where_it_is_not_recorded(cases: Path) -> None:
    theirs = read_recording(cases / "uci-walking-as-recorded.csv", UCI_HAR)
    ours = read_recording(cases / "uci-walking-without-body_acc.csv", UCI_HAR)
    assert ours.notes[-1] == "body_acc_x, body_acc_y, body_acc_z computed from total acceleration, as none is recorded"
    np.testing.assert_allclose(ours.x[:, 3:], theirs.x[:, 3:], atol=1e-6)
    error = ours.x[:, :3] - theirs.x[:, :3]
    assert np.sqrt((error**2).mean()) < 0.2 * theirs.x[:, :3].std()


def test_a_recipe_turns_a_phone_that_was_upside_down(cases: Path, tmp_path: Path) -> None:
    upright = read_recording(cases / "uci-walking-as-recorded.csv", UCI_HAR)
    sensors = {
        name: {"columns": f"{name}_{{}}", "unit": unit, "axes": ["-x", "-y", "z"]}
        for name, unit in (("total_acc", "g"), ("body_acc", "g"), ("gyro", "rad/s"))
    }
    recipe = read_recipe(write_recipe(tmp_path, sensors=sensors, target_rate=20, window=40, label_column="none"))
    turned = read_recording(cases / "uci-walking-phone-upside-down.csv", UCI_HAR, recipe=recipe)
    np.testing.assert_array_equal(turned.x, upright.x)


def test_the_recipe_of_a_data_set_reads_one_of_its_files(motionsense_zip: Path, tmp_path: Path) -> None:
    """Its path tells people and activities by folders; a file alone, elsewhere, is read as well."""
    with zipfile.ZipFile(motionsense_zip) as file:
        member = next(name for name in file.namelist() if name.endswith("wlk_7/sub_2.csv"))
        content = file.read(member)
    recipe = read_recipe(
        write_recipe(
            tmp_path,
            path=r"(?P<label>[a-z]+)_\d+/sub_(?P<person>\d+)\.csv",
            time=None,
            rate=50,
            sensors={
                "total_acc": {"columns": "gravity.{} + userAcceleration.{}", "unit": "g"},
                "gyro": {"columns": "rotationRate.{}", "unit": "rad/s"},
            },
        )
    )
    there = read_recording(write_file(tmp_path / "wlk_7" / "sub_2.csv", content), UCI_HAR, recipe=recipe)
    here = read_recording(write_file(tmp_path / "walk.csv", content), UCI_HAR, recipe=recipe)
    np.testing.assert_array_equal(here.x, there.x)
    gravity = here.x[:, 6:] - here.x[:, :3]
    assert np.linalg.norm(gravity, axis=1).mean() == pytest.approx(1.0, abs=0.1)
    with pytest.raises(UserError, match=r"expected one recording of one person, found 360: .*, …"):
        read_recording(motionsense_zip, UCI_HAR, recipe=recipe)


def test_channels_of_no_known_sensor_are_columns_of_their_name(signal: Signal, write: Write) -> None:
    spec = InputSpec(channels=("gyro_z", "pulse"), units=("rad/s", "bpm"), size=(100,), rate=50.0)
    pulse = 60 + 10 * np.sin(even_time(len(signal)))
    found = read_recording(write(columns_of(signal, even_time(len(signal))) | {"pulse": pulse}), spec)
    np.testing.assert_allclose(found.x[0], np.stack([signal[:100, 5], pulse[:100]]), atol=1e-5)
    alone = read_recording(write({"gyro_z": signal[:, 5], "pulse": pulse}), spec, 50.0)
    np.testing.assert_allclose(alone.x, found.x, atol=1e-5)


def test_a_sensor_whose_place_is_unsaid_is_taken_and_told(signal: Signal, write: Write) -> None:
    spec = watch.SPEC.model_copy(update={"channels": tuple(f"wrist_{name}" for name in watch.SPEC.channels)})
    found = read_recording(write(columns_of(signal)), spec, 50.0)
    np.testing.assert_array_equal(found.x, read_recording(write(columns_of(signal)), watch.SPEC, 50.0).x)
    assert found.notes[-1].startswith("taken: total_acc_x for wrist_total_acc_x, ")
    with pytest.raises(UserError, match=r"missing channels: ankle_total_acc_x"):
        ankle = tuple(name.replace("wrist", "ankle") for name in spec.channels)
        read_recording(
            write(dict(zip(spec.channels, signal.T, strict=True))), spec.model_copy(update={"channels": ankle}), 50.0
        )


def test_recordings_of_several_people_are_refused(tmp_path: Path) -> None:
    both = {name: np.tile(x, 2) for name, x in whole_columns().items()}
    mine = text({"subject": ["anna"] * 1000 + ["ben"] * 1000} | both)
    recipe = read_recipe(write_recipe(tmp_path, person_column="subject"))
    timeless = text({"subject": ["anna"] * 1000 + ["ben"] * 1000} | {k: x for k, x in both.items() if k != "time"})
    for content, rate, told in ((mine, None, recipe), (mine, None, None), (timeless, 50.0, None)):
        with pytest.raises(
            UserError, match=r"expected one recording of one person, found 2: .* person anna, .* person ben"
        ):
            read_recording(write_file(tmp_path / "a.csv", content), watch.SPEC, rate, told)


def test_files_of_a_recipe_that_are_no_recording_are_passed_by_or_told(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_file(folder / "walk.csv", text(whole_columns()))
    write_file(folder / "labels.csv", "start,end,label\n0,5,walk\n")
    alone = read_recording(folder / "walk.csv", watch.SPEC)
    recipe = read_recipe(write_recipe(tmp_path, label_file="labels.csv"))
    found = read_recording(folder, watch.SPEC, recipe=recipe)
    assert (found.x == alone.x).all() and not any("labels.csv" in note for note in found.notes)
    write_file(folder / "more.txt", text(whole_columns()))
    recipe = read_recipe(write_recipe(tmp_path, label_file="labels.csv", path=r"\.csv$"))
    assert any(
        re.search(r"not read, .*more\.txt", note) for note in read_recording(folder, watch.SPEC, None, recipe).notes
    )


def test_channels_of_no_known_sensor_have_the_units_of_the_model(signal: Signal, write: Write, tmp_path: Path) -> None:
    spec = InputSpec(channels=("pulse",), units=("bpm",), size=(100,), rate=50.0)
    file = write(columns_of(signal, even_time(len(signal))) | {"pulse": 60 + np.arange(len(signal)) % 7})
    sensors = {"pulse": {"columns": ["pulse"], "unit": "1/s"}}
    with pytest.raises(UserError, match="expected pulse in bpm, found it in 1/s"):
        read_recording(file, spec, recipe=read_recipe(write_recipe(tmp_path, sensors=sensors)))
    single = InputSpec(channels=("total_acc_x",), units=("g",), size=(100,), rate=50.0)
    sensors = {"total_acc_x": {"columns": ["total_acc_x"], "unit": "mg"}}
    found = read_recording(file, single, recipe=read_recipe(write_recipe(tmp_path, sensors=sensors)))
    np.testing.assert_allclose(found.x[0, 0], signal[:100, 0] / 1000, atol=1e-6)


def test_a_column_that_is_called_as_a_sensor_is_no_channel(signal: Signal, write: Write) -> None:
    spec = InputSpec(channels=("gyro",), units=("rad/s",), size=(100,), rate=50.0)
    with pytest.raises(UserError, match="missing channels: gyro"):
        read_recording(write(columns_of(signal) | {"gyro": np.linalg.norm(signal[:, 3:], axis=1)}), spec, 50.0)


def test_the_output_never_takes_the_place_of_a_file_of_the_recording(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("no model")
    file = write_file(tmp_path / "walk" / "Gyroscope.csv", "no recording")
    with pytest.raises(UserError, match=r"--out .* is the same file as .*Gyroscope\.csv"):
        main(["--model", str(tmp_path / "model.onnx"), str(tmp_path / "walk"), "--out", str(file)])
    assert file.read_text() == "no recording"
