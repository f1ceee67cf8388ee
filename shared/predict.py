"""Name the activities in a long recording: ``python -m shared.predict --model classifier.onnx recording.csv``.

The recording is a comma-separated file whose first line names the columns: the model's channels in any order, in the
model's units, and optionally ``time``, in seconds or in ISO 8601 (``2024-05-01T10:00:00.02``, counted from the first).
It is brought to the model's rate and cut into windows that overlap by half; each becomes a line
``start_s,end_s,activity,probability``. What does not fit the model is refused, because a classifier names an activity
for any numbers that it is given.

A few lost samples are interpolated. A longer gap is left out, and so is a stretch that no worn sensor measures: total
acceleration of zero, or all channels constant for as long as a window. No window lies over it, the output has no line
for it, and standard error names it.

This module is made to be used where there is no torch: it needs onnxruntime, numpy, scipy, pydantic and (for
messages) rich.
"""

import argparse
import csv
import io
import logging
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as failures  # type: ignore[import-untyped]
from pydantic_core import from_json
from scipy.signal import resample_poly

from shared.data.spec import InputSpec, Time, with_spec
from shared.errors import UserError, nearest, run_command
from shared.files import write_atomic
from shared.plausible import check_units
from shared.settings import Settings
from shared.wire import read_record

LOG = logging.getLogger(__name__)

METADATA_KEY = "fedhar"
"""The entry of an ONNX file's metadata that holds its ``ModelCard`` as JSON."""

INPUT = "windows"
"""Name of the model's input: float32 (N, C, T), raw."""

Parser = Callable[[str], float]

TIME = "time"
LARGEST = float(np.finfo(np.float32).max)
BATCH = 256

RATE_TOLERANCE = 0.01
"""Rates that differ by less than this share are the same: devices keep their nominal rate no better."""
LOWEST_SHARE, HIGHEST_SHARE = 0.4, 100.0
"""Rates that can be resampled, as multiples of the model's: lower ones have lost too much of a movement."""

LONGEST_GAP = 0.25
LOST_SHARE = 0.1
"""Samples are interpolated where they are lost for no longer than this (s), half of a walker's step, and are no more
than this share. On the watch recordings 95 % of the decisions stay with a gap of 0.24 s in every half window, 91 % with
0.5 s, and 98 % with a tenth of the samples lost one by one."""
UNEVEN_STEP, UNEVEN_SHARE = 0.25, 0.01
"""Time is irregular where more than this share of the steps differ from the usual one by more than that share of it."""
UNEVEN_STRETCH = 0.05
"""The same where as many samples as a window has take longer or shorter than usual by more than this share."""
TIME_UNITS = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}


class ModelCard(Settings):
    """What an exported model expects and gives; its metadata in the ONNX file, and read by ``from_json``.

    Args:
        kind: "encoder" (embeddings) or "classifier" (probabilities).
        data: Name of the data set that it was trained on.
        spec: Of one example, with the channels in input order.
        classes: Activity names, in output order; of an encoder, those of its data set.
        config_digest: SHA-256 of the run's configuration.
    """

    kind: str
    data: str
    spec: InputSpec
    classes: tuple[str, ...]
    config_digest: str

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """Read a card as ``model_dump_json`` writes it, or as it was written before it had a block ``spec``.

        Raises:
            UserError: Anything else.
        """
        try:
            values = from_json(text)
        except ValueError as error:
            raise UserError(str(error)) from None
        return read_record(cls, with_spec(values) if isinstance(values, dict) and "spec" not in values else values)


