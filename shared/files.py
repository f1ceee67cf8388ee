"""Writing files so that a reader sees the whole file or none: no crash leaves half of one behind."""

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from shared.errors import UserError


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that takes the place of ``path`` only when the block ends well.

    The bytes go to a temporary file in the same folder (made where missing), are flushed to the disk and then
    renamed over ``path``. If the block raises, ``path`` is as it was and the temporary file is gone.

    Raises:
        UserError: The file cannot be written, or ``path`` is a folder or a device.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"cannot write {path}: it is a folder or a device")
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a whole file at once; text is stored as UTF-8.

    Raises:
        UserError: The file cannot be written.
    """
    with open_atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files that belong together, in their order: where one has no room, all stay as they were.

    Raises:
        UserError: A file cannot be written.
    """
    with ExitStack() as stack:
        for path, content in reversed(list(contents.items())):  # so that the first takes its place first
            file = stack.enter_context(open_atomic(path))
            file.write(content)
            file.flush()


def cache_folder() -> Path:
    """Return FEDHAR_CACHE, or else ``fedhar`` in the user's cache folder; it need not exist yet."""
    if own := os.environ.get("FEDHAR_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedhar"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
