"""The files that are to be imported: named, in a folder or in a zip; nothing is unpacked to disk."""

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from shared.data.archive import open_zip, read_member
from shared.data.person import in_order
from shared.errors import UserError

SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".parquet", ".npy", ".npz", ".mat")
"""Files that can hold a recording; in a folder or a zip, others are passed over."""

ZIP = ".zip"

LARGEST_FILE = 500_000_000
"""Bytes of a file, unpacked; files of a zip are read one by one."""
LARGEST_RATIO = 200
"""A zip whose files grow by more than this is no zip of recordings: text of sensors grows by 3 to 10."""


@dataclass(frozen=True)
class Source:
    """A file to be read.

    Args:
        path: Below what all named files have in common, with forward slashes: ``mine.zip/walk_1/anna.csv``.
        place: What to call it in a message.
        read: Returns its bytes; ``UserError`` where that fails.
    """

    path: str
    place: str
    read: Callable[[], bytes]


def find_sources(named: Sequence[Path]) -> list[Source]:
    """List the files that can hold recordings, in natural order (``s2`` before ``s10``).

    Args:
        named: Files, zips and folders of files.

    Raises:
        UserError: Something named is not there, is no plain file, is too large or is a bad zip; or there is no file.
    """
    root = Path(os.path.commonpath([path.absolute() for path in named])).parent
    found = {source.place: source for path in named for source in _in(path, root)}
    if not found:
        raise UserError(f"{', '.join(map(str, named))}: expected files that end in {', '.join(SUFFIXES)}, found none")
    return [found[place] for place in in_order(found)]


def _in(path: Path, root: Path) -> list[Source]:
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        wanted = [file for file in files if _wanted(file.relative_to(path).as_posix(), (*SUFFIXES, ZIP))]
        return [source for file in wanted for source in _in(file, root)]
    if not path.exists():
        raise UserError(f"no such file or folder: {path}")
    if path.name.lower().endswith(ZIP):
        return _in_zip(path, root)
    return [_of_file(path, root)]


def _wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    hidden = any(part.startswith((".", "__")) for part in name.split("/"))
    return not hidden and name.lower().endswith(suffixes)


def _of_file(file: Path, root: Path) -> Source:
    if not file.is_file():
        raise UserError(f"{file}: expected a file or a folder, found a device or a pipe")
    if not file.name.lower().endswith(SUFFIXES):
        raise UserError(f"{file}: expected a folder, a {ZIP}, or a file that ends in {', '.join(SUFFIXES)}")
    check_size(file.stat().st_size, str(file))
    return Source(file.absolute().relative_to(root).as_posix(), str(file), partial(_read, file))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error


def _in_zip(path: Path, root: Path) -> list[Source]:
    file = open_zip(path, str(path))
    members = [member for member in file.infolist() if not member.is_dir()]
    check_members(members, str(path))
    below = path.absolute().relative_to(root).as_posix()
    return [
        Source(
            f"{below}/{member.filename}",
            f"{path}: {member.filename}",
            partial(read_member, file, member.filename, str(path)),
        )
        for member in members
        if _wanted(member.filename, SUFFIXES)
    ]


def check_members(members: Sequence[zipfile.ZipInfo], place: str) -> None:
    """Refuse a zip of which a file unpacks to too much, or whose names lead out of it.

    Raises:
        UserError: Names the zip, or the member.
    """
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise UserError(f"{place}: expected names within the zip, found {member.filename!r}, which leads out of it")
        check_size(member.file_size, f"{place}: {member.filename}, unpacked,")
    unpacked, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if unpacked > LARGEST_RATIO * max(packed, 5000):
        raise UserError(
            f"{place}: {packed:,} bytes would unpack to {unpacked:,}, more than {LARGEST_RATIO} times as many, which "
            "no recording does; it looks like a zip bomb"
        )


def check_size(size: int, what: str) -> None:
    """Refuse what has more bytes than are read at once.

    Raises:
        UserError: Names it, and how large it is.
    """
    if size > LARGEST_FILE:
        raise UserError(
            f"{what} has {size / 1e9:.1f} GB, and at most {LARGEST_FILE / 1e9:g} GB is read at once; cut it into "
            "shorter recordings, or save it as Parquet"
        )
