"""Tables of numbers in text files, parsed fast and checked to the last value."""

import warnings

import numpy as np
from numpy.typing import NDArray

from shared.errors import UserError

SPACE = 32
NEWLINE = 10


def parse_table(text: bytes, columns: int, rows: int | None, place: str) -> NDArray[np.float64]:
    """Parse lines of numbers parted by white space; empty lines are skipped.

    Args:
        text: The file's bytes.
        columns: Numbers that every line must have.
        rows: Lines that there must be, or None for any number but none.
        place: What to call the file in an error message.

    Returns:
        float64 (rows, columns).

    Raises:
        UserError: A wrong number of rows or columns, what is no number, NaN or an infinite value.
    """
    counts = _values_per_line(text)
    uneven = np.flatnonzero(counts != columns)
    if len(uneven):
        raise refuse(place, f"{columns} columns in row {uneven[0] + 1}", str(counts[uneven[0]]))
    if len(counts) != rows and (rows is not None or not len(counts)):
        raise refuse(place, "rows" if rows is None else f"{rows} rows", str(len(counts)))
    values = _numbers(text, place).reshape(len(counts), columns)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise refuse(place, f"a finite number in row {row + 1}, column {column + 1}", f"{values[row, column]}")
    return values


def refuse(place: str, expected: str, found: str) -> UserError:
    """Return the error of a file that is not as expected."""
    return UserError(f"{place}: expected {expected}, found {found}")


def _numbers(text: bytes, place: str) -> NDArray[np.float64]:
    """Return all numbers of a text, whatever its lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # NumPy's way to say that it met what is no number
        try:
            return np.fromstring(text, sep=" ")
        except (DeprecationWarning, ValueError):
            pass
    for word in text.split():
        try:
            float(word)
        except ValueError as error:
            raise refuse(place, "numbers only", repr(word.decode(errors="replace"))) from error
    raise refuse(place, "numbers only", "what NumPy cannot read")


def _values_per_line(text: bytes) -> NDArray[np.int64]:
    """Count the words of each line that has any."""
    letters = np.frombuffer(text, np.uint8)
    filled = np.append(False, letters > SPACE)
    starts = np.flatnonzero(filled[1:] & ~filled[:-1])
    ends = np.append(np.flatnonzero(letters == NEWLINE), len(letters))
    counts = np.diff(np.searchsorted(starts, ends), prepend=0)
    return counts[counts > 0]