@dataclass(frozen=True)
class OnnxClassifier:
    """A loaded classifier."""

    session: Any
    card: ModelCard


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording of the model's channels without a gap, or a piece of one between two gaps.

    Args:
        name: What to call it in a message.
        x: float64 (samples, C), in the model's units.
        rate: Samples per second (Hz).
        start: Time of the first sample (s).
    """

    name: str
    x: NDArray[np.float64]
    rate: float
    start: float


class Activity(NamedTuple):
    """What the person did from ``start`` to ``end`` (s), and the probability that the model gives it."""

    start: float
    end: float
    name: str
    probability: float


def main(arguments: list[str]) -> None:
    """Write the activities of the recording that the command line names.

    Raises:
        UserError: A file that is no model or no recording, or a recording that does not fit the model.
    """
    options = _parser().parse_args(arguments)
    for source in (options.recording, options.model):
        if options.out is not None and _same_file(options.out, source):
            raise UserError(f"--out {options.out} is the same file as {source}, which it would overwrite; name another")
    model = load_model(options.model)
    activities = to_csv(predict(model, read_recording(options.recording, model.card.spec, options.rate)))
    if options.out is None:
        sys.stdout.write(activities)
    else:
        write_atomic(options.out, activities)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared.predict",
        description="Cut a recording into windows that overlap by half and write what the person did in each, as lines "
        "of start_s,end_s,activity,probability. A few lost samples are interpolated. Longer gaps, and stretches "
        "that no worn sensor measures (zero or constant), get no line; standard error names them.",
        epilog="example: python -m shared.predict --model runs/demo-federated/classifier.onnx --rate 50 recording.csv",
    )
    parser.add_argument(
        "recording",
        type=Path,
        help="CSV: the model's channels by name and, where known, time (seconds, or ISO 8601: counted from the first)",
    )
    parser.add_argument("--model", required=True, type=Path, help="a classifier.onnx or classifier.int8.onnx")
    parser.add_argument("--rate", type=float, help="samples per second (Hz), where there is no column time")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: standard output)")
    return parser


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:  # one of them does not exist
        return False


def load_model(path: Path) -> OnnxClassifier:
    """Load a classifier that ``shared.export`` wrote.

    Raises:
        UserError: A missing file, or one that is something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the model {path}: {error.strerror or error}") from None
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except (failures.InvalidProtobuf, failures.InvalidGraph, failures.InvalidArgument, failures.Fail) as error:
        raise UserError(f"{path} is not an ONNX model: {error}") from None
    metadata = session.get_modelmeta().custom_metadata_map
    try:
        card = ModelCard.from_json(metadata.get(METADATA_KEY, "null"))
    except UserError as error:
        raise UserError(f"{path} is not a model that fedhar exported: {error}") from None
    if card.kind != "classifier":
        raise UserError(f"{path} is an {card.kind}, which names no activities; use the classifier.onnx beside it")
    return OnnxClassifier(session, card)


def read_recording(path: Path, spec: InputSpec, rate: float | None) -> list[Recording]:
    """Read a recording and check it against the model: columns, rate, numbers, units.

    Args:
        path: The CSV file.
        spec: What the model expects.
        rate: Samples per second (Hz), or None to take it from the column ``time``.

    Returns:
        Its pieces between gaps, in time order; of one that has no gap, the whole.

    Raises:
        UserError: Anything that does not fit, in plain words.
    """
    header, first = _read_head(path)
    _check_columns(path, header, spec)
    parsers: dict[str, Parser] = dict.fromkeys(header, float)
    if iso := not _is_number(dict(zip(header, first, strict=False)).get(TIME, "0")):
        parsers[TIME] = _seconds_of
    columns = dict(zip(header, _read_numbers(path, parsers).T, strict=True))
    if iso:
        columns[TIME] -= columns[TIME][0]
    if TIME in columns:
        found = _rate_of(columns[TIME], path, spec.time)
        if rate is not None and not math.isclose(rate, found, rel_tol=RATE_TOLERANCE):
            raise UserError(f"{path}: --rate says {rate:g} Hz, the column {TIME} says {found:g} Hz")
        rate = found
    if rate is None:
        raise UserError(f"{path}: at what rate? Give --rate HZ, or a column {TIME} in seconds")
    if not LOWEST_SHARE * spec.time.rate <= rate <= HIGHEST_SHARE * spec.time.rate:
        raise UserError(
            f"{path}: a model of {spec.time.rate:g} Hz needs a recording of {LOWEST_SHARE * spec.time.rate:g} to "
            f"{HIGHEST_SHARE * spec.time.rate:g} Hz, found {rate:g} Hz"
        )
    x = np.stack([columns[name] for name in spec.channels], axis=1)
    time = columns[TIME] if TIME in columns else np.arange(len(x)) / rate
    worn = _worn(x, rate, spec)
    if not worn.any():
        raise UserError(f"{path}: all of it is zero or constant, which no worn sensor measures")
    check_units(str(path), spec.channels, x[worn].T[np.newaxis])
    return _pieces(str(path), x, time, worn, rate)


