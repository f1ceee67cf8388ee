"""Files become recordings, one after another: whose it is, what each sensor measured when, and who did what when."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from shared.data.importing.align import Floats, Stream
from shared.data.importing.labels import Intervals, Track
from shared.data.importing.reading import read_table
from shared.data.importing.recipe import UNITS, Recipe, Sensor, channels_of, kind_of
from shared.data.importing.sources import Source
from shared.data.importing.table import Table
from shared.data.person import in_order, person_id
from shared.errors import UserError

ONLY = "1"
"""Id of the person where nobody tells one."""
WHOLE = 0.9
"""Share of rows in which all sensors have values; where it is less, each sensor has rows, and a clock, of its own."""


@dataclass(frozen=True, eq=False)
class Recording:
    """What one person's sensors measured without being stopped.

    Args:
        name: What to call it in a message.
        person: Id.
        streams: By clock.
        track: Who did what when.
    """

    name: str
    person: str
    streams: list[Stream]
    track: Track


@dataclass(frozen=True)
class Parts:
    """The files of one recording.

    Args:
        name: What to call it in a message.
        person: Id as the path tells it, or None.
        label: As the path tells it, or None.
        sources: In natural order.
    """

    name: str
    person: str | None
    label: str | None
    sources: list[Source]


def group(sources: Sequence[Source], recipe: Recipe) -> tuple[list[Parts], list[Source], list[Source]]:
    """Sort files by recording.

    Returns:
        The recordings' files, the label files, and the files that the recipe leaves out.

    Raises:
        UserError: No file is left, a path does not tell the person that it should, or a file's path tells another label
            than the other files of its recording.
    """
    found: dict[tuple[str, str | None], Parts] = {}
    labels, others = [], []
    for source in sources:
        match = re.search(recipe.path or "", source.path)
        patterns = [sensor.file for sensor in recipe.sensors.values() if sensor.file is not None]
        if recipe.label_file and named(source.path, recipe.label_file):
            labels.append(source)
        elif match is None or (patterns and not any(named(source.path, pattern) for pattern in patterns)):
            others.append(source)
        else:
            told = match.groupdict()
            usual = str(PurePosixPath(source.path).parent) if recipe.several_files else source.path
            person, label = told.get("person"), told.get("label")
            if "person" in told and not person:
                raise UserError(f"{source.place}: expected a person in its path, as path says, found none")
            name = told.get("recording") or usual
            parts = found.setdefault((name, person), Parts(source.place, person, label, []))
            if parts.label != label:
                raise UserError(
                    f"{source.place}: label {label!r}, but {parts.label!r} in {parts.name}, the same recording"
                )
            parts.sources.append(source)
    if not found:
        raise UserError(
            f"the recipe fits no file: expected paths that fit {recipe.path!r} and the sensors' patterns, found "
            f"{sources[0].path!r}"
        )
    if len(found) > 1 and recipe.person is None and recipe.person_column is None and "person" not in recipe.groups:
        raise UserError(
            f"whose are these {len(found)} recordings? Say person, person_column, or path with a group person, in the "
            "recipe"
        )
    return list(found.values()), labels, others


def named(path: str, pattern: str) -> bool:
    """Tell whether a file's name, without its folders, fits a pattern."""
    return fnmatch(PurePosixPath(path).name, pattern)


class Reader:
    """Reads the recordings that the parts are of, and notices files that are there twice.

    Args:
        recipe: What the columns mean.
        intervals: Of the label files; None where there are none.
    """

    def __init__(self, recipe: Recipe, intervals: Intervals | None) -> None:
        self._recipe = recipe
        self._intervals = intervals
        self._seen: dict[str, tuple[str, str | None, str | None]] = {}
        self.twice: list[str] = []

    def read(self, parts: Parts) -> Iterator[Recording]:
        """Yield the recordings of the files: one of each person in them; none where they are known already.

        Raises:
            UserError: Anything that does not fit the recipe, in plain words.
        """
        tables = []
        for source in parts.sources:
            content = source.read()
            digest = hashlib.sha256(content).hexdigest()
            first, *owner = self._seen.setdefault(digest, (source.place, parts.person, parts.label))
            if first != source.place and content:
                if owner != [parts.person, parts.label]:
                    raise UserError(f"{source.place} and {first} are the same file, but tell another person or label")
                self.twice.append(f"{source.place}: the same file as {first}")
            else:
                tables.append(read_table(source, content))
        if tables:
            yield from self._of(parts, tables)

    def _of(self, parts: Parts, tables: Sequence[Table]) -> Iterator[Recording]:
        recipe = self._recipe
        files: dict[str | None, _Rows] = {}
        for pattern in dict.fromkeys(sensor.file for sensor in recipe.sensors.values()):
            chosen = [table for table in tables if pattern is None or named(table.path, pattern)]
            if not chosen:
                raise UserError(
                    f"{parts.name}: expected a file named {pattern!r} beside it, as the recipe tells; found none"
                )
            files[pattern] = _read_rows(chosen, pattern, recipe)
        alone = parts.person or recipe.person or ONLY
        people = in_order({person for rows in files.values() for person in rows.people(alone)})
        for person in people:
            own = {pattern: rows.of(person) for pattern, rows in files.items()}
            name = parts.name if len(people) == 1 else f"{parts.name}, person {person}"
            streams = [stream for pattern, rows in own.items() for stream in _streams(rows, name, pattern)]
            owner = _id(person, name)
            yield Recording(name, owner, streams, self._track(parts, owner, list(own.values())))

    def _track(self, parts: Parts, person: str, files: Sequence["_Rows"]) -> Track:
        if parts.label is not None:
            return Track.constant(parts.label)
        if self._intervals is not None:
            return self._intervals.of(person)
        tracks = [Track.of_samples(rows.time, rows.label) for rows in files if rows.label is not None]
        return tracks[0] if tracks else Track.constant("")


