"""Guesses what recordings mean: columns by their names, units by magnitude, time by its steps; each with its reason."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from shared.data.importing.align import LOWEST_SHARE, UNEVEN_STEP, Floats
from shared.data.importing.reading import read_table
from shared.data.importing.recipe import UNITS, Recipe, kind_of
from shared.data.importing.sources import Source
from shared.data.importing.table import ISO, SECONDS, Table, is_iso
from shared.data.importing.text_table import SEPARATORS
from shared.data.person import in_order
from shared.errors import UserError
from shared.plausible import SENSORS, axis_of

MOST = 0.9
"""Share of paths that tell the person in the same way."""
SAMPLED = 24
"""Files that are looked at."""

STEPS = (0.0005, 0.5)
"""A usual step of a sensor (s) lies between these, which tells the unit of time."""
REPEATED = 0.05
"""A column of labels or people has no more different values than this share of its rows."""

KINDS: dict[str, set[str]] = {
    "gravity": {"gravity", "grav"},
    "gyro": {"gyro", "gyroscope", "gyr", "rotation", "rot", "angular", "omega", "g", "w"},
    "body_acc": {"linear", "lin", "user", "body"},
    "total_acc": {"acc", "accel", "acceleration", "accelerometer", "a"},
}
"""Words in names, by what they tell; the first that has a word in a name counts."""
OTHERS = {"mag", "magnetometer", "magnetic", "compass", "uncalibrated", "orientation", "attitude", "quaternion"}
"""Words of sensors that are not taken."""
PLACES = {
    *("left", "right", "upper", "lower", "wrist", "arm", "forearm", "hand", "ankle", "leg", "thigh", "shin", "foot"),
    *("knee", "chest", "torso", "waist", "hip", "pocket", "belt", "back", "head", "neck", "watch", "phone"),
}
UNIT_WORDS = {
    "m/s²": {"m/s^2", "m/s2", "m/s²", "ms-2", "m/s/s", "m/(s^2)", "m/(s*s)", "ms^-2"},
    "g": {"g"},
    "mg": {"mg"},
    "rad/s": {"rad/s", "rads", "rad"},
    "degrees/s": {"deg/s", "°/s", "dps", "degrees/s", "deg"},
}
TIME = {"time", "timestamp", "epoch", "datetime", "elapsed", "t", "ts", "date"}
PERSON = {"subject", "person", "participant", "user", "volunteer", "sub", "pid"}
LABEL = {"label", "activity", "class", "annotation", "action"}

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_UNIT = re.compile(r"\s*[(\[]([^()\[\]]*(?:\([^()]*\))?[^()\[\]]*)[)\]]\s*$")
_AXIS = re.compile(r"(|.*[^A-Za-z]|.*[a-z](?=[XYZ]))([xyzXYZ])")
_AXIS_JOINED = re.compile(r"(.*(?:acc|accel|gyro|gyr|(?<![A-Za-z])[agwAG]))([xyz])")
_PERSON_IN_PATH = [
    re.compile(rf"(?i)(?<![a-z])({words})([_-]?)(\d+)(?!\d)")
    for words in ("subject|subj|sub|person|participant|user|volunteer|pid|id", "p", "s")
]
"""The surest first."""


class Guess(NamedTuple):
    """What was guessed, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class _Triad:
    """Three columns that differ by x, y, z only."""

    kind: str
    place: str
    columns: tuple[str, str, str]
    unit: str | None
    table: Table
    magnitude: float


def read_sample(sources: Sequence[Source]) -> tuple[list[Table], list[UserError]]:
    """Read the files to look at: the first of each name, so that every sensor is seen, but not too many.

    Returns:
        Those that can be read, and why others cannot: loggers put notes beside their recordings.

    Raises:
        UserError: None can be read.
    """
    first = list({PurePosixPath(source.path).name: source for source in reversed(sources)}.values())[::-1]
    tables, unread = [], []
    for row in np.unique(np.linspace(0, len(first) - 1, SAMPLED).round().astype(int)):
        try:
            tables.append(read_table(first[row], first[row].read()))
        except UserError as error:
            unread.append(error)
    if not tables:
        raise unread[0]
    return tables, unread


