"""Name the activities in a long recording: ``python -m shared.predict --model classifier.onnx recording.csv``.

The recording is one person's: a file, or a folder or zip with a file for each sensor. It is read as
``shared.data import`` reads it: columns, units, separator and time are guessed, or told by a recipe; sensors are
aligned, short gaps are filled, and what nobody wore is left out. Body acceleration is computed where the model wants it
and the recording has none. Windows overlap by half; each becomes a line ``start_s,end_s,activity,probability``.

Standard error tells what was guessed, filled and left out, a line each. What does not fit the model is refused, because
a classifier names an activity for any numbers that it is given.

This module is made to be used where there is no torch: it needs onnxruntime, numpy, scipy, polars, pydantic, (for
messages) rich and (for recipes) PyYAML.
"""

import argparse
import csv
import io
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as failures  # type: ignore[import-untyped]
from pydantic_core import from_json

from shared.data.conform import factor, locate
from shared.data.importing.align import ABSOLUTE, LONGEST_GAP, RATE_TOLERANCE, UNEVEN_SHARE, Floats
from shared.data.importing.cutting import LOST_SHARE, Cut, check_left, cut
from shared.data.importing.propose import propose_columns, read_sample
from shared.data.importing.recipe import Recipe, kind_of
from shared.data.importing.recordings import ONLY, Reader, group
from shared.data.importing.recordings import Recording as Measured
from shared.data.importing.sources import Source, find_sources
from shared.data.spec import InputSpec, with_spec
from shared.errors import UserError, run_command
from shared.files import write_atomic
from shared.settings import Settings
from shared.wire import read_record

METADATA_KEY = "fedhar"
"""The entry of an ONNX file's metadata that holds its ``ModelCard`` as JSON."""

INPUT = "windows"
"""Name of the model's input: float32 (N, C, T), raw."""

BATCH = 256

MOST_NAMES = 10
"""Recordings, or stretches of time, that a message names."""


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
    """The windows of a recording, as a model takes them.

    Args:
        name: What to call it in a message.
        x: float32 (N, C, T), in the model's units.
        spans: (N, 2) seconds, from when to when.
        notes: What was guessed, filled and left out, in words.
    """

    name: str
    x: NDArray[np.float32]
    spans: Floats
    notes: list[str]


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
    for source in filter(None, (options.model, options.recipe, options.recording, *options.recording.rglob("*"))):
        if options.out is not None and _same_file(options.out, source):
            raise UserError(f"--out {options.out} is the same file as {source}, which it would overwrite; name another")
    model = load_model(options.model)
    recipe = None
    if options.recipe is not None:
        from shared.data.importing.recipe_file import read_recipe  # here, because nothing else needs PyYAML

        recipe = read_recipe(options.recipe)
    recording = read_recording(options.recording, model.card.spec, options.rate, recipe)
    activities = to_csv(predict(model, recording))
    if options.out is None:
        sys.stdout.write(activities)
    else:
        write_atomic(options.out, activities)
    for note in recording.notes:
        print(f"{recording.name}: {note}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared.predict",
        description="Cut a recording into windows that overlap by half and write what the person did in each, as lines "
        "of start_s,end_s,activity,probability. Columns, units and time are guessed, or told by a recipe. Standard "
        "error tells what was guessed, and what was filled and left out.",
        epilog="example: python -m shared.predict --model runs/demo-federated/classifier.onnx --rate 50 recording.csv",
    )
    parser.add_argument("recording", type=Path, help="a file, or a folder or zip with a file for each sensor")
    parser.add_argument("--model", required=True, type=Path, help="a classifier.onnx or classifier.int8.onnx")
    parser.add_argument("--rate", type=float, help="samples per second (Hz), where the recording has no time")
    parser.add_argument("--recipe", type=Path, help="what the columns mean, as for shared.data import")
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


