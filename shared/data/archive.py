"""Read access to a data set's files by name, whether they lie in a folder, in a zip or in a zip within a zip."""

import hashlib
import io
import lzma
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Protocol

from shared.errors import UserError
from shared.files import sha256_of

ZIP_START = b"PK\x03\x04"
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError, struct.error)
"""What zipfile raises on odd bytes, depending on where they are; RuntimeError also where a member is encrypted."""


class Archive(Protocol):
    """The files of a data set, named by their path within it, with forward slashes."""

    place: str
    """What to call it in an error message."""

    def __contains__(self, member: str) -> bool: ...

    def members(self) -> list[str]:
        """Return the names of all files, sorted."""

    def read(self, member: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            UserError: The file is missing or damaged.
        """

    def digest(self) -> str:
        """Return a SHA-256 that changes whenever any of the bytes do."""


class FolderArchive:
    """The files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.place = str(root)

    def __contains__(self, member: str) -> bool:
        return (self.root / member).is_file()

    def members(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob("**/*") if path.is_file())

    def read(self, member: str) -> bytes:
        """Return the bytes of a file; ``UserError`` where it is missing or cannot be read."""
        try:
            return (self.root / member).read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"{self.place}: expected the file {member!r}, found none") from error
        except OSError as error:
            raise UserError(f"{self.place}: cannot read {member!r}: {error.strerror}") from error

    def digest(self) -> str:
        """Return the SHA-256 over the names and checksums of all files."""
        whole = hashlib.sha256()
        for member in self.members():
            whole.update(f"{sha256_of(self.root / member)} {member}\n".encode())
        return whole.hexdigest()


class ZipArchive:
    """The files below a folder within a zip.

    Args:
        file: The opened zip.
        root: The folder within it, "" or ending in a slash.
        path: The zip on disk (the outer one, if zips are nested).
    """

    def __init__(self, file: zipfile.ZipFile, root: str, path: Path) -> None:
        self.file = file
        self.root = root
        self.path = path
        self.place = str(path)

    def __contains__(self, member: str) -> bool:
        return self.root + member in self.file.namelist()

    def members(self) -> list[str]:
        """Return the names of all files, sorted."""
        names = (info.filename for info in self.file.infolist() if not info.is_dir())
        return sorted(name.removeprefix(self.root) for name in names if name.startswith(self.root))

    def read(self, member: str) -> bytes:
        """Return the bytes of a file; ``UserError`` where it is missing or damaged."""
        return read_member(self.file, self.root + member, self.place)

    def digest(self) -> str:
        """Return the SHA-256 of the zip on disk."""
        return sha256_of(self.path)


def open_archive(path: Path, landmark: str, inner: str) -> Archive:
    """Open the folder, or the folder within a zip, in which the file ``landmark`` lies.

    Args:
        path: A folder that holds ``landmark``, or one folder deeper; or a zip that holds it at any depth, or
            that holds another zip named ``inner`` which does. Nothing is extracted to disk.
        landmark: Name of a file at the root of the data set.
        inner: Name of the zip within a zip.

    Raises:
        UserError: No such path, not a zip, a truncated zip, or no landmark in it.
    """
    archive = open_files(path)
    if isinstance(archive, FolderArchive):
        return FolderArchive(_root_folder(path, landmark))
    file = archive.file
    root = _root_in_zip(file, landmark)
    if root is None and (nested := _find(file, inner)):
        file = open_zip(io.BytesIO(read_member(file, nested, str(path))), f"{path}: {nested}")
        root = _root_in_zip(file, landmark)
    if root is None:
        names = ", ".join(file.namelist()[:5]) or "nothing"
        raise UserError(f"{path}: expected {landmark!r} or {inner!r} in the zip, found {names}")
    return ZipArchive(file, root, path)


def open_files(path: Path) -> "FolderArchive | ZipArchive":
    """Open all files of a folder or a zip, whatever their names.

    Raises:
        UserError: No such path, or not a whole zip.
    """
    if path.is_dir():
        return FolderArchive(path)
    if not path.is_file():
        raise UserError(f"no such file or folder: {path}")
    return ZipArchive(open_zip(path, str(path)), "", path)


def open_zip(source: Path | io.BytesIO, place: str) -> zipfile.ZipFile:
    """Open a zip; ``UserError`` where it is not one, is cut short, or cannot be read."""
    try:
        return zipfile.ZipFile(source)
    except DAMAGE as error:
        start = source.getvalue()[:4] if isinstance(source, io.BytesIO) else _start(source)
        if start == ZIP_START:
            raise UserError(f"{place} is a truncated or damaged zip ({error})") from error
        raise UserError(f"{place} is not a zip: expected it to start with {ZIP_START!r}, found {start!r}") from error


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP_START))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_member(file: zipfile.ZipFile, member: str, place: str) -> bytes:
    """Return the bytes of a zip's member; ``UserError`` where it is missing or its checksum is wrong."""
    try:
        return file.read(member)
    except KeyError as error:
        raise UserError(f"{place}: expected {member!r} in the zip, found no such member") from error
    except DAMAGE as error:
        raise UserError(f"{place}: {member!r} in the zip cannot be read ({error})") from error


def _root_folder(path: Path, landmark: str) -> Path:
    """Return the folder that holds the landmark: the path or one of its folders."""
    for root in (path, *sorted(child for child in path.iterdir() if child.is_dir())):
        if (root / landmark).is_file():
            return root
    found = ", ".join(sorted(child.name for child in path.iterdir())[:5]) or "nothing"
    raise UserError(f"{path}: expected {landmark!r} in this folder or a folder in it, found {found}")


def _root_in_zip(file: zipfile.ZipFile, landmark: str) -> str | None:
    """Return the folder that holds the landmark, with its slash, or None."""
    found = _find(file, landmark)
    return None if found is None else found.removesuffix(landmark)


def _find(file: zipfile.ZipFile, name: str) -> str | None:
    """Return the member with this file name that is nearest to the zip's root, or None."""
    members = [member for member in file.namelist() if PurePosixPath(member).name == name]
    return min(members, key=lambda member: (member.count("/"), member), default=None)