def propose(tables: Sequence[Table], paths: Sequence[str]) -> tuple[Recipe, list[Guess]]:
    """Guess a recipe.

    Args:
        tables: Some of the files; see ``read_sample``.
        paths: Of all files.

    Raises:
        UserError: No acceleration or rotation rate in three axes can be found.
    """
    recordings, labels = _sorted(tables)
    fields, found, guesses = _columns(recordings, {})
    if "time" in fields:
        fields |= _slow(found[0].table, fields, guesses)
    else:
        guesses.append(Guess("no time", "no column goes on by the steps of a sensor; say rate (Hz) in the recipe"))
    taken = {column for triad in found for column in triad.columns}
    label_file = PurePosixPath(labels[0].path).name if labels else None
    files = [path for path in paths if PurePosixPath(path).name != label_file]
    fields |= _person(recordings, files, taken, _several_files(found), guesses)
    if label_file is not None:
        fields["label_file"] = label_file
        guesses.append(Guess(f"labels from {label_file}", "it has the columns start, end and label"))
    elif column := _find(recordings[0], LABEL, taken):
        fields["label_column"] = column
        known = ", ".join(in_order(set(recordings[0].texts(column)) - {""})[:5])
        guesses.append(Guess(f"labels from the column {column!r}", f"its name; it holds {known}"))
    else:
        guesses.append(Guess("no labels", "no column and no file of intervals tells any; a path can, see the recipe"))
    return Recipe.model_validate(fields), guesses


def propose_columns(tables: Sequence[Table], named: Mapping[str, str]) -> tuple[Recipe, list[Guess]]:
    """Guess the part of a recipe that tells what was measured when, and neither people nor activities.

    Its path leaves out files that hold no sensor: loggers put notes beside their recordings.

    Args:
        tables: See ``propose``.
        named: Channels, each with its unit, that columns of these names are unless they are known for another sensor.

    Raises:
        UserError: Nothing that was measured can be found.
    """
    recordings, _ = _sorted(tables)
    fields, found, guesses = _columns(recordings, named)
    taken = {column for sensor in fields["sensors"].values() for column in sensor["columns"]}
    if column := _find(recordings[0], PERSON, taken):
        fields["person_column"] = column
    held = dict.fromkeys(PurePosixPath(triad.table.path).name for triad in found)
    names = "|".join(map(re.escape, held or [PurePosixPath(recordings[0].path).name]))
    return Recipe.model_validate(fields | {"path": f"(?:^|/)(?:{names})$"}), guesses


def _sorted(tables: Sequence[Table]) -> tuple[list[Table], list[Table]]:
    """Return the recordings and the files of intervals."""
    labels = [table for table in tables if _is_intervals(table)]
    return [table for table in tables if table not in labels] or labels, labels


def _columns(recordings: Sequence[Table], named: Mapping[str, str]) -> tuple[dict[str, Any], list[_Triad], list[Guess]]:
    """Return the sensors and the time as fields of a recipe, the columns of three-axis sensors, and the guesses."""
    guesses = list(dict.fromkeys(guess for table in recordings for guess in _layout(table)))
    found = [triad for table in recordings for triad in _triads(table)]
    sensors = _sensors(found, recordings, guesses)
    names, taken = recordings[0].frame.columns, {column for sensor in sensors.values() for column in sensor["columns"]}
    for channel in (name for name in named if name in names and name not in taken and kind_of(name) is None):
        sensors[channel] = {"columns": [channel], "unit": named[channel]}
        guesses.append(Guess(f"{channel} in {named[channel]}", "its name is that of a channel"))
    if not sensors:
        raise UserError(
            f"{recordings[0].place}: no columns look like x, y and z of an accelerometer or a gyroscope; "
            f"found {', '.join(map(repr, names[:12]))}; name the right ones in a recipe, and give it by --recipe"
        )
    fields = {"sensors": sensors} | _time(found[0].table if found else recordings[0], guesses)
    return fields, found, guesses


def _layout(table: Table) -> list[Guess]:
    """Return how a text is laid out, where that is unusual."""
    if table.layout is None:
        return []
    separator, decimal_comma, _, skip = table.layout
    told = [f"columns parted by {SEPARATORS[separator]}"] if separator != "," else []
    told += ["decimal commas"] if decimal_comma else []
    told += [f"the first sample in line {skip + 1}"] if skip != 1 else []
    return [Guess(", ".join(told), f"so that most cells of {table.place} are values")] if told else []


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(_UNIT.sub("", name))]


def _is_intervals(table: Table) -> bool:
    return {"start", "end", "label"} <= {name.strip().lower() for name in table.frame.columns}


def _find(table: Table, words: set[str], taken: set[str]) -> str | None:
    """Return the first column that is not taken, whose name has one of the words, and whose values repeat."""
    for name in table.frame.columns:
        if name not in taken and words & set(_words(name)) and table.frame[name].n_unique() <= REPEATED * len(table):
            return name
    return None


