"""What is kept between runs: downloaded archives and parsed arrays."""

import hashlib
import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.archive import Archive
from shared.errors import UserError
from shared.files import cache_folder, open_atomic

DIGEST_BYTES = 32


def parsed(
    name: str, version: int, archive: Archive, parse: Callable[[Archive], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a data set's files, parsed once for files of these bytes and kept in the cache.

    A cache that cannot be written costs time at the next load, but is no reason to fail.

    Args:
        name: Of the data set, and of its folder in the cache.
        version: Of what ``parse`` returns.
        archive: The files.
        parse: Reads and checks them.
    """
    path = cache_folder() / name / f"{archive.digest()}-{version}.cache"
    arrays = fetch(path)
    if arrays is None:
        arrays = parse(archive)
        try:
            store(path, arrays)
        except UserError as error:
            warnings.warn(f"{name} is parsed anew each time: {error}", stacklevel=2)
    return arrays


def store(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep named arrays in one file: the SHA-256 of what follows, then an uncompressed npz without pickles.

    Raises:
        UserError: The file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getbuffer()
    with open_atomic(path) as file:
        file.write(hashlib.sha256(content).digest())
        file.write(content)


def fetch(path: Path) -> dict[str, NDArray[Any]] | None:
    """Return what ``store`` kept, or None where there is no file or any of its bytes changed since."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        expected, content = file.read(DIGEST_BYTES), file.read()
    if hashlib.sha256(content).digest() != expected:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)