def _id(person: str, name: str) -> str:
    try:
        return str(person_id(person))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of files that belong together.

    Args:
        time: (N,) seconds.
        values: By sensor (N, 1 or 3), in our units; NaN where a value is lost.
        person: Text (N,), or None where no column tells.
        label: Text (N,), or None where no column tells.
    """

    time: Floats
    values: dict[str, Floats]
    person: NDArray[np.str_] | None
    label: NDArray[np.str_] | None

    def people(self, alone: str) -> set[str]:
        return {alone} if self.person is None else set(np.unique(self.person).tolist())

    def of(self, person: str) -> "_Rows":
        if self.person is None:
            return self
        own = self.person == person
        label = None if self.label is None else self.label[own]
        return _Rows(self.time[own], {name: x[own] for name, x in self.values.items()}, None, label)


def _read_rows(tables: Sequence[Table], pattern: str | None, recipe: Recipe) -> _Rows:
    """Read what the recipe tells of from files that follow one another."""
    sensors = {name: sensor for name, sensor in recipe.sensors.items() if sensor.file == pattern}
    values = {
        name: np.concatenate([_values(table, kind_of(name), sensor) for table in tables])
        for name, sensor in sensors.items()
    }
    if recipe.time is not None:
        time = np.concatenate([table.times(recipe.time, recipe.time_unit) for table in tables])
    elif recipe.rate is not None:
        time = np.arange(sum(map(len, tables))) / recipe.rate
    else:
        raise UserError(f"{tables[0].place}: at what rate? Say time: COLUMN, or rate: HZ, in the recipe")
    person, label = (
        None
        if column is None or (pattern is not None and not all(column in table.frame.columns for table in tables))
        else np.concatenate([np.array(table.texts(column), np.str_) for table in tables])
        for column in (recipe.person_column, recipe.label_column)
    )
    return _Rows(time, values, person, label)


def _values(table: Table, kind: str | None, sensor: Sensor) -> Floats:
    """Return a sensor's values (N, 1 or 3) in our units, with its axes as the recipe tells."""
    x = np.stack([_sum(table, column) for column in sensor.columns], axis=1)
    if len(sensor.columns) == 3:
        signs = np.array([-1.0 if axis.startswith("-") else 1.0 for axis in sensor.axes])
        x = x[:, ["xyz".index(axis[-1]) for axis in sensor.axes]] * signs
    return x * (UNITS[kind][sensor.unit] if kind else 1.0)


def _sum(table: Table, columns: str) -> Floats:
    names = [columns] if columns in table.frame.columns else columns.split(" + ")
    total: Floats = np.sum([table.numbers(name.strip()) for name in names], axis=0)
    return total


def _streams(rows: _Rows, name: str, pattern: str | None) -> list[Stream]:
    """Return the sensors of a file as one stream, or as one each where their values are not in the same rows."""
    channels = {sensor: channels_of(sensor, x.shape[1]) for sensor, x in rows.values.items()}
    name = name if pattern is None else f"{name} ({pattern})"
    together = np.concatenate(list(rows.values.values()), axis=1)
    if len(rows.values) == 1 or np.isfinite(together).all(axis=1).mean() >= WHOLE:
        return [Stream(name, rows.time, together, sum(channels.values(), ()))]
    return [Stream(f"{name} ({sensor})", rows.time, x, channels[sensor]) for sensor, x in rows.values.items()]
