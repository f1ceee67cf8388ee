"""The recipe: what the columns of recordings mean and how they become windows."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from shared.data.person import Person
from shared.data.spec import Name
from shared.plausible import SENSORS
from shared.settings import Settings

GROUPS = ("person", "label", "recording")
"""Named groups that ``path`` may have."""

UNITS: dict[str, dict[str, float]] = {
    kind: {sensor.unit: 1.0, **{unit: 1 / factor for unit, factor in sensor.others.items()}}
    for kind, sensor in SENSORS.items()
}
"""By kind of sensor: its units, each with what turns a value into our unit."""

_SPELLINGS = {"m/s^2": "m/s²", "m/s2": "m/s²", "deg/s": "degrees/s", "dps": "degrees/s", "°/s": "degrees/s"}
_KIND = re.compile(rf"(?:\w+_)?({'|'.join(SENSORS)})")

Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]
"""Text; YAML reads a bare 7 as a number."""
Unit = Annotated[str, BeforeValidator(lambda value: _SPELLINGS.get(value, value) if isinstance(value, str) else value)]
Axis = Literal["x", "y", "z", "-x", "-y", "-z"]


class Sensor(Settings):
    """Where the values of a sensor are.

    Args:
        columns: Names of its columns, three (x, y, z) or one; or one name with ``{}`` for x, y and z. The sum of two
            columns is ``gravity.x + userAcceleration.x``. Columns without a header are numbered from 1.
        unit: Of the values.
        file: Pattern of the names of its files, where every sensor has its own, as ``*Gyroscope.csv``.
        axes: Which of its axes are our x, y and z, as it was worn: ``[-x, -y, z]`` turns a sensor that was upside down.
    """

    columns: tuple[Text, ...] = Field(min_length=1)
    unit: Unit
    file: str | None = None
    axes: tuple[Axis, Axis, Axis] = ("x", "y", "z")

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(name := values.get("columns"), str):
            return values | {"columns": [name.replace("{}", axis) for axis in "xyz"] if "{}" in name else [name]}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.columns) not in (1, 3):
            raise ValueError(f"expected one column or three (x, y, z), found {len(self.columns)}")
        if len({axis[-1] for axis in self.axes}) != 3:
            raise ValueError(f"expected axes in which x, y and z occur once, found {', '.join(self.axes)}")
        return self


class Recipe(Settings):
    """What the columns of recordings mean, and how they become windows. Only ``sensors`` must be there.

    Args:
        name: Of the data set.
        path: Regular expression that is searched in each file's path, with named groups: ``person``, ``label``, and
            ``recording``, the same in all files that are parts of one recording. Files in which it is not found are
            left out.
        person: Id of the only person, where neither ``path`` nor a column tells.
        person_column: The column that holds the person's id.
        time: The column of time; None: samples are even, at ``rate``.
        time_unit: Of it.
        rate: Samples per second (Hz) where there is no time.
        sensors: By name: ``[place_]total_acc`` (with gravity), ``[place_]body_acc`` (without), ``[place_]gyro``; any
            other name becomes channels of that name, in their own unit.
        body_acc: Whether body acceleration is computed from each total acceleration.
        label_column: The column that holds the activity.
        label_file: Pattern of the name of files with the columns start, end, label and perhaps person: who did what
            from when to when, in the time of the recordings (s, or ISO 8601).
        labels: The activity that a label stands for; null: windows with it are left unlabelled. Labels that are not
            named here stay as they are.
        target_rate: Samples per second (Hz) of the windows.
        window: Samples of a window, at that rate.
        step: Samples from one window to the next.
        test_people: Ids of the people who test; the others train.
    """

    name: Name = "imported"
    path: str | None = None
    person: Person | None = None
    person_column: Text | None = None
    time: Text | None = None
    time_unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    rate: PositiveFloat | None = None
    sensors: dict[Name, Sensor] = Field(min_length=1)
    body_acc: bool = False
    label_column: Text | None = None
    label_file: str | None = None
    labels: Mapping[Text, Text | None] = Field(default_factory=dict)
    target_rate: PositiveFloat = 50.0
    window: PositiveInt = 128
    step: PositiveInt = 64
    test_people: tuple[Person, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        groups = self.groups
        if unknown := groups - set(GROUPS):
            raise ValueError(f"path has the unknown group {sorted(unknown)[0]!r}; expected {', '.join(GROUPS)}")
        self._only_one(
            "person", {"path": "person" in groups, "person": self.person, "person_column": self.person_column}
        )
        labels = {"path": "label" in groups, "label_column": self.label_column, "label_file": self.label_file}
        self._only_one("label", labels)
        if self.time is not None and self.rate is not None:
            raise ValueError("expected time or rate, found both: time tells the rate")
        if self.body_acc and (there := [name for name in self.sensors if kind_of(name) == "body_acc"]):
            raise ValueError(f"body_acc would be computed beside the sensor {there[0]}; leave one out")
        for name, sensor in self.sensors.items():
            kind = kind_of(name)
            if kind is not None and (len(sensor.columns) != 3 or sensor.unit not in UNITS[kind]):
                raise ValueError(
                    f"sensor {name}: expected three columns in {' or '.join(UNITS[kind])}, found {len(sensor.columns)} "
                    f"in {sensor.unit}"
                )
        return self

    @staticmethod
    def _only_one(what: str, told: dict[str, Any]) -> None:
        if len(found := [name for name, value in told.items() if value]) > 1:
            raise ValueError(f"expected one place that tells the {what}, found {' and '.join(found)}")

    @property
    def groups(self) -> set[str]:
        """The named groups of ``path``."""
        try:
            pattern = re.compile(self.path or "")
        except re.error as error:
            raise ValueError(f"path is no regular expression: {error}") from None
        if pattern.groups and not pattern.groupindex:
            raise ValueError(r"path has a group without a name; expected one like (?P<person>\d+)")
        return set(pattern.groupindex)

    @property
    def seconds(self) -> float:
        """Length of a window (s)."""
        return self.window / self.target_rate

    @property
    def channels(self) -> dict[str, str]:
        """The channels of the windows in their order, each with its unit."""
        units: dict[str, str] = {}
        for name, sensor in self.sensors.items():
            kind = kind_of(name)
            unit = SENSORS[kind].unit if kind else sensor.unit
            units |= dict.fromkeys(channels_of(name, len(sensor.columns)), unit)
            if self.body_acc and kind == "total_acc":
                units |= dict.fromkeys(channels_of(body_of(name), 3), SENSORS["body_acc"].unit)
        return units

    @property
    def several_files(self) -> bool:
        """Whether a recording's sensors have a file each."""
        return any(sensor.file is not None for sensor in self.sensors.values())


def kind_of(name: str) -> str | None:
    """Return the kind of a three-axis sensor by its name, None where it is of no known kind."""
    match = _KIND.fullmatch(name)
    return match[1] if match else None


def channels_of(sensor: str, columns: int) -> tuple[str, ...]:
    """Return the names of a sensor's channels."""
    return (sensor,) if columns == 1 else tuple(f"{sensor}_{axis}" for axis in "xyz")


def body_of(total: str) -> str:
    """Return the name of the body acceleration that belongs to a total acceleration."""
    return f"{total.removesuffix('total_acc')}body_acc"