def _worn(x: NDArray[np.float64], rate: float, spec: InputSpec) -> NDArray[np.bool_]:
    """Return which samples (N,) a worn sensor can have measured.

    Gravity is always there, so that total acceleration is never zero for long; and noise moves some channel within a
    window.
    """
    worn: NDArray[np.bool_] = _run_lengths(x) < spec.time.seconds * rate
    for triad in spec.triads:
        if triad.kind == "total_acc":
            zero = (x[:, list(triad.channels)] == 0).all(axis=1)
            worn &= ~zero | (_run_lengths(zero[:, np.newaxis]) <= LONGEST_GAP * rate)
    return worn


def _run_lengths(x: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many equal rows (N, C) in a row each row (N,) is one of."""
    run = np.concatenate([[0], (x[1:] != x[:-1]).any(axis=1).cumsum()])
    lengths: NDArray[np.int64] = np.bincount(run)[run]
    return lengths


def _pieces(
    name: str, x: NDArray[np.float64], time: NDArray[np.float64], worn: NDArray[np.bool_], rate: float
) -> list[Recording]:
    """Cut a recording where nothing was measured for long, and interpolate the few samples that are lost elsewhere."""
    time_worn, x_worn = time[worn], x[worn]
    steps = _samples_between(time_worn, 1 / rate)
    pieces, lost, ends = [], 0, [time[0]]
    for rows in np.split(np.arange(len(x_worn)), np.flatnonzero(steps == 0) + 1):
        place = np.concatenate([[0], steps[rows[:-1]].cumsum()])
        even = np.arange(place[-1] + 1)
        filled = np.stack([np.interp(even, place, channel) for channel in x_worn[rows].T], axis=1)
        pieces.append(Recording(name, filled, rate, float(time_worn[rows[0]])))
        lost += len(even) - len(place)
        ends += [time_worn[rows[0]], time_worn[rows[-1]]]
    if lost:
        LOG.warning("%s: %d lost samples were interpolated, in gaps of up to %g s", name, lost, LONGEST_GAP)
    holes = np.append(ends, time[-1]).reshape(-1, 2)
    _tell_left_out(name, "no samples, or none that a worn sensor gives", holes[holes[:, 1] > holes[:, 0]])
    return pieces


def _tell_left_out(name: str, why: str, spans: Sequence[Sequence[float]] | NDArray[np.float64]) -> None:
    if len(spans):
        LOG.warning("%s: left out (%s): %s", name, why, ", ".join(f"{a:.2f} to {b:.2f} s" for a, b in spans))


def predict(model: OnnxClassifier, pieces: Sequence[Recording]) -> list[Activity]:
    """Name the activity of every window of a recording, in time order.

    Args:
        model: The classifier.
        pieces: Those of one recording, in time order; what is shorter than a window is left out.

    Raises:
        UserError: No piece is as long as a window, or values so large that the model cannot compute with them.
    """
    time = model.card.spec.time
    fitted = [resample(piece, time.rate) for piece in pieces]
    long = [piece for piece in fitted if len(piece.x) >= time.samples]
    if not long:
        longest = max(len(piece.x) / piece.rate for piece in pieces)
        raise UserError(
            f"{pieces[0].name} is too short: expected at least {time.seconds:.2f} s "
            f"({time.samples} samples at {time.rate:g} Hz), found {longest:.2f} s"
            + (" without a gap" if len(pieces) > 1 else "")
        )
    short = [piece for piece in fitted if len(piece.x) < time.samples]
    _tell_left_out(pieces[0].name, "shorter than a window", [(p.start, p.start + len(p.x) / p.rate) for p in short])
    return [activity for piece in long for activity in _predict_piece(model, piece)]


def _predict_piece(model: OnnxClassifier, piece: Recording) -> list[Activity]:
    """Name the activity of every window of a piece that has the model's rate."""
    samples, classes = model.card.spec.time.samples, model.card.classes
    step = max(1, samples // 2)
    windows = sliding_window_view(piece.x, samples, axis=0)[::step]
    batches = (windows[first : first + BATCH].astype(np.float32) for first in range(0, len(windows), BATCH))
    probabilities = np.concatenate([model.session.run(None, {INPUT: batch})[0] for batch in batches])
    starts = piece.start + np.arange(len(windows)) * step / piece.rate
    length = samples / piece.rate
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        start, largest = starts[bad[0]], float(np.abs(windows[bad[0]]).max())
        raise UserError(
            f"{piece.name}: the model cannot compute with the window at {start:.2f} s, whose largest value is "
            f"{largest:.3g}; cut the recording there"
        )
    return [
        Activity(float(start), float(start + length), classes[row.argmax()], float(row.max()))
        for start, row in zip(starts, probabilities, strict=True)
    ]


def resample(recording: Recording, rate: float) -> Recording:
    """Return the recording at the given rate (Hz), or as it is where its own is the same.

    Polyphase filtering removes what the lower rate cannot carry. The rate of the result is the nearest that a ratio of
    small numbers gives, and is said exactly, so that times stay right over a long recording.
    """
    if math.isclose(recording.rate, rate, rel_tol=RATE_TOLERANCE):
        return recording
    ratio = Fraction(rate / recording.rate).limit_denominator(1000)
    x = resample_poly(recording.x, ratio.numerator, ratio.denominator, axis=0, padtype="edge")
    return replace(recording, x=x, rate=recording.rate * float(ratio))


def to_csv(activities: list[Activity]) -> str:
    """Return activities as CSV with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["start_s", "end_s", "activity", "probability"])
    writer.writerows([f"{a.start:.3f}", f"{a.end:.3f}", a.name, f"{a.probability:.4f}"] for a in activities)
    return text.getvalue()


def _read_head(path: Path) -> tuple[list[str], list[str]]:
    """Return the column names, which must be names and not numbers, and the cells of the first sample."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header, first = [name.strip() for name in next(rows, [])], next(filter(None, rows), [])
    except OSError as error:
        raise UserError(f"cannot read the recording {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{path} is not a CSV file: it holds bytes that are no text") from None
    if not any(header):
        raise UserError(f"{path} is not a CSV file: its first line must name the columns, found nothing")
    if all(map(_is_number, header)):
        raise UserError(f"{path}: the first line must name the columns, found the numbers {', '.join(header[:3])}…")
    return header, first


def _check_columns(path: Path, header: list[str], spec: InputSpec) -> None:
    """Refuse any other columns than the model's channels and time."""
    missing = [name for name in spec.channels if name not in header]
    unknown = [name for name in header if name not in (*spec.channels, TIME)]
    repeated = sorted({name for name in header if header.count(name) > 1})
    problems = []
    if missing:
        problems.append(f"missing columns: {', '.join(missing)}")
    if unknown:
        problems.append("unknown columns: " + ", ".join(f"{name!r}{nearest(name, missing)}" for name in unknown))
    if repeated:
        problems.append(f"columns that occur twice: {', '.join(repeated)}")
    if problems:
        expected = ", ".join(f"{name} ({unit})" for name, unit in zip(spec.channels, spec.units, strict=True))
        commas = "" if len(header) > 1 else "; is it separated by commas?"
        raise UserError(f"{path}: {'; '.join(problems)}{commas}; expected {expected}, and optionally {TIME} (s)")


def _read_numbers(path: Path, parsers: Mapping[str, Parser]) -> NDArray[np.float64]:
    """Return the lines below the header, float64 (lines, columns), all finite in float32.

    Args:
        path: The CSV file.
        parsers: What reads a cell, by column.
    """
    others: dict[int | str, Parser] = {
        column: parse for column, parse in enumerate(parsers.values()) if parse is not float
    }
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            table: NDArray[np.float64] = np.loadtxt(
                path,
                delimiter=",",
                skiprows=1,
                ndmin=2,
                encoding="utf-8",
                comments=None,
                quotechar='"',
                converters=others,
            )
    except ValueError as error:
        _explain_lines(path, parsers, error)
    if not table.size:
        raise UserError(f"{path} holds no samples below its header")
    if not (np.abs(table) <= LARGEST).all() or table.shape[1] != len(parsers):
        _explain_lines(path, parsers, ValueError("not a table of finite numbers"))
    return table


def _explain_lines(path: Path, parsers: Mapping[str, Parser], cause: ValueError) -> NoReturn:
    """Name the first line that is not what it should be."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        for row in reader:
            if row and len(row) != len(parsers):
                raise UserError(f"{path}, line {reader.line_num}: expected {len(parsers)} columns, found {len(row)}")
            for (name, parse), cell in zip(parsers.items(), row, strict=False):
                try:
                    value = parse(cell)
                except ValueError:
                    value = math.nan
                if not abs(value) <= LARGEST:
                    expected = "a number" if name != TIME else "seconds, or an ISO 8601 time as on all other lines"
                    limit = f" of at most {LARGEST:.2g} (float32)" if math.isfinite(value) else ""
                    raise UserError(
                        f"{path}, line {reader.line_num}, column {name}: expected {expected}{limit}, found "
                        f"{cell.strip()!r}; cut the recording there, or fill the gap yourself"
                    )
    raise UserError(f"{path}: {cause}")


def _seconds_of(cell: str) -> float:
    """Return an ISO 8601 time in seconds since 1970; one that names no time zone is taken as UTC."""
    moment = datetime.fromisoformat(cell.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rate_of(time: NDArray[np.float64], path: Path, expected: Time) -> float:
    """Return the rate (Hz) of time stamps (s), which must go on evenly."""
    if len(time) < 2:
        raise UserError(f"{path} is too short: expected at least {expected.samples} samples, found {len(time)}")
    steps = np.diff(time)
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0))
        raise UserError(
            f"{path}: {TIME} must increase, found {time[row + 1]:.12g} after {time[row]:.12g} (sample {row + 2})"
        )
    usual = float(np.median(steps))
    for unit, factor in TIME_UNITS.items():
        if LOWEST_SHARE <= factor / usual / expected.rate <= 1 / LOWEST_SHARE:
            raise UserError(
                f"{path}: {TIME} must be in seconds, found a sample every {usual:g}; it looks like {unit}: divide it "
                f"by {factor:.0f}"
            )
    samples = _samples_between(time, usual)
    near = samples > 0
    lost = 1 - near.sum() / samples.sum()
    if lost > LOST_SHARE:
        raise UserError(
            f"{path}: expected a sample every {usual:.4g} s, found that {100 * lost:.0f} % of them are lost, and "
            f"interpolate at most {100 * LOST_SHARE:g} %"
        )
    mean = float(steps[near].sum() / samples.sum())
    uneven = float((np.abs(steps - samples * usual)[near] > UNEVEN_STEP * usual).mean())
    drift = np.append(0, np.where(near, steps - samples * mean, 0).cumsum())
    window = expected.samples
    stretched = np.abs(drift[window:] - drift[:-window]) > UNEVEN_STRETCH * window * mean
    if uneven > UNEVEN_SHARE or stretched.any():
        raise UserError(
            f"{path}: {TIME} is irregular: expected a sample every {mean:.4g} s, found steps from "
            f"{steps[near].min():.4g} to {steps[near].max():.4g} s; resample it to an even rate"
        )
    return 1 / mean


def _samples_between(time: NDArray[np.float64], usual: float) -> NDArray[np.int64]:
    """Return how many samples each step of time (N,) goes on by (N - 1,), or 0 for a gap that is too long to fill."""
    steps = np.diff(time)
    samples = np.maximum(np.rint(steps / usual), 1)
    return np.where((samples > 1) & (steps > LONGEST_GAP), 0, samples).astype(np.int64)


if __name__ == "__main__":
    run_command(main)
