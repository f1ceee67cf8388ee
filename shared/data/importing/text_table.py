"""Tables in text files: separator, decimal comma, comments before the header and the header itself are found out."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from shared.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "white space"}
"""What may part the cells, in words; a blank stands for any white space."""
SNIFFED = 200
"""Lines that are looked at."""

NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)
_VALUE = re.compile(rf"{NUMBER.pattern}|\d{{4}}-\d\d-\d\d.*", re.IGNORECASE)
_DECIMAL_COMMA = r"^(\s*[+-]?\d*),(\d+(?:[eE][+-]?\d+)?\s*)$"
_COMMENT = re.compile(r"^\s*(#|%|//)+\s*")
_UNIT = re.compile(
    r"[\[(]?(|s|ms|us|µs|ns|g|mg|m/s/s|m/\(?s[\^*]*2\)?|m/s²|rad/s|deg/s|dps|°/s|°|no units|cal|raw)[\])]?", re.I
)


class Layout(NamedTuple):
    """How a text is laid out.

    Args:
        separator: One of ``SEPARATORS``.
        decimal_comma: Whether 0,5 is a half.
        names: Of the columns; "1", "2", ... where there is no header.
        skip: Lines before the first row of cells.
    """

    separator: str
    decimal_comma: bool
    names: list[str]
    skip: int


def read_text(content: bytes, place: str) -> tuple[pl.DataFrame, Layout]:
    """Return the cells of a text file, a column of text each.

    Args:
        content: The file's bytes.
        place: What to call it in a message.

    Raises:
        UserError: No text, no table, two headers, or a line with too many cells.
    """
    text = _decode(content, place)
    layout = find_layout(text, place)
    body = text.split("\n", layout.skip)[layout.skip] if text.count("\n") >= layout.skip else ""
    separator = layout.separator
    if separator == " ":
        separator, body = "\t", re.sub(r"[ \t]+", "\t", re.sub(r"(?m)^[ \t]+|[ \t]+$", "", body))
    body = re.sub(r"\n[ \t]*(?=\n)", "", f"\n{body}")[1:]  # blank lines are no lost samples
    if not body.strip():
        raise UserError(f"{place} holds no samples below its header")
    schema = dict.fromkeys(layout.names, pl.String)
    try:
        frame = pl.read_csv(
            io.BytesIO(body.encode()), has_header=False, separator=separator, schema=schema, missing_columns="insert"
        )
    except pl.exceptions.PolarsError as error:
        raise _ragged(text, layout, place) or UserError(f"{place}: cannot be read as a table: {error}") from None
    if layout.decimal_comma:
        frame = frame.with_columns(pl.all().str.replace(_DECIMAL_COMMA, "$1.$2"))
    return frame, layout


def find_layout(text: str, place: str) -> Layout:
    """Find out how a text is laid out from its first lines.

    Raises:
        UserError: It is no table, or has two headers.
    """
    lines = [_COMMENT.sub("", line) for line in text.split("\n", SNIFFED)[:SNIFFED]]
    found = [layout for layout in (_try(lines, separator) for separator in SEPARATORS) if layout is not None]
    if not found:
        start = next((line for line in lines if line.strip()), "")[:60]
        raise UserError(f"{place}: expected columns parted by commas, semicolons, tabs or white space, found {start!r}")
    _, separator, width = max(found, key=lambda one: one[0])
    rows = [(number, cells) for number, cells in enumerate(_split(lines, separator)) if len(cells) == width]
    first = next((number for number, cells in rows if any(map(_VALUE.fullmatch, cells))), None)
    heads = [(number, cells) for number, cells in rows if first is None or number < first]
    names, skip = [str(column + 1) for column in range(width)], first or 0
    if first is None and len(rows) > 1:
        raise UserError(f"{place}: expected lines of numbers, found {lines[rows[1][0]][:60]!r}")
    if heads:
        names = _names(heads, place)
        skip = heads[-1][0] + 1 if first is None else first
    cells = [cell for number, row in rows if number >= skip for cell in row if NUMBER.fullmatch(cell)]
    comma = separator != "," and any("," in cell for cell in cells) and not any("." in cell for cell in cells)
    return Layout(separator, comma, names, skip)


def _try(lines: Sequence[str], separator: str) -> tuple[float, str, int] | None:
    """Return the share of cells that are values when lines are parted so, the separator, and the usual width."""
    rows = [cells for cells in _split(lines, separator) if any(cells)]
    counts = Counter(len(cells) for cells in rows if len(cells) > 1)
    if not counts:
        return None
    width = max(counts, key=lambda count: (counts[count], count))
    cells = [cell for row in rows for cell in row if cell]
    return sum(bool(_VALUE.fullmatch(cell)) for cell in cells) / len(cells), separator, width


def _split(lines: Sequence[str], separator: str) -> list[list[str]]:
    if separator == " ":
        return [line.split() for line in lines]
    return [[cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])] for line in lines]


def _names(heads: Sequence[tuple[int, list[str]]], place: str) -> list[str]:
    """Return the names in the lines above the first value: one header, and perhaps a line of units below it."""
    header = heads[-1][1]
    if len(heads) > 1:
        above, units = heads[-2][1], header
        if all(map(_UNIT.fullmatch, units)):
            header = [
                f"{name} ({unit.strip('[]()')})" if unit else name for name, unit in zip(above, units, strict=True)
            ]
        elif heads[-2][0] == heads[-1][0] - 1:
            raise UserError(
                f"{place}: expected one header, found two, in lines {heads[-2][0] + 1} and {heads[-1][0] + 1}"
            )
    names = [name or f"column {number}" for number, name in enumerate(header, start=1)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{place}: expected columns of different names, found {', '.join(map(repr, twice))} twice")
    return names


def _decode(content: bytes, place: str) -> str:
    """Return the text of bytes in UTF-8, UTF-16 with its mark, or Windows' Latin."""
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    if not text.strip():
        raise UserError(f"{place} is empty")
    if bad := re.search(r"[\x00-\x08\x0e-\x1f\x7f\ufffd]", text):
        raise UserError(f"{place} is not a table of text: it holds bytes that are no text ({bad[0]!r})")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _ragged(text: str, layout: Layout, place: str) -> UserError | None:
    """Return the error of the first line that has more cells than the header, if there is one."""
    for number, cells in enumerate(_split(text.split("\n"), layout.separator), start=1):
        if number > layout.skip and len(cells) > len(layout.names):
            return UserError(f"{place}, line {number}: expected {len(layout.names)} columns, found {len(cells)}")
    return None
