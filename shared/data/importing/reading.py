"""Files of every kind become tables: text, Parquet, NumPy and MATLAB. Nothing is unpickled, nothing is executed."""

import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

from shared.data.importing import matlab
from shared.data.importing.sources import Source, check_members, check_size
from shared.data.importing.table import Table
from shared.data.importing.text_table import read_text
from shared.errors import UserError

LARGEST_TABLE = 250_000_000
"""Cells of a Parquet file, which can be tiny on disk."""


def read_table(source: Source, content: bytes) -> Table:
    """Read a file, by the ending of its name.

    Args:
        source: The file.
        content: Its bytes.

    Raises:
        UserError: It is empty, damaged, or not what its name says.
    """
    path, place = source.path, source.place
    if not content:
        raise UserError(f"{place} is empty: it has 0 bytes")
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _BINARY:
        frame, layout = _BINARY[suffix](content, place), None
    else:
        frame, layout = read_text(content, place)
    if not frame.height:
        raise UserError(f"{place} holds no samples")
    return Table(path, place, frame, layout)


def _parquet(content: bytes, place: str) -> pl.DataFrame:
    try:
        file = pl.scan_parquet(io.BytesIO(content))
        cells = len(file.collect_schema()) * file.select(pl.len()).collect().item()
        if cells > LARGEST_TABLE:
            raise UserError(f"{place}: expected at most {LARGEST_TABLE:,} cells, found {cells:,}; cut it in pieces")
        return file.with_columns(cs.duration().dt.total_nanoseconds() / 1e9).collect()  # as seconds
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise UserError(f"{place} is no Parquet file, or a damaged one ({_first_line(error)})") from None


def _npy(content: bytes, place: str) -> pl.DataFrame:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # on odd bytes NumPy raises whatever its parsers do
        raise UserError(f"{place} is no .npy file of a plain array, or a damaged one ({_first_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{place} holds several arrays: name it .npz")
    if array.dtype.names:
        return _columns({name: array[name] for name in array.dtype.names}, place)
    return _columns({"": array}, place)


def _npz(content: bytes, place: str) -> pl.DataFrame:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as members:
            check_members(members.infolist(), place)
            check_size(sum(member.file_size for member in members.infolist()), f"{place}, unpacked,")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{place} is no .npz file of plain arrays, or a damaged one ({_first_line(error)})") from None
    return _columns(arrays, place)


def _mat(content: bytes, place: str) -> pl.DataFrame:
    done = subprocess.run([sys.executable, matlab.__file__], input=content, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip() if done.returncode > 0 else "SciPy crashes on it"
        raise UserError(f"{place} is no MATLAB file that can be read, or a damaged one ({reason})")
    return _npz(done.stdout, place)


_BINARY: dict[str, Callable[[bytes, str], pl.DataFrame]] = {
    ".parquet": _parquet,
    ".npy": _npy,
    ".npz": _npz,
    ".mat": _mat,
}


def _columns(arrays: Mapping[str, NDArray[Any]], place: str) -> pl.DataFrame:
    """Return arrays as columns; one of three columns becomes name_x, name_y, name_z, of others name_1, name_2, ..."""
    columns: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if array.dtype.kind not in "biufUM" or array.ndim > 2:
            raise UserError(
                f"{place}: expected numbers or text (N,) or (N, columns), found {array.dtype} {array.shape}"
                + (f" in {name!r}" if name else "")
            )
        if array.size == 1 and len(arrays) > 1:  # a constant beside the columns, such as the rate
            continue
        if array.ndim == 1:
            columns[name or "1"] = array
            continue
        rows = array.T if array.shape[0] < array.shape[1] else array
        ends = "xyz" if rows.shape[1] == 3 and name else range(1, rows.shape[1] + 1)
        columns |= {f"{name}_{end}" if name else str(end): rows[:, i] for i, end in enumerate(ends)}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{place}: expected columns of one length, found {lengths}")
    return pl.DataFrame({name: _native(column) for name, column in columns.items()})


def _native(array: NDArray[Any]) -> Any:
    """Return an array in this machine's byte order, with text as text."""
    return (
        array.tolist() if array.dtype.kind == "U" else np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
