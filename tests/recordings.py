"""Real recordings of the watch data as files that phones and watches write, and all that can be wrong with them."""

import io
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.io
import yaml
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from shared.data import watch

Floats = NDArray[np.float64]
Columns = dict[str, Any]
RATE = 50.0
CHANNELS = watch.SPEC.channels
ISO_START = np.datetime64("2024-05-01T10:00:00.000")

RECIPE: dict[str, Any] = {
    "time": "time",
    "sensors": {
        "total_acc": {"columns": "total_acc_{}", "unit": "g"},
        "gyro": {"columns": "gyro_{}", "unit": "rad/s"},
    },
}


def recording(number: int = 0, samples: int = 1000) -> Floats:
    """Return a recording of a shoulder exercise, (samples, 6) in g and rad/s at 50 Hz."""
    x = np.asarray(watch.recordings()["X"][number], np.float64)
    return x[:samples]


def columns(x: Floats | None = None, time: Floats | None = None) -> Columns:
    x = recording() if x is None else x
    time = np.arange(len(x)) / RATE if time is None else time
    return {"time": time, **dict(zip(CHANNELS, x.T.copy(), strict=True))}


def text(values: Mapping[str, Any], separator: str = ",", header: Sequence[str] | None = None, before: str = "") -> str:
    """Return columns as CSV; numbers with nine digits after the point, what is NaN as an empty cell."""
    rows = zip(*values.values(), strict=True)
    names = list(values) if header is None else header
    lines = [separator.join(names)] if names else []
    lines += [separator.join("" if cell != cell else _cell(cell) for cell in row) for row in rows]
    return before + "\n".join(lines) + "\n"


def _cell(cell: Any) -> str:
    return f"{cell:.9f}" if isinstance(cell, float) else str(cell)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_recipe(folder: Path, **changes: Any) -> Path:
    """Write the recipe of ``columns`` with some fields changed; None takes a field out."""
    values = {name: value for name, value in (RECIPE | changes).items() if value is not None}
    return write(folder / "recipe.yaml", yaml.safe_dump(values, sort_keys=False))


def iso(time: Floats) -> list[str]:
    return [str(ISO_START + np.timedelta64(round(1e6 * t), "us")) for t in time]


