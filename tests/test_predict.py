"""Activities of a recording: right where it fits the model, refused in plain words where it does not."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT
from hypothesis import given
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
from shared.predict import (
    METADATA_KEY,
    ModelCard,
    Recording,
    check_units,
    load_model,
    main,
    predict,
    read_recording,
    resample,
)
from shared.seeding import seeded_initialisation

CARD = ModelCard("classifier", "watch", watch.CHANNELS, watch.UNITS, watch.RATE, watch.SAMPLES, ("a", "b"), "digest")
SETTINGS = EncoderSettings(
    name="fcn", width=8, norm="batch", pooling="mean", log_input=None, pooled_blocks="last", hidden=None
)
Signal = NDArray[np.float64]


@pytest.fixture(scope="module")
def source() -> Source:
    train, test = watch.load(None)
    train, statistics = train[::4], ChannelStatistics.of(train)
    with seeded_initialisation(1):
        encoder = build_encoder(SETTINGS, *train.x.shape[1:])
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
    def write(columns: dict[str, Signal], name: str = "recording.csv") -> Path:
        path = tmp_path / name
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        return path

    return write


def columns_of(signal: Signal, time: Signal | None = None) -> dict[str, Signal]:
    columns = dict(zip(watch.CHANNELS, signal.T, strict=True))
    return columns if time is None else {"time": time} | columns


def even_time(samples: int, rate: float = watch.RATE) -> Signal:
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
    here = predict(model, read_recording(write(columns_of(signal)), model.card, 50.0))
    faster = resample_poly(signal, 2, 1, axis=0, padtype="edge")
    there = predict(model, read_recording(write(columns_of(faster)), model.card, 100.0))
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
    assert read_recording(path, CARD, None).rate == pytest.approx(rate, rel=1e-3)


Change = Callable[[dict[str, Signal]], dict[str, Signal]]


def scaled(kind: str, factor: float) -> Change:
    return lambda columns: {name: factor * x if kind in name else x for name, x in columns.items()}


def retimed(change: Callable[[Signal], Signal]) -> Change:
    return lambda columns: columns | {"time": change(columns["time"])}


def without(*names: str) -> Change:
    return lambda columns: {name: x for name, x in columns.items() if name not in names}


def gap(time: Signal) -> Signal:
    return time + 0.5 * (np.arange(len(time)) >= 100)


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
    "gap": (retimed(gap), r"found a gap of 0.52 s after time 1.98 \(sample 100\)"),
    "lost sample": (lambda c: {n: np.delete(x, 200) for n, x in c.items()}, r"found a gap of 0.04 s after time 3.98"),
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
        read_recording(path, CARD, None)
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
    "twice": (b"{header},gyro_x\n", "columns that occur twice: gyro_x"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_is_no_table_of_numbers_is_refused_by_line(case: str, tmp_path: Path) -> None:
    content, message = TEXTS[case]
    path = tmp_path / "recording.csv"
    path.write_bytes(content.replace(b"{header}", ",".join(watch.CHANNELS).encode()))
    with pytest.raises(UserError, match=message) as error:
        read_recording(path, CARD, None if case == "one line" else 50.0)
    assert "recording.csv" in str(error.value)


def test_rates_that_disagree_are_refused(signal: Signal, write: Write) -> None:
    path = write(columns_of(signal, even_time(len(signal))))
    with pytest.raises(UserError, match="--rate says 100 Hz, the column time says 50 Hz"):
        read_recording(path, CARD, 100.0)
    assert read_recording(path, CARD, 50.0).rate == pytest.approx(50.0)


@pytest.mark.parametrize("rate", [0.0, -50.0, float("nan"), float("inf")])
def test_a_senseless_rate_is_refused(rate: float, signal: Signal, write: Write) -> None:
    with pytest.raises(UserError, match="needs a recording of 20 to 5000 Hz"):
        read_recording(write(columns_of(signal)), CARD, rate)


def test_units_of_all_real_recordings_are_right_and_wrong_ones_are_noticed() -> None:
    for index, signal in enumerate(watch._read(watch._find())["X"]):
        check_units(Recording(f"recording {index}", signal, 50.0, 0.0), CARD)
        for wrong in ([9.80665] * 3 + [1] * 3, [1000] * 3 + [1] * 3, [1] * 3 + [180 / np.pi] * 3):
            with pytest.raises(UserError, match="it looks like"):
                check_units(Recording("wrong", signal * wrong, 50.0, 0.0), CARD)


def test_acceleration_without_gravity_is_judged_too(signal: Signal, write: Write) -> None:
    channels = tuple(name.replace("total", "wrist_body") for name in watch.CHANNELS)
    card = replace(CARD, channels=channels)
    walking = dict(zip(channels, (signal * [0.4, 0.4, 0.4, 1, 1, 1]).T, strict=True))
    assert read_recording(write(walking), card, 50.0).x.shape == signal.shape
    with pytest.raises(UserError, match=r"wrist_body_acc must be in g, .*: it looks like m/s²"):
        read_recording(write(scaled("acc", 9.80665)(walking)), card, 50.0)


def test_a_recording_shorter_than_a_window_is_refused(models: Path, signal: Signal, write: Write) -> None:
    model = load_model(models / "classifier.onnx")
    shortest = read_recording(write(columns_of(signal[:128])), model.card, 50.0)
    assert len(predict(model, shortest)) == 1
    short = read_recording(write(columns_of(signal[:127])), model.card, 50.0)
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
        tmp_path / "half.onnx": "is not a model that fedhar exported.*'data'",
        tmp_path / "text.onnx": "is not an ONNX model",
        tmp_path / "empty.onnx": "is not an ONNX model",
        tmp_path / "cut.onnx": "is not an ONNX model",
        tmp_path / "none.onnx": "cannot read the model .*No such file",
        models / "encoder.onnx": r"encoder.onnx is an encoder, which names no activities; use the classifier.onnx",
    }.items():
        with pytest.raises(UserError, match=message):
            load_model(name)


ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
"""


def test_it_runs_where_nothing_but_onnxruntime_numpy_scipy_and_rich_is_installed(
    models: Path, signal: Signal, write: Write, tmp_path: Path
) -> None:
    others = ("torch", "onnx", "sklearn", "pydantic", "yaml", "flwr", "safetensors", "seglearn", "matplotlib", "ray")
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
