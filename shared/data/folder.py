"""A user's own windows: a folder with a description and one file per person.

``dataset.json`` says what the numbers mean::

    {
      "name": "my-study",
      "rate": 50.0,                                     samples per second (Hz), above 0
      "channels": ["total_acc_x", "total_acc_y", ...],  C names; see ``shared.data.spec.InputSpec``
      "units": ["g", "g", ...],                         one per channel; "g" and "rad/s" for known sensors
      "classes": ["sitting", "walking", ...],           activity names; label k is the k-th of them; may be empty
      "test_people": ["3", "Anna B."],                  these test, all others train; may be empty
      "feature_names": []                               optional: names of F features of each window
    }

``person_<id>.npz`` holds the windows of the person with that id, as written by ``numpy.savez``. An id is a text or a
whole number (``shared.data.person``); what a file's name cannot hold is quoted as in a URL, ``person_uci_har%2F3.npz``:

    ====================  =======================  ==================================================
    ``x``                 float (N, C, T)          windows in the units of the description
    ``y``                 int or text (N,)         labels: 0..K-1, or names among the classes; -1 or "": not
                                                   labelled; may be left out where no window is
    ``features``          float (N, F)             only where there are feature names
    ====================  =======================  ==================================================

C and T are the same for everybody. A large file is not read into memory: its windows are mapped where they lie, if they
are float32 and not compressed, as this module and ``numpy.savez`` write them. Numbers that no worn sensor measures in
the units of the description are refused. Nothing is unpickled, so a file from elsewhere
runs no code.
"""

import json
import math
import secrets
import shutil
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from shared.data.archive import DAMAGE
from shared.data.partition import each_person
from shared.data.person import Person, file_name, in_order, of_file_name
from shared.data.spec import InputSpec
from shared.data.windows import UNLABELLED, Meta, Windows, expected_labels
from shared.errors import UserError, nearest
from shared.files import open_atomic, write_atomic
from shared.large import BLOCK, blocks, concatenate, finite_rows, is_large
from shared.plausible import SENSORS, check_units
from shared.settings import Settings

DESCRIPTION = "dataset.json"


class Description(Settings):
    """The content of ``dataset.json``; the module's docstring explains the fields.

    It does not tell T, the files of the people do: with it, rate, channels and units become an ``InputSpec``.
    """

    name: str = Field(min_length=1)
    rate: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    classes: tuple[str, ...]
    test_people: tuple[Person, ...]
    feature_names: tuple[str, ...] = ()


def load(path: Path | None) -> tuple[Windows, Windows]:
    """Read a folder of windows, one file per person, into the training and the test people.

    Args:
        path: The folder; its layout is in the module's docstring.

    Returns:
        (train, test); one of them is empty where everybody is in the other.

    Raises:
        UserError: A missing or damaged file, or windows that do not fit the description or one another.
    """
    files = PersonFiles(path)
    test = set(files.test_people)
    train_part, test_part = ([p for p in files.people if (p in test) == tests] for tests in (False, True))
    return _together(files, train_part), _together(files, test_part)


def _together(files: "PersonFiles", people: Sequence[str]) -> Windows:
    """Return the windows of some people, who may be nobody."""
    parts = [files.read(person) for person in people]
    if len(parts) == 1:
        return parts[0]
    meta = files.meta
    features = None
    if width := len(meta.feature_names):
        features = concatenate((part.features for part in parts if part.features is not None), (width,), np.float32)
    return Windows(
        x=concatenate((part.x for part in parts), meta.spec.shape, np.float32),
        y=np.concatenate([np.zeros(0, np.int64), *(part.y for part in parts)]),
        person=np.concatenate([np.zeros(0, np.str_), *(part.person for part in parts)]),
        meta=meta,
        features=features,
    )