def read_recording(path: Path, spec: InputSpec, rate: float | None = None, recipe: Recipe | None = None) -> Recording:
    """Read a recording and cut it into windows for a model, half a window apart.

    Args:
        path: A file, or a folder or zip of files that are one recording.
        spec: What the model expects.
        rate: Samples per second (Hz), where the recording has no time.
        recipe: What the columns mean; None: it is guessed. What it says of activities and windows is not used.

    Raises:
        UserError: Anything that does not fit, in plain words.
    """
    time = spec.time
    if rate is not None and not 0 < rate < math.inf:
        raise UserError(f"--rate: expected a number of samples per second above 0, found {rate:g}")
    # A recipe's path may tell folders that the recording lies in.
    sources = [replace(one, path=(path.absolute().parent / one.path).as_posix()) for one in find_sources([path])]
    recipe, guesses = _guess(sources, spec) if recipe is None else (_for_one(recipe, sources), [])
    recipe = recipe.model_copy(update={"body_acc": all(kind_of(name) != "body_acc" for name in recipe.sensors)})
    channels, notes = _find_channels(recipe, spec, path, guesses)
    recipe = _for_model(recipe, spec, channels)
    if recipe.time is None:
        recipe = recipe.model_copy(update={"rate": rate or recipe.rate})
        if recipe.rate is None:
            raise UserError(f"{path}: at what rate? No column goes on by the steps of a sensor; give --rate HZ")
    recording, twice, others = _read(path, sources, recipe)
    if others and not guesses:
        twice.append(f"not read, because the recipe does not fit: {_named(one.place for one in others)}")
    windows = cut(recording, recipe)
    check_left([windows], recipe)
    for found in windows.found.rates.values():
        if rate is not None and not math.isclose(rate, found, rel_tol=RATE_TOLERANCE):
            raise UserError(f"{path}: --rate says {rate:g} Hz, the column {recipe.time!r} says {found:.4g} Hz")
    start = windows.found.start if windows.found.start > ABSOLUTE else 0.0
    rows = [list(recipe.channels).index(name) for name in channels]
    scale = _scale(path, recipe, channels, spec)
    notes = [*guesses, *notes, *twice, *_notes(windows, time.rate, start)]
    return Recording(windows.name, windows.x[:, rows] * scale, windows.spans - start, notes)


def _guess(sources: Sequence[Source], spec: InputSpec) -> tuple[Recipe, list[str]]:
    """Return a recipe that is guessed, and each guess with its reason."""
    tables, unread = read_sample(sources)
    recipe, guesses = propose_columns(tables, dict(zip(spec.channels, spec.units, strict=True)))
    told = [*(f"no recording: {error}" for error in unread), *(f"{guess.what}: {guess.why}" for guess in guesses)]
    return recipe.model_copy(update={} if recipe.person_column else {"person": ONLY}), told


def _for_one(recipe: Recipe, sources: Sequence[Source]) -> Recipe:
    """Return a recipe for one recording, whose files may be named in another way than those of the data set."""
    if any(re.search(recipe.path or "", source.path) for source in sources):
        return recipe
    return recipe.model_copy(update={"path": None, "person": None if recipe.person_column else ONLY})


