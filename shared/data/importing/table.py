"""A file as columns: what every kind of file becomes before anything is understood of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shared.data.importing.text_table import Layout
from shared.errors import UserError, nearest

LARGEST = float(np.finfo(np.float32).max)
"""Magnitude of numbers that windows, which are float32, can hold."""

LOST = ("", "nan", "na", "n/a", "null", "none", "-")
"""What loggers write, in any case, where a sample is lost."""

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Units of time in seconds."""
ISO = "iso"
"""The unit of times such as ``2024-05-01T10:00:00.02``; without a time zone they are taken as UTC."""

_ZONE = r"(?:[Zz]|[+-]\d\d:?\d\d)"


@dataclass(frozen=True)
class Table:
    """The columns of a file.

    Args:
        path: Within what the user named, with forward slashes.
        place: What to call the file in a message.
        frame: The columns; text where the file is text.
        layout: How its text is laid out; None where it is no text.
    """

    path: str
    place: str
    frame: pl.DataFrame
    layout: Layout | None = None

    def __len__(self) -> int:
        return self.frame.height

    def texts(self, column: str) -> list[str]:
        """Return the cells of a column as text without white space around it; "" where there is none.

        Raises:
            UserError: There is no such column.
        """
        series = self._column(column)
        if series.dtype.is_float():
            series = series.fill_nan(None)
            if (series.fill_null(0) == series.fill_null(0).round()).all():  # 3.0 is person 3
                series = series.cast(pl.Int64)
        return series.cast(pl.String).str.strip_chars().fill_null("").to_list()

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column as numbers, NaN where a sample is lost.

        Raises:
            UserError: There is no such column, or a cell holds what is no number, or one that float32 cannot hold.
        """
        series = self._column(column)
        if series.dtype == pl.String:
            cells = series.str.strip_chars()
            numbers = cells.cast(pl.Float64, strict=False)
            lost = cells.is_null() | cells.str.to_lowercase().is_in(LOST)
            wrong = (numbers.is_null() & ~lost).arg_max() if (numbers.is_null() & ~lost).any() else None
            if wrong is not None:
                repeated = " (the header once more? keep one recording a file)" if cells[wrong] == column else ""
                raise self.refuse(wrong, column, f"a number, found {cells[wrong]!r}{repeated}")
        elif series.dtype.is_numeric() or series.dtype == pl.Boolean:
            numbers = series.cast(pl.Float64)
        else:
            raise UserError(f"{self.place}, column {column!r}: expected numbers, found {series.dtype}")
        values = numbers.fill_null(np.nan).to_numpy().astype(np.float64)
        if (large := np.abs(values) > LARGEST).any():
            row = int(large.argmax())
            raise self.refuse(row, column, f"a number of at most {LARGEST:.2g} (float32), found {series[row]!r}")
        return values

    def times(self, column: str, unit: str) -> NDArray[np.float64]:
        """Return a column of times in seconds, NaN where it has none.

        Args:
            column: Its name.
            unit: A key of ``SECONDS``, or ``ISO``.

        Raises:
            UserError: There is no such column, or a cell holds no time of this unit.
        """
        if unit != ISO and not self._column(column).dtype.is_temporal():
            return self.numbers(column) * SECONDS[unit]
        moments, wrong = _moments(self._column(column))
        if wrong is not None:
            expected = "an ISO 8601 time, as 2024-05-01T10:00:00.02"
            raise self.refuse(wrong, column, f"{expected}, found {self._column(column)[wrong]!r}")
        return moments.dt.epoch("ns").cast(pl.Float64).fill_null(np.nan).to_numpy() * SECONDS["ns"]

    def refuse(self, row: int, column: str, problem: str) -> UserError:
        """Return the error of a cell; rows count from 0."""
        line = row + 1 + (self.layout.skip if self.layout else 0)
        return UserError(f"{self.place}, line {line}, column {column!r}: expected {problem}")

    def _column(self, name: str) -> pl.Series:
        if name not in self.frame.columns:
            known = self.frame.columns
            listed = ", ".join(map(repr, known[:12])) + (", …" if len(known) > 12 else "")
            raise UserError(f"{self.place}: there is no column {name!r}{nearest(name, known)}; found {listed}")
        return self.frame[name]


def is_iso(cells: Sequence[str]) -> bool:
    """Tell whether the cells, some of a column, are ISO 8601 times."""
    filled = pl.Series([cell for cell in cells if cell.strip()], dtype=pl.String)
    return len(filled) > 0 and bool(filled.str.contains(r"^\s*\d{4}-\d\d-\d\d").all()) and _moments(filled)[1] is None


def _moments(series: pl.Series) -> tuple[pl.Series, int | None]:
    """Return times without a zone, in UTC, and the first row that holds none though it is not empty."""
    if series.dtype == pl.Date:
        series = series.cast(pl.Datetime("ns"))
    if isinstance(series.dtype, pl.Datetime):
        return series.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if series.dtype.time_zone else series, None
    if series.dtype != pl.String:
        return series.cast(pl.Datetime("ns"), strict=False), 0 if len(series) else None
    cells = series.str.strip_chars()
    zone = cells.str.extract(rf"\d\s*({_ZONE})$").fill_null("Z").str.replace("^[Zz]$", "+00:00")
    local = (
        cells.str.replace(rf"(\d)\s*{_ZONE}$", "$1").str.replace(r"[ ]+", "T").str.replace(r"(T\d\d:\d\d)$", "$1:00")
    )
    moments = (local + zone).str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="ns", strict=False)
    wrong = moments.is_null() & (cells.fill_null("") != "")
    naive = moments.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return naive, int(wrong.arg_max() or 0) if wrong.any() else None