def _triads(table: Table) -> list[_Triad]:
    """Return the columns of a file that are the axes of an accelerometer or a gyroscope."""
    axes: dict[tuple[str, str], dict[str, str]] = {}
    for name in table.frame.columns:
        told, bare = _UNIT.search(name), _UNIT.sub("", name).strip()
        if match := _AXIS.fullmatch(bare) or _AXIS_JOINED.fullmatch(bare):
            axes.setdefault((match[1], told[1] if told else ""), {})[match[2].lower()] = name
    file = _words(PurePosixPath(table.path).stem)
    found = []
    for (stem, unit), columns in axes.items():
        words = _words(stem)
        kind = _kind(words) if words else _kind(file)
        if words and kind is None and not OTHERS & set(words):
            kind = _kind(file)
        if kind is None or set(columns) != set("xyz") or OTHERS & set(words + ([] if _kind(words) else file)):
            continue
        named = axis_of(columns["x"])
        place = named.place if named else ""
        place = place or "_".join(
            word for word in dict.fromkeys([*file, *words]) if word in PLACES and word not in KINDS["body_acc"]
        )
        x = np.stack([table.numbers(columns[axis]) for axis in "xyz"], axis=1)
        x = x[np.isfinite(x).all(axis=1) & (x != 0).any(axis=1)]
        if not len(x):
            continue
        quantile = SENSORS[kind].quantile if kind in SENSORS else 0.5
        magnitude = float(np.quantile(np.linalg.norm(x, axis=1), quantile))
        known = next((name for name, words in UNIT_WORDS.items() if unit.strip().lower() in words), None)
        found.append(_Triad(kind, place, (columns["x"], columns["y"], columns["z"]), known, table, magnitude))
    return found


def _kind(words: Iterable[str]) -> str | None:
    return next((kind for kind, known in KINDS.items() if known & set(words)), None)


def _sensors(found: Sequence[_Triad], tables: Sequence[Table], guesses: list[Guess]) -> dict[str, dict[str, Any]]:
    """Return the sensors' part of a recipe."""
    several = _several_files(found)
    gravity = next((triad for triad in found if triad.kind == "gravity"), None)
    sensors: dict[str, dict[str, Any]] = {}
    for triad in found:
        if triad.kind == "gravity":
            continue
        kind, why = _with_gravity(triad)
        unit, reason = _unit(triad, kind, found)
        columns: Sequence[str] = triad.columns
        if kind == "body_acc" and gravity is not None and gravity.table is triad.table and not _has_total(found, triad):
            total = [f"{pull} + {own}" for pull, own in zip(gravity.columns, columns, strict=True)]
            name = "_".join(filter(None, [triad.place, "total_acc"]))
            if name not in sensors:
                sensors[name] = {"columns": total, "unit": unit}
                guesses.append(
                    Guess(f"{name} from {total[0]!r} and y, z in {unit}", "their names, and gravity belongs to it")
                )
        name = "_".join(filter(None, [triad.place, kind]))
        if name in sensors:
            continue
        sensors[name] = {"columns": columns, "unit": unit} | ({"file": _pattern(triad.table)} if several else {})
        where = f" of {_pattern(triad.table)}" if several else ""
        guesses.append(Guess(f"{name} from {columns[0]!r} and y, z{where} in {unit}", f"{why}; {reason}"))
    kinds = list(SENSORS)
    return dict(sorted(sensors.items(), key=lambda one: kinds.index(str(kind_of(one[0])))))


def _several_files(found: Sequence[_Triad]) -> bool:
    """Tell whether sensors have a file each: files of different names hold different sensors, and none holds two."""
    by_name: dict[str, set[tuple[str, str]]] = {}
    for triad in found:
        by_name.setdefault(_pattern(triad.table), set()).add((triad.place, triad.kind))
    return len(set(map(frozenset, by_name.values()))) > 1 and all(len(held) == 1 for held in by_name.values())


def _has_total(found: Sequence[_Triad], beside: _Triad) -> bool:
    return any(triad.kind == "total_acc" and triad.place == beside.place for triad in found)


def _with_gravity(triad: _Triad) -> tuple[str, str]:
    """Tell total from body acceleration by magnitude, whatever the name says: loggers call both acceleration."""
    if triad.kind != "total_acc":
        return triad.kind, "its name"
    nearest = min(UNITS["total_acc"].values(), key=lambda factor: abs(np.log(max(triad.magnitude * factor, 1e-9))))
    if triad.unit is not None and triad.unit in UNITS["total_acc"]:
        nearest = UNITS["total_acc"][triad.unit]
    if triad.magnitude * nearest < SENSORS["total_acc"].low:
        return "body_acc", f"its name, and its median magnitude of {triad.magnitude:.3g} has no gravity in it"
    return "total_acc", f"its name, and its median magnitude of {triad.magnitude:.3g} has gravity in it"