def _find_channels(recipe: Recipe, spec: InputSpec, path: Path, guesses: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return which channels of a recipe are the model's, in the model's order, and what was done beyond reading them.

    Raises:
        UserError: There is none, or there are several, for a channel of the model.
    """
    known = list(recipe.channels)
    rows, complaints = locate(spec.channels, known, "say which in a recipe")
    if complaints:
        raise UserError(
            f"{path}: {'; '.join(complaints)}. Found {'; '.join(guesses or recipe.sensors)}. Name the columns that the "
            "model needs in a recipe, and give it by --recipe"
        )
    channels = [known[row] for row in rows]
    read = recipe.model_copy(update={"body_acc": False}).channels
    computed = [name for name in channels if name not in read]
    notes = [f"{', '.join(computed)} computed from total acceleration, as none is recorded"] if computed else []
    pairs = [f"{name} for {wanted}" for name, wanted in zip(channels, spec.channels, strict=True) if name != wanted]
    return channels, [*notes, *([f"taken: {', '.join(pairs)}"] if pairs else [])]


def _scale(path: Path, recipe: Recipe, channels: Sequence[str], spec: InputSpec) -> NDArray[np.float32]:
    """Return what channels are multiplied by to be in the units of the model, float32 (C, 1).

    Raises:
        UserError: It is not known what a unit is in that of the model.
    """
    known, factors = recipe.channels, []
    for name, wanted in zip(channels, spec.units, strict=True):
        if (found := factor(known[name], wanted)) is None:
            raise UserError(f"{path}: expected {name} in {wanted}, found it in {known[name]}; the recipe tells units")
        factors.append(found)
    return np.array(factors, np.float32)[:, np.newaxis]


def _for_model(recipe: Recipe, spec: InputSpec, channels: Sequence[str]) -> Recipe:
    """Return a recipe of the sensors that have these channels, for windows as a model takes them."""
    sensors = {
        name: sensor
        for name, sensor in recipe.sensors.items()
        if not set(channels).isdisjoint(recipe.model_copy(update={"sensors": {name: sensor}}).channels)
    }
    time = spec.time
    windows = {"target_rate": time.rate, "window": time.samples, "step": max(1, time.samples // 2)}
    return recipe.model_copy(update={"sensors": sensors, "label_column": None, **windows})


def _read(path: Path, sources: Sequence[Source], recipe: Recipe) -> tuple[Measured, list[str], list[Source]]:
    """Read the recording that files are.

    Returns:
        The recording, notes of files that are there twice, and files that the recipe leaves out.

    Raises:
        UserError: They are several, or do not fit the recipe.
    """
    parts, _, others = group(sources, recipe)
    reader = Reader(recipe, None)
    found = (recording for one in parts for recording in reader.read(one))
    recordings = list(islice(found, 2) if len(parts) > 1 else found)
    if len(recordings) == 1:
        return recordings[0], reader.twice, others
    names = [one.name for one in (parts if len(parts) > 1 else recordings)]
    raise UserError(f"{path}: expected one recording of one person, found {len(names)}: {_named(names)}")


def _named(names: Iterable[str]) -> str:
    first = list(islice(names, MOST_NAMES + 1))
    return ", ".join(first[:MOST_NAMES]) + (", …" if len(first) > MOST_NAMES else "")


def _notes(windows: Cut, rate: float, start: float) -> list[str]:
    """Say what was found in a recording and what became of it, in words.

    Args:
        windows: Of the recording.
        rate: Of the model (Hz).
        start: What times count from (s).
    """
    found = windows.found
    notes = [f"times count from {np.datetime64(round(1000 * start), 'ms')}Z"] if start else []
    for name, own in found.rates.items():
        uneven = found.uneven[name]
        if uneven > UNEVEN_SHARE or not math.isclose(own, rate, rel_tol=RATE_TOLERANCE):
            which = f" of {name}" if len(found.rates) > 1 else ""
            how = f" with {100 * uneven:.1f} % uneven steps" if uneven > UNEVEN_SHARE else ""
            notes.append(f"{own:.4g} Hz{which}{how} brought to {rate:g} Hz")
    for count, what in (
        (found.filled, f"lost samples were interpolated, in gaps of up to {LONGEST_GAP:g} s"),
        (found.sorted, "samples came late and were put in order"),
        (found.repeated, "samples repeat the time of another and were dropped"),
    ):
        if count:
            notes.append(f"{count} {what}")
    left = [("gap", found.gaps), *found.left.items()]
    left.append((f"windows with more than {100 * LOST_SHARE:g} % lost samples", _merged(windows.lost)))
    notes += [f"left out ({why}): {_listed(np.array(spans) - start)}" for why, spans in left if spans]
    return notes


def _merged(spans: Floats) -> list[tuple[float, float]]:
    """Return spans (N, 2) in time order, those that overlap or touch as one."""
    found: list[tuple[float, float]] = []
    for start, end in spans.tolist():
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _listed(spans: Floats) -> str:
    """Return spans (N, 2) of time (s) in words, the first few one by one."""
    words = ", ".join(f"{first:.2f} to {last:.2f} s" for first, last in spans[:MOST_NAMES])
    more = len(spans) - MOST_NAMES
    return words + (f" and {more} more, {np.diff(spans).sum():.0f} s in all" if more > 0 else "")


def predict(model: OnnxClassifier, recording: Recording) -> list[Activity]:
    """Name the activity of every window of a recording, in time order.

    Raises:
        UserError: Values so large that the model cannot compute with them.
    """
    x = recording.x
    batches = [x[first : first + BATCH] for first in range(0, len(x), BATCH)]
    probabilities = np.concatenate([model.session.run(None, {INPUT: batch})[0] for batch in batches])
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        start, largest = recording.spans[bad[0], 0], float(np.abs(x[bad[0]]).max())
        raise UserError(
            f"{recording.name}: the model cannot compute with the window at {start:.2f} s, whose largest value is "
            f"{largest:.3g}; cut the recording there"
        )
    return [
        Activity(float(start), float(end), model.card.classes[row.argmax()], float(row.max()))
        for (start, end), row in zip(recording.spans, probabilities, strict=True)
    ]


def to_csv(activities: list[Activity]) -> str:
    """Return activities as CSV with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["start_s", "end_s", "activity", "probability"])
    writer.writerows([f"{a.start:.3f}", f"{a.end:.3f}", a.name, f"{a.probability:.4f}"] for a in activities)
    return text.getvalue()


if __name__ == "__main__":
    run_command(main)