def zipped(members: Mapping[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def mat(**arrays: Any) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, arrays)
    return file.getvalue()


def parquet(values: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    pl.DataFrame(dict(values)).write_parquet(file)
    return file.getvalue()


def changed(**others: Any) -> str:
    return text(columns() | others)


def _scaled(kind: str, factor: float) -> str:
    return text({name: factor * x if kind in name else x for name, x in columns().items()})


def _without(name: str) -> str:
    return text({other: x for other, x in columns().items() if other != name})


TIME = np.arange(1000) / RATE


def cut(x: Floats) -> Floats:
    return sliding_window_view(x, 128, axis=0)[::64]


def spread(x: Floats) -> Floats:
    """Root mean square of each channel's movement, (C, 1)."""
    return x.std(axis=(0, 2))[:, np.newaxis]


# What every logger writes in its own way; all hold the same recording, and no recipe is needed.


def with_units(mark: str = "m/s^2") -> str:
    x = recording() * ([9.80665] * 3 + [180 / np.pi] * 3)
    names = ["Time (s)", *(f"Acceleration {a} ({mark})" for a in "xyz"), *(f"Gyroscope {a} (deg/s)" for a in "xyz")]
    return text(columns(x), header=names)


def with_index() -> str:
    return text({"": np.arange(1000), **columns()})


def with_text() -> str:
    return text({"note": ['"fine, 2"'] * 1000} | columns())


def with_exponents() -> str:
    rows = zip(*columns().values(), strict=True)
    return "\n".join([",".join(columns()), *(",".join(f"{value:.9e}" for value in row) for row in rows)])


CAMEL = ["Timestamp", *(f"acc{axis}" for axis in "XYZ"), *(f"gyro{axis}" for axis in "XYZ")]
DATES = ISO_START + (1e6 * TIME).round().astype("m8[us]")
ARRAYS = {"time": TIME, "acc": recording()[:, :3], "gyro": recording()[:, 3:]}
PROSE = "Data File Created By Logger\nSerial 7\n\n"


SAME: dict[str, tuple[str, str | bytes]] = {
    "commas": ("a.csv", text(columns())),
    "semicolons": ("a.csv", text(columns(), ";")),
    "decimal commas": ("a.csv", text(columns(), ";").replace(".", ",")),
    "tabs": ("a.tsv", text(columns(), "\t")),
    "tabs and decimal commas": ("a.txt", text(columns(), "\t").replace(".", ",")),
    "white space": ("a.txt", re.sub(r"(?m)^", "  ", text(columns(), "   "))),
    "Windows' ends of lines": ("a.csv", text(columns()).replace("\n", "\r\n")),
    "blank lines": ("a.csv", text(columns()).replace("\n", "\n\n")),
    "a byte-order mark": ("a.csv", b"\xef\xbb\xbf" + text(columns()).encode()),
    "UTF-16": ("a.csv", text(columns()).encode("utf-16")),
    "Windows' Latin": ("a.csv", with_units("m/s²").encode("cp1252")),
    "units in names": ("a.csv", with_units()),
    "a line of units": ("a.csv", text(columns()).replace("\n", "\ns,g,g,g,rad/s,rad/s,rad/s\n", 1)),
    "comments": ("a.csv", text(columns(), before="# Logger 2.1, device 7\n# started, 10:00\n")),
    "a header in a comment": ("a.csv", text(columns(), before="# ")),
    "prose before the header": ("a.csv", text(columns(), before=PROSE)),
    "a column of text": ("a.csv", with_text()),
    "an unnamed column of row numbers": ("a.csv", with_index()),
    "ISO times": ("a.csv", text(columns() | {"time": iso(TIME)})),
    "ISO times with a zone": ("a.csv", text(columns() | {"time": [f"{t}+02:00" for t in iso(TIME)]})),
    "ISO times with a blank": ("a.csv", text(columns() | {"time": [t.replace("T", " ") for t in iso(TIME)]})),
    "milliseconds since 1970": ("a.csv", text(columns() | {"time": (1.7e12 + 1000 * TIME).astype(int)})),
    "nanoseconds": ("a.csv", text(columns() | {"time": (1e9 * TIME).round().astype(int)})),
    "exponents": ("a.csv", with_exponents()),
    "short names": ("a.csv", text(columns(), header=["t", "ax", "ay", "az", "gx", "gy", "gz"])),
    "camel case": ("a.csv", text(columns(), header=CAMEL)),
    "Parquet": ("a.parquet", parquet(columns())),
    "Parquet with dates": ("a.parquet", parquet(columns() | {"time": DATES})),
    "NumPy's archive": ("a.npz", npz(**ARRAYS, rate=np.array(50.0))),
    "arrays of rows": ("a.npz", npz(**ARRAYS | {"acc": ARRAYS["acc"].T})),
    "MATLAB": ("a.mat", mat(**ARRAYS)),
    "a MATLAB structure": ("a.mat", mat(walk=ARRAYS)),
    "rows twice": ("a.csv", re.sub(r"(?m)^(5\..*)$", r"\1\n\1", text(columns()))),
}  # fmt: skip


# What sensors do


def lost(share: float) -> str:
    keep = np.random.default_rng(0).random(1000) >= share
    return text({name: value[keep] for name, value in columns().items()})


def empty_cells() -> str:
    return text(columns() | {"gyro_y": np.where(np.arange(1000) % 100 == 7, np.nan, recording()[:, 4])})


def moved(time: Floats) -> str:
    """The recording read at other times, with a spline as the truth between samples."""
    return text(columns(CubicSpline(TIME, recording())(time), time))


def jittered() -> Floats:
    return np.clip(TIME + np.random.default_rng(1).uniform(-0.25, 0.25, 1000) / RATE, 0, TIME[-1])


def faster_later() -> Floats:
    return np.concatenate([np.arange(0, 10, 0.02), np.arange(10, TIME[-1], 0.01)])


def late() -> str:
    lines = text(columns()).splitlines()
    for row in (100, 400, 700):
        lines[row], lines[row + 1] = lines[row + 1], lines[row]
    return "\n".join(lines)


DISTURBED: dict[str, tuple[Callable[[], str], float]] = {
    "1 % of the samples are missing": (lambda: lost(0.01), 0.05),
    "5 % of the samples are missing": (lambda: lost(0.05), 0.1),
    "empty cells": (empty_cells, 0.05),
    "steps that jitter": (lambda: moved(jittered()), 0.05),
    "a rate that changes": (lambda: moved(faster_later()), 0.05),
    "a clock that is 0.7 % fast": (lambda: moved(np.arange(0, TIME[-1], 0.02 / 1.007)), 0.05),
    "100 Hz": (lambda: moved(np.arange(0, TIME[-1], 0.01)), 0.05),
    "samples that come late": (late, 1e-6),
}


def logged(x: Floats, rate: float, start: float, names: list[str]) -> dict[str, Any]:
    """Three axes at another rate and with another start than the other sensors, as phones log them."""
    time = np.arange(start, 19, 1 / rate)
    return dict(zip(names, CubicSpline(TIME, x)(time).T, strict=True)) | {"t": time}


def sensor_logger() -> dict[str, str]:
    acc = logged(recording()[:, :3], 100.0, 0.004, list("xyz"))
    gyro = logged(recording()[:, 3:], 50.0, 0.011, list("xyz"))
    files = {}
    for name, values, factor in (("TotalAcceleration", acc, 9.80665), ("Gyroscope", gyro, 1.0)):
        time = 1.7e18 + 1e9 * values["t"]
        files[f"walk/{name}.csv"] = text(
            {"time": time.astype(np.int64), "seconds_elapsed": values["t"]}
            | {axis: factor * values[axis] for axis in "zyx"}
        )
    files["walk/Metadata.csv"] = "version,device name\n3,phone\n"
    files["walk/Orientation.csv"] = text({"time": TIME, **{f"q{axis}": TIME for axis in "wxyz"}})
    return files


def phyphox() -> dict[str, str]:
    acc = logged(recording()[:, :3] * 9.80665, 100.0, 0.004, [f"Acceleration {a} (m/s^2)" for a in "xyz"])
    gyro = logged(recording()[:, 3:], 50.0, 0.011, [f"Gyroscope {a} (rad/s)" for a in "xyz"])
    files = {}
    for name, values in (("Accelerometer", acc), ("Gyroscope", gyro)):
        time = {"Time (s)": values.pop("t")}
        quoted = text(time | values, header=[f'"{column}"' for column in time | values])
        files[f"{name}.csv"] = quoted
    files["meta/device.csv"] = '"property","value"\n"deviceModel","phone"\n'
    return files


# What is bad

BY_PATH = {"path": r"(?P<person>\w+)\.csv"}
Make = Callable[[Path], Mapping[str, Any] | None]
"""Writes files into the folder that is imported; returns changes of the recipe, or None to import without one."""


def files(contents: Mapping[str, str | bytes], /, **changes: Any) -> Make:
    def make(folder: Path) -> Mapping[str, Any]:
        for name, content in contents.items():
            write(folder / name, content)
        return changes

    return make


def unasked(contents: Mapping[str, str | bytes]) -> Make:
    def make(folder: Path) -> None:
        for name, content in contents.items():
            write(folder / name, content)

    return make


def one(content: str | bytes, /, **changes: Any) -> Make:
    return files({"a.csv": content}, **changes)


def labelled(*lines: str) -> Make:
    content = {"anna.csv": changed(), "labels.txt": "\n".join(lines)}
    return files(content, **BY_PATH, label_file="labels.txt")


def huge(folder: Path) -> Mapping[str, Any]:
    with (folder / "a.csv").open("wb") as file:
        file.truncate(2_000_000_000)
    return {}


BAD: dict[str, Make] = {
    "0 bytes": one(""),
    "a header and nothing else": one(",".join(columns()) + "\n"),
    "3 samples": one("\n".join(changed().splitlines()[:4])),
    "two headers": one(",".join("abcdefg") + "\n" + changed()),
    "two exports in one file": one(changed() + changed()),
    "a word for a number": one(re.sub(r"(?<=\n0.200000000,)[^,]*", "left", changed())),
    "a program named .csv": one(b"\x7fELF\x02\x01\x01" + bytes(500)),
    "prose": one("Dear reader!\nSincerely yours\n"),
    "two columns of one name": one(changed().replace("gyro_x", "gyro_z", 1)),
    "a line with too many cells": one(changed() + "1,2,3,4,5,6,7,8\n"),
    "a number that float32 cannot hold": one(re.sub(r"(?<=\n0.400000000,)[^,]*", "1e39", changed())),
    "an axis that is always lost": one(changed(gyro_y=np.full(1000, np.nan))),
    "an axis that is not there": one(_without("gyro_y")),
    "an axis that is not there, without a recipe": unasked({"a.csv": text({"time": TIME, "accX": TIME, "accY": TIME})}),
    "no sensor at all": unasked({"a.csv": text({"time": TIME, "pulse": TIME + 60, "steps": TIME})}),
    "time that goes back": one(text(columns(time=np.where(TIME < 10, TIME, TIME - 9)))),
    "one time for many samples": one(text(columns(time=np.floor(TIME)))),
    "milliseconds said to be seconds": one(text(columns(time=1000 * TIME))),
    "times that are none": one(changed(time=["noon"] * 1000), time_unit="iso"),
    "times and numbers in one column": one(changed(time=[*iso(TIME[:500]), *TIME[500:]]), time_unit="iso"),
    "neither time nor rate": one(_without("time"), time=None),
    "5 samples a second": one(text(columns(time=10 * TIME))),
    "m/s² said to be g": one(_scaled("acc", 9.80665)),
    "degrees/s said to be rad/s": one(_scaled("gyro", 180 / np.pi)),
    "no gravity": one(_scaled("acc", 0.01)),
    "zeros only": one(text(columns(np.zeros((1000, 6))))),
    "shorter than a window": one(text(columns(recording(samples=100)))),
    "too many samples lost": one(changed(gyro_x=np.where(np.arange(1000) % 10 < 4, recording()[:, 3], np.nan))),
    "a file of 2 GB": huge,
    "a zip bomb": files({"a.zip": zipped({"a.csv": b"0," * 50_000_000})}),
    "a zip that leads out of its folder": files({"a.zip": zipped({"../../a.csv": changed()})}),
    "a zip that is cut short": files({"a.zip": zipped({"a.csv": changed()})[:3000]}),
    "a zip without a recording": files({"a.zip": zipped({"readme.pdf": b"%PDF"})}),
    "objects in .npz": files({"a.npz": npz(time=np.array([{}, {}], object))}),
    "a damaged .npy": files({"a.npy": b"\x93NUMPY\x01\x00" + bytes(40)}),
    "arrays of two lengths": files({"a.npz": npz(time=TIME, total_acc=recording(samples=900)[:, :3])}),
    "a damaged .mat": files({"a.mat": mat(**columns())[:2000]}),
    "a damaged Parquet file": files({"a.parquet": parquet(columns())[:-100]}),
    "a folder without a recording": files({"a.pdf": b"%PDF"}),
    "a sensor's file that is not there": files(
        {"walk/Accelerometer.csv": text(dict(list(columns().items())[:4]))},
        sensors={
            "total_acc": {"columns": "total_acc_{}", "unit": "g", "file": "Acc*.csv"},
            "gyro": {"columns": "gyro_{}", "unit": "rad/s", "file": "Gyro*.csv"},
        },
    ),
    "one file for two people": files({"anna.csv": changed(), "ben.csv": changed()}, **BY_PATH),
    "two recordings of a person at one time": files(
        {
            "anna/1.csv": changed(time=iso(TIME)),
            "anna/2.csv": text(columns(recording(1)[:1000]) | {"time": iso(TIME + 5)}),
        },
        path=r"(?P<person>\w+)/\d",
        time_unit="iso",
    ),
    "intervals of another person": labelled("start,end,label,person", "0,5,walk,anna", "5,9,sit,ben"),
    "intervals that overlap": labelled("start,end,label,person", "0,5,walk,anna", "4,9,sit,anna"),
    "an interval that ends before it starts": labelled("start,end,label,person", "5,4,walk,anna"),
    "intervals without a label": labelled("start,end", "0,1"),
    "two files of intervals that do not say whose": files(
        {"a/a.csv": changed(), "a/labels.txt": "start,end,label\n0,5,walk", "b/labels.txt": "start,end,label\n5,9,sit"},
        path=r"(?P<person>\w+)/\w+\.csv",
        label_file="labels.txt",
    ),
    "no file of intervals": one(changed(), label_file="labels.txt"),
    "a test person without a recording": one(changed(), test_people=["ben"]),
    "a path that fits nothing": one(changed(), path=r"subject_(?P<person>\d+)"),
    "a path that tells nobody": files({"anna.csv": changed(), "ben.csv": text(columns(recording(20)))}),
    "a path that tells some people only": files(
        {"p1.csv": changed(), "p.csv": changed()}, path=r"p(?P<person>\d*)\.csv"
    ),
    "a group without a name": one(changed(), path=r"subject_(\d+)"),
    "an unknown field in the recipe": one(changed(), windows=128),
    "an unknown unit": one(changed(), sensors={"gyro": {"columns": "gyro_{}", "unit": "rpm"}}),
    "a list of units": one(changed(), sensors={"gyro": {"columns": "gyro_{}", "unit": ["rad/s"]}}),
    "a column that is not there": one(changed(), label_column="activty"),
    "two axes in the recipe": one(changed(), sensors={"gyro": {"columns": ["gyro_x", "gyro_y"], "unit": "rad/s"}}),
    "a group without a meaning": one(changed(), path=r"(?P<subject>\w+)"),
    "two places that tell the label": one(changed(), label_column="time", label_file="labels.txt"),
}  # fmt: skip
"""What is refused, by its name in docs/data.md, which tells the message."""