class PersonFiles:
    """A folder whose people are read one by one, so that memory need not grow with their number.

    Args:
        path: The folder; its layout is in the module's docstring.

    Raises:
        UserError: No folder is named, its description is bad, or files are missing or misnamed.
    """

    def __init__(self, path: Path | None) -> None:
        if path is None:
            raise UserError("data set folder needs a path: set data.path to the folder that holds dataset.json")
        description = _read_description(path)
        self._files = _person_files(path)
        self.people = in_order(self._files)
        self.meta = _meta(description, path / DESCRIPTION, _size(self._files[self.people[0]]))
        self.test_people = description.test_people
        if missing := in_order(set(self.test_people) - set(self.people)):
            raise UserError(
                f"{path / DESCRIPTION}: test_people {missing} have no file person_<id>.npz; found {self.people}"
            )

    def read(self, person: str) -> Windows:
        """Return one person's windows, which are checked against the description and the first person's.

        Raises:
            UserError: A damaged file, or windows that do not fit.
        """
        return _read_person(self._files[person], person, self.meta)


def load_own(path: Path) -> Windows:
    """Read a client's own folder: the file of its person, beside the study's ``dataset.json`` as it is.

    Args:
        path: The folder; the description's test people need no file in it.

    Raises:
        UserError: A missing or damaged file, windows that do not fit the description, or not exactly one person, who
            trains.
    """
    description = _read_description(path)
    files, test_people = _person_files(path), set(description.test_people)
    train = in_order(set(files) - test_people)
    if len(files) != 1 or not train:
        raise UserError(
            f"the node's data folder {path} must hold the windows of exactly one person, who trains; found training "
            f"people {train} and test people {in_order(set(files) & test_people)}"
        )
    (person,) = train
    return _read_person(files[person], person, _meta(description, path / DESCRIPTION, _size(files[person])))


def write_folder(folder: Path, train: Windows, test: Windows, beside: Mapping[str, str] | None = None) -> None:
    """Write windows in this layout, so that ``load(folder)`` gives them back, sorted by person.

    The folder appears whole or not at all.

    Args:
        folder: A folder that does not exist yet, or is empty.
        train: Windows of the training people; may be empty.
        test: Windows of the test people, of the same meta; may be empty.
        beside: Texts of further files in the folder, by name.

    Raises:
        UserError: The folder holds something, there are no windows at all, the parts differ in meaning or in
            shape, somebody is in both, or the folder cannot be written.
    """
    _check_parts(train, test)
    check_new(folder)
    with new_folder(folder) as temporary:
        for part in (train, test):
            for windows in each_person(part):
                _write_person(temporary / f"{file_name(windows.people[0])}.npz", windows)
        write_atomic(temporary / DESCRIPTION, _describe(train.meta, test.people))
        for name, text in (beside or {}).items():
            write_atomic(temporary / name, text)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes the place of ``folder`` when the block has ended well, and else goes.

    Raises:
        UserError: It cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UserError: Names it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not overwritten; name a new folder")


def _check_parts(train: Windows, test: Windows) -> None:
    if train.meta != test.meta:
        raise UserError(
            f"training and test windows differ: {train.meta.name} {train.x.shape} and {test.meta.name} {test.x.shape}"
        )
    if not len(train) + len(test):
        raise UserError("there are no windows to write")
    if both := in_order(set(train.people) & set(test.people)):
        raise UserError(f"people {both} are in both the training and the test part")


def _describe(meta: Meta, test_people: list[str]) -> str:
    description = Description(
        name=meta.name,
        rate=meta.spec.time.rate,
        channels=meta.spec.channels,
        units=meta.spec.units,
        classes=meta.classes,
        test_people=tuple(test_people),
        feature_names=meta.feature_names,
    )
    return json.dumps(description.model_dump(), indent=2, ensure_ascii=False) + "\n"