def _unit(triad: _Triad, kind: str, found: Sequence[_Triad]) -> tuple[str, str]:
    if triad.unit in UNITS[kind]:
        return str(triad.unit), "the unit in its name"
    if kind == "total_acc":
        units = UNITS[kind]
        unit = min(units, key=lambda one: abs(np.log(max(triad.magnitude * units[one], 1e-9))))
        return unit, f"{triad.magnitude:.3g} is nearest to the 1 g of gravity in {unit}"
    if kind == "body_acc":
        for other in found:
            if other.kind in ("total_acc", "gravity") and other.table is triad.table:
                return _unit(other, "total_acc", ())[0], "the unit of gravity beside it"
        unit = "g" if triad.magnitude < 1 else "m/s²"
        return unit, f"a median magnitude of {triad.magnitude:.3g}, which does not tell it for sure"
    unit = "rad/s" if triad.magnitude < SENSORS[kind].high else "degrees/s"
    return unit, f"95 % of the magnitudes are below {triad.magnitude:.3g}"


def _pattern(table: Table) -> str:
    return f"*{PurePosixPath(table.path).name}"


def _time(table: Table, guesses: list[Guess]) -> dict[str, Any]:
    for column in (name for name in table.frame.columns if TIME & set(_words(name))):
        unit = _unit_of_time(table, column)
        if unit is None:
            continue
        steps, usual = _steps(table, column, unit)
        rate, uneven = 1 / usual, float((np.abs(steps - usual) > UNEVEN_STEP * usual).mean())
        what = f"time from {column!r}, ISO 8601" if unit == ISO else f"time from {column!r} in {unit}"
        guesses.append(Guess(what, f"{rate:.4g} Hz by its usual step; {100 * uneven:.1f} % of the steps differ"))
        return {"time": column, "time_unit": unit}
    return {}


def _unit_of_time(table: Table, column: str) -> str | None:
    """Return the unit in which a column goes on by the steps of a sensor; None where there is none."""
    units = [ISO] if is_iso([cell for cell in table.texts(column)[:SAMPLED] if cell]) else [*SECONDS]
    if ISO not in units:
        try:
            table.numbers(column)
        except UserError:
            return None
    return next((unit for unit in units if STEPS[0] <= _steps(table, column, unit)[1] <= STEPS[1]), None)


def _steps(table: Table, column: str, unit: str) -> tuple[Floats, float]:
    """Return the steps of time (s) that are not 0, and the usual one."""
    steps = np.abs(np.diff(table.times(column, unit)))
    steps = steps[steps > 0]
    return steps, float(np.median(steps)) if len(steps) else np.nan


def _slow(table: Table, fields: Mapping[str, Any], guesses: list[Guess]) -> dict[str, Any]:
    """Return the rate and the lengths of windows where a recording is too slow for the usual ones."""
    usual = Recipe.model_fields["target_rate"].default
    rate = 1 / _steps(table, fields["time"], fields["time_unit"])[1]
    if rate >= LOWEST_SHARE * usual:
        return {}
    target = float(f"{rate:.2g}")
    window = max(2, round(2.56 * target))
    guesses.append(Guess(f"windows at {target:g} Hz", f"the recording is too slow for the usual {usual:g} Hz"))
    return {"target_rate": target, "window": window, "step": window // 2}


def _person(
    tables: Sequence[Table], paths: Sequence[str], taken: set[str], several: bool, guesses: list[Guess]
) -> dict[str, Any]:
    if column := _find(tables[0], PERSON, taken):
        known = ", ".join(in_order(set(tables[0].texts(column)))[:5])
        guesses.append(Guess(f"people from the column {column!r}", f"its name; it holds {known}"))
        return {"person_column": column}
    for pattern in _PERSON_IN_PATH:
        matches = [found[-1] for path in paths if (found := list(pattern.finditer(path)))]
        if len(matches) >= MOST * len(paths):
            path = f"(?i){matches[0][1]}{matches[0][2]}(?P<person>\\d+)"
            break
    else:
        owners = {str(PurePosixPath(path).parent) if several else path for path in paths}
        if len(owners) == 1:
            guesses.append(Guess("one person", "there is one recording; say who in the recipe"))
            return {"person": "1"}
        path = r"(?P<person>[^/]+)/[^/]+$" if several else r"(?P<person>[^/]+)\.\w+$"
        whose = "folder" if several else "file"
        why = "nothing else tells people apart: correct this in the recipe where one person has several"
        guesses.append(Guess(f"each {whose} is a person", why))
    named = {match["person"]: one for one in paths if (match := re.search(path, one))}
    people = in_order(named)
    guesses.append(Guess(f"{len(people)} people from the paths by {path}", f"as {people[0]!r} in {named[people[0]]}"))
    test = people[-max(1, len(people) // 5) :] if len(people) > 2 else []
    if test:
        guesses.append(Guess(f"{', '.join(test)} test", "a fifth of the people, the last ones"))
    return {"path": path, "test_people": test}
