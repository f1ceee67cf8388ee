"""What is kept between runs: downloaded archives and parsed arrays."""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.files import open_atomic

DIGEST_BYTES = 32


def cache_folder() -> Path:
    """Return FEDHAR_CACHE, or else ``fedhar`` in the user's cache folder; it need not exist yet."""
    if own := os.environ.get("FEDHAR_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedhar"


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