def _write_person(path: Path, windows: Windows) -> None:
    """Write a file as ``numpy.savez`` does, some rows at a time."""
    arrays: dict[str, NDArray[Any]] = {"x": windows.x, "y": windows.y}
    if windows.features is not None:
        arrays["features"] = windows.features
    with open_atomic(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            header = {"descr": npy.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array_header_1_0(member, header)
                for block in blocks(array):
                    member.write(block.tobytes())


def _read_description(folder: Path) -> Description:
    """Read ``dataset.json``; every field that is wrong is named in the error."""
    path = folder / DESCRIPTION
    try:
        return Description.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{folder}: expected the file {DESCRIPTION}, found none") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {'; '.join(_complaints(error))}") from error


def _complaints(error: ValidationError) -> list[str]:
    """Say in a line each what is wrong with the description."""
    complaints = []
    for detail in error.errors():
        field = ".".join(str(part) for part in detail["loc"])
        match detail["type"]:
            case "extra_forbidden":
                complaints.append(f"unknown field {field!r}{nearest(field, Description.model_fields)}")
            case "missing":
                complaints.append(f"the field {field!r} is missing")
            case "value_error":
                complaints.append(str(detail["ctx"]["error"]))
            case "json_invalid":
                complaints.append(f"expected JSON, found what is none ({detail['msg']})")
            case _:
                complaints.append(f"{field}: {detail['msg']}, found {detail['input']!r}")
    return complaints


def _meta(description: Description, place: Path, size: tuple[int, ...]) -> Meta:
    """Turn the description into a ``Meta``, once its lists fit together and the units are known ones.

    Args:
        description: What was read.
        place: Its file.
        size: Of the windows.
    """
    for field in ("classes", "feature_names"):
        if twice := [name for name, count in Counter(getattr(description, field)).items() if count > 1]:
            raise UserError(f"{place}: {field} must be unique, found {', '.join(twice)} more than once")
    if not all(description.classes):
        raise UserError(f"{place}: classes must have names, found an empty one, which stands for no label")
    try:
        spec = InputSpec(channels=description.channels, units=description.units, size=size, rate=description.rate)
    except ValidationError as error:
        raise UserError(f"{place}: {'; '.join(_complaints(error))}") from error
    for triad in spec.triads:
        for channel in triad.channels:
            if spec.units[channel] != (unit := SENSORS[triad.kind].unit):
                raise UserError(
                    f"{place}: channel {spec.channels[channel]!r} must be in {unit}, found {spec.units[channel]!r}; "
                    "convert the windows, or name the channel otherwise"
                )
    return Meta(description.name, spec, description.classes, description.feature_names)


def _person_files(folder: Path) -> dict[str, Path]:
    """Return the file of each person, by the id in its name."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            person = of_file_name(path.stem)
        except UserError as error:
            raise UserError(f"{path}: expected a name like person_12.npz; {error}") from None
        if person in files:
            raise UserError(f"{folder}: {files[person].name} and {path.name} are both of person {person}")
        files[person] = path
    if not files:
        raise UserError(f"{folder}: expected files named person_<id>.npz, found none")
    return files


def _read_person(path: Path, person: str, meta: Meta) -> Windows:
    """Read the windows of one person and check them against the description."""
    arrays = _read_arrays(path)
    expected = {"x", "features"} if meta.feature_names else {"x"}
    if set(arrays) - {"y"} != expected:
        raise UserError(f"{path}: expected the arrays {sorted(expected)} and optionally y, found {sorted(arrays)}")
    x = _floats(path, "x", arrays["x"], (None, len(meta.spec.channels), None))
    if x.shape[2:] != meta.spec.size:
        raise UserError(
            f"{path}: expected windows of {meta.spec.time.samples} samples, as the first person has, found {x.shape[2]}"
        )
    features = None
    if meta.feature_names:
        features = _floats(path, "features", arrays["features"], (len(x), len(meta.feature_names)))
    y = _labels(path, arrays["y"], len(x), meta.classes) if "y" in arrays else np.full(len(x), UNLABELLED, np.int64)
    check_units(str(path), meta.spec.channels, x)
    return Windows(x, y, np.full(len(x), person), meta, features)


def _size(path: Path) -> tuple[int, ...]:
    """Return the size, (T,), of a person's windows; what else is in the file is left to ``_read_person``."""
    x = _read_arrays(path).get("x")
    if x is None or x.ndim != 3 or not x.shape[2]:
        found = "none" if x is None else f"{x.dtype} {x.shape}"
        raise UserError(f"{path}: expected x as float (N, C, T) with 1 or more samples T, found {found}")
    return x.shape[2:]


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an npz file without unpickling anything."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            members = arrays.zip.infolist()
            if any(member.comment for member in members):  # a damaged length, which hides what follows
                raise ValueError("a member has a comment")
            return {member.filename.removesuffix(".npy"): _read_member(file, arrays, member) for member in members}
    except (*DAMAGE, TypeError, AttributeError) as error:  # the last two: a single array, which is no archive of them
        raise UserError(f"{path}: expected an npz file of plain arrays, found what is none ({error})") from error


def _read_member(file: BinaryIO, arrays: Any, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Return an array of an npz file; a large one that is not compressed is mapped where it lies.

    Raises:
        ValueError: It is no array, or another one than its header says.
    """
    if not is_large(member.file_size) or member.compress_type != zipfile.ZIP_STORED:
        return np.asarray(arrays[member.filename])
    with arrays.zip.open(member) as stream:
        read_header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read_header(stream)
        start = stream.tell()
        while stream.read(BLOCK):  # at its end the checksum is compared
            pass
    if by_columns or dtype.hasobject:
        return np.asarray(arrays[member.filename])
    if start + math.prod(shape) * dtype.itemsize != member.file_size:
        raise ValueError(f"{member.filename} does not end where its header says")
    file.seek(member.header_offset)
    name, extra = struct.unpack("<26xHH", file.read(30))  # lengths of what stands before the data
    return np.memmap(file, dtype, "r", member.header_offset + 30 + name + extra + start, shape)


def _floats(path: Path, name: str, array: NDArray[Any], shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """Check an array's kind, its shape (None: any size above 0) and that its values are finite."""
    fits = array.ndim == len(shape) and all(
        size == wanted if wanted is not None else size > 0 for size, wanted in zip(array.shape, shape, strict=True)
    )
    if array.dtype.kind != "f" or not fits:
        wanted = ", ".join("1 or more" if size is None else str(size) for size in shape)
        raise UserError(f"{path}: expected {name} as float ({wanted}), found {array.dtype} {array.shape}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is refused below
        values = array if array.dtype == np.float32 else concatenate([array], array.shape[1:], np.float32)
    bad = np.flatnonzero(~finite_rows(values))
    if len(bad):
        raise UserError(
            f"{path}: expected finite numbers, found NaN or infinite values in {name} of {len(bad)} of "
            f"{len(values)} windows, first in window {bad[0]}"
        )
    return values


def _labels(path: Path, y: NDArray[Any], n: int, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Check labels given as numbers or as names, and return them as numbers."""
    if y.shape != (n,) or y.dtype.kind not in "iuU":
        raise UserError(f"{path}: expected y as int or text ({n},), found {y.dtype} {y.shape}")
    if y.dtype.kind == "U":
        numbers = {name: number for number, name in enumerate(classes)} | {"": UNLABELLED}
        if unknown := sorted({str(label) for label in y} - set(numbers)):
            hint = nearest(unknown[0], classes)
            known = ", ".join(classes) or "none"
            raise UserError(
                f"{path}: unknown label {unknown[0]!r}{hint}; the classes are {known}; an empty text is no label"
            )
        return np.array([numbers[str(label)] for label in y], np.int64)
    if y.min() < UNLABELLED or y.max() >= len(classes):
        raise UserError(f"{path}: {expected_labels(classes)}, found {y.min()}..{y.max()}")
    return y.astype(np.int64)
