"""UCI HAR: six activities of 30 people with a smartphone at the waist.

Windows of 2.56 s (128 samples at 50 Hz, half of them shared with the next window) of acceleration without and
with gravity and of rotation; 21 people train and 9 test.

The files are read from the official layout, as a folder, as its zip or as the zip around that zip, and the parsed
arrays are cached, so that a second load need not parse 190 MB of text.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.archive import Archive, open_archive
from shared.data.cache import parsed
from shared.data.person import of_numbers
from shared.data.source import Source
from shared.data.spec import InputSpec
from shared.data.text import parse_table, refuse
from shared.data.windows import Meta, Windows
from shared.errors import UserError

SAMPLES = 128
SIGNALS = tuple(f"{sensor}_{axis}" for sensor in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
"""File name stems of the channels. What the files call body_gyro is the gyroscope as it is."""
SPEC = InputSpec(
    channels=tuple(signal.replace("body_gyro", "gyro") for signal in SIGNALS),
    units=tuple("rad/s" if "gyro" in signal else "g" for signal in SIGNALS),
    size=(SAMPLES,),
    rate=50.0,
)

INNER_ZIP = "UCI HAR Dataset.zip"
SOURCE = Source(
    name="uci_har",
    citation="D. Anguita, A. Ghio, L. Oneto, X. Parra, J. L. Reyes-Ortiz: A public domain dataset for human activity "
    "recognition using smartphones. ESANN 2013, https://doi.org/10.24432/C54S4K",
    terms="with citation, and not for commercial use",
    get="run `python -m shared.data download uci_har`",
    file=INNER_ZIP,
)
LABELS = "activity_labels.txt"
FEATURES = "features.txt"
CACHE_FORMAT = 1


def load(path: Path | None) -> tuple[Windows, Windows]:
    """Read the 21 training and the 9 test people of the official split.

    Args:
        path: The folder "UCI HAR Dataset", a folder that contains it, its zip, or the zip around its zip. None:
            see ``Source.find``.

    Returns:
        (train, test): x (N, 9, 128) as ``SPEC`` says, labels in the order of activity_labels.txt,
        and the 561 features where the files X_train.txt and X_test.txt are there.

    Raises:
        UserError: Missing, damaged or inconsistent files; the message names the file, what was expected and
            what was found.
    """
    archive = open_archive(SOURCE.find(path), LABELS, INNER_ZIP)
    arrays = parsed(SOURCE.name, CACHE_FORMAT, archive, _parse)
    names = [tuple(str(name) for name in arrays[key]) for key in ("classes", "feature_names")]
    meta = Meta(SOURCE.name, SPEC, classes=names[0], feature_names=names[1])
    train, test = (_windows(arrays, part, meta) for part in ("train", "test"))
    return train, test


def _windows(arrays: dict[str, NDArray[Any]], part: str, meta: Meta) -> Windows:
    windows = Windows(arrays[f"{part}/x"], arrays[f"{part}/y"], of_numbers(arrays[f"{part}/subject"]), meta)
    return replace(windows, features=arrays[f"{part}/features"]) if meta.feature_names else windows


def _parse(archive: Archive) -> dict[str, NDArray[Any]]:
    """Read and check all files of the official layout."""
    classes = _classes(archive)
    features = _feature_names(archive)
    arrays: dict[str, NDArray[Any]] = {
        "classes": np.array(classes, dtype=np.str_),
        "feature_names": np.array(features, dtype=np.str_),
    }
    for part in ("train", "test"):
        arrays |= {f"{part}/{key}": value for key, value in _part(archive, part, len(classes), len(features)).items()}
    both = np.intersect1d(arrays["train/subject"], arrays["test/subject"])
    if len(both):
        raise UserError(
            f"{archive.place}: people {both.tolist()} are in both train/subject_train.txt and "
            "test/subject_test.txt; expected each person in one of them"
        )
    return arrays


def _part(archive: Archive, part: str, classes: int, features: int) -> dict[str, NDArray[Any]]:
    """Read the windows, labels, people and (where there are names for them) features of one part."""
    y = _integers(archive, f"{part}/y_{part}.txt", None, (1, classes), "label")
    subject = _integers(archive, f"{part}/subject_{part}.txt", len(y), (1, None), "person")
    x = np.empty((len(y), len(SIGNALS), SAMPLES), np.float32)
    for channel, signal in enumerate(SIGNALS):
        member = f"{part}/Inertial Signals/{signal}_{part}.txt"
        x[:, channel] = _table(archive, member, SAMPLES, len(y))
    arrays: dict[str, NDArray[Any]] = {"x": x, "y": y - 1, "subject": subject}
    if features:
        arrays["features"] = _table(archive, f"{part}/X_{part}.txt", features, len(y)).astype(np.float32)
    return arrays


def _table(archive: Archive, member: str, columns: int, rows: int | None) -> NDArray[np.float64]:
    """Parse a text file of numbers, which must have these columns and (unless None) this many rows."""
    return parse_table(archive.read(member), columns, rows, f"{archive.place}: {member}")


def _integers(
    archive: Archive, member: str, rows: int | None, limits: tuple[int, int | None], what: str
) -> NDArray[np.int64]:
    """Parse a text file of one integer a row, each within the limits."""
    values = _table(archive, member, 1, rows)[:, 0]
    low, high = limits
    bad = (values != np.rint(values)) | (values < low) | (values > (np.inf if high is None else high))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        expected = f"a whole number of at least {low}" if high is None else f"{low}..{high}"
        raise refuse(f"{archive.place}: {member}", f"row {row + 1}: {what} {expected}", f"{values[row]:g}")
    return values.astype(np.int64)


def _named(archive: Archive, member: str) -> tuple[str, ...]:
    """Read the names of a file whose lines are ``1 name``, ``2 name`` and so on."""
    names: list[str] = []
    for number, line in enumerate(archive.read(member).decode(errors="replace").splitlines(), start=1):
        match line.split():
            case [index, name] if index == str(number):
                names.append(name)
            case _:
                raise refuse(f"{archive.place}: {member}", f"line {number}: '{number} <name>'", repr(line))
    if not names:
        raise refuse(f"{archive.place}: {member}", "lines of '<number> <name>'", "an empty file")
    return tuple(names)


def _classes(archive: Archive) -> tuple[str, ...]:
    return tuple(name.lower() for name in _named(archive, LABELS))


def _feature_names(archive: Archive) -> tuple[str, ...]:
    """Return the names of the shipped features, made unique; none where neither part ships its features."""
    if not any(f"{part}/X_{part}.txt" in archive for part in ("train", "test")):
        return ()
    seen: dict[str, int] = {}
    unique = []
    for name in _named(archive, FEATURES):
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")  # 42 names stand for 3 features each
    return tuple(unique)
