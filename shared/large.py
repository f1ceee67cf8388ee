"""Arrays of rows that may be larger than memory: from ``LARGE`` bytes on they lie in a file and are mapped.

What is read of a mapped file counts as memory of the process until it is let go, though the system could take it back
at any time. So large arrays are read in blocks of rows, or some rows at a time, and let go after each.

Needs numpy only, so that it can be used where there is no torch.
"""

import math
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from shared.errors import UserError
from shared.files import cache_folder

LARGE = 128 * 2**20
"""Bytes from which on an array lies in a file: all windows of the usual data sets are smaller, a week of one person is
larger."""

BLOCK = 16 * 2**20
"""Bytes that are read of an array at a time."""


def is_large(size: int) -> bool:
    """Tell whether an array of so many bytes lies in a file."""
    return size >= LARGE


def mapping_of(array: NDArray[Any]) -> mmap.mmap | None:
    """Return the map of the file that an array lies in, or None where it lies in memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner if isinstance(owner, mmap.mmap) else None


def let_go(array: NDArray[Any]) -> None:
    """Count no part of a mapped file as memory of this process until it is read again; nothing is lost."""
    if (mapping := mapping_of(array)) is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def blocks(array: NDArray[Any], rows: int | None = None) -> Iterator[NDArray[Any]]:
    """Yield blocks of rows one after another; the last may be shorter.

    A block of a mapped file is to be read before the next one is asked for.

    Args:
        array: (N, ...).
        rows: Of a block; None: as many as make ``BLOCK`` bytes.
    """
    rows = rows or max(1, BLOCK // max(1, math.prod(array.shape[1:]) * array.itemsize))
    for first in range(0, len(array), rows):
        yield array[first : first + rows]
        let_go(array)


def finite_rows(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows of an array (N, ...) hold finite numbers only, bool (N,)."""
    rest = tuple(range(1, array.ndim))
    return np.concatenate([np.zeros(0, np.bool_), *(np.isfinite(block).all(axis=rest) for block in blocks(array))])


def take_rows(array: NDArray[Any], rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> NDArray[Any]:
    """Return some rows, as ``array[rows]`` does; of a mapped array, rows that follow one another are not copied."""
    if isinstance(rows, slice) or mapping_of(array) is None:
        return array[rows]
    numbers = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
    if len(numbers) and numbers[0] >= 0 and numbers[-1] < len(array) and (np.diff(numbers) == 1).all():
        return array[int(numbers[0]) : int(numbers[-1]) + 1]
    return stack((_taken(array, some) for some in blocks(numbers, 1024)), array.shape[1:], array.dtype)


def _taken(array: NDArray[Any], numbers: NDArray[np.int64]) -> NDArray[Any]:
    taken = array[numbers]
    let_go(array)
    return taken


def concatenate(parts: Iterable[NDArray[Any]], row: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return arrays of rows as one."""
    return stack((block for part in parts for block in blocks(part)), row, dtype)


def stack(parts: Iterable[NDArray[Any]], row: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return blocks of rows as one array, which is in memory or, where it is large, in a file without a name.

    Args:
        parts: Each (n, *row), taken one after another.
        row: Shape of a row.
        dtype: Of the array.

    Raises:
        UserError: The file cannot be written.
    """
    made = Stack(row, dtype)
    for part in parts:
        made.append(part)
    return made.array()


class Stack:
    """An array that grows by blocks of rows; from ``LARGE`` bytes on it grows in a file without a name.

    The file is in the cache folder and is gone with the last array that lies in it.

    Args:
        row: Shape of a row.
        dtype: Of the array.
    """

    def __init__(self, row: tuple[int, ...], dtype: DTypeLike) -> None:
        self._row = row
        self._dtype = np.dtype(dtype)
        self._waiting: list[NDArray[Any]] = []
        self._bytes = 0
        self._rows = 0
        self._file: BinaryIO | None = None

    @property
    def empty(self) -> NDArray[Any]:
        """An array without rows, (0, *row)."""
        return np.zeros((0, *self._row), self._dtype)

    def append(self, rows: NDArray[Any]) -> None:
        """Add a block of rows (n, *row).

        Raises:
            UserError: The file cannot be written.
        """
        self._waiting.append(rows.astype(self._dtype, copy=False))
        self._bytes += self._waiting[-1].nbytes
        self._rows += len(rows)
        if is_large(self._bytes) or (self._file is not None and self._bytes >= BLOCK):
            self._write()

    def array(self) -> NDArray[Any]:
        """Return all rows, (N, *row)."""
        if self._file is None:
            return np.concatenate([self.empty, *self._waiting])
        self._write()
        with self._file as file:
            return np.memmap(file, self._dtype, "r", shape=(self._rows, *self._row))

    def _write(self) -> None:
        folder = cache_folder()
        try:
            if self._file is None:
                folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by ``array``)
            for rows in self._waiting:
                self._file.write(np.ascontiguousarray(rows).data)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"cannot keep a large array in {folder}: {error.strerror or error}; FEDHAR_CACHE names another folder"
            ) from error
        self._waiting.clear()
        self._bytes = 0
