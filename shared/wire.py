"""The one decoder of what another machine sends: arrays and records, for the server and for the client.

An array is checked in this order: its name; the declared type and shape; the number of bytes; the header. Only then is
it decoded, without pickle and without a copy. Each is compared to what is expected, and nothing is parsed: neither an
allocation nor an exception depends on what a sender claims. ``shared.exchange.mismatch`` then checks the values.
"""

import reprlib
from collections.abc import Collection, Mapping
from math import prod
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, ValidationError, model_validator

from shared.data.statistics import ChannelStatistics
from shared.errors import UserError
from shared.settings import Settings

R = TypeVar("R", bound=Settings)

LONGEST = 400
"""Characters of what another machine sent that a message quotes at most."""

_NPY, _HEAD = b"\x93NUMPY\x01\x00", 10
"""How an .npy file begins, and where its header does: the two bytes before tell the header's length."""

_LARGEST_SQUARE = 1e30

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = 10
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 160


class WireArray(Protocol):
    """An array as it travels: Flower's ``Array``, which holds the bytes of an ``.npy`` file and what they should be."""

    dtype: str
    shape: tuple[int, ...]
    stype: str
    data: bytes


class Form(NamedTuple):
    """The shape and the type that an array on the wire must have."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the values, without a header."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def header(self) -> bytes:
        """What ``numpy.save`` writes of such an array, without the spaces that numpy's versions put behind it."""
        little = self.dtype.newbyteorder("<").str
        return repr({"descr": little, "fortran_order": False, "shape": self.shape}).replace("}", ", }").encode()

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.shape}"


def read_arrays(record: Mapping[str, WireArray], expected: Mapping[str, Form]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a record, read-only, in the order of ``expected``.

    Args:
        record: As it came.
        expected: The form of each array; there must be these and no others.

    Raises:
        UserError: Something does not fit; the first such thing is named.
    """
    if complaint := differing_names(record, expected, "arrays"):
        raise UserError(complaint)
    for name, form in expected.items():
        if complaint := misfit(record[name], form):
            raise UserError(f"{name} {complaint}")
    return {name: _decode(record[name].data, form) for name, form in expected.items()}


def differing_names(found: Collection[str], expected: Collection[str], what: str) -> str:
    """Say in words which of ``expected`` are missing, or which others there are; "" if they are the same."""
    if missing := [name for name in expected if name not in found]:
        return f"{len(missing)} {what} are missing, the first is {missing[0]}"
    if unknown := [name for name in found if name not in expected]:
        return f"{len(unknown)} unknown {what}, the first is {readable(unknown[0])}"
    return ""


def misfit(array: WireArray, form: Form) -> str:
    """Say in words why the bytes of an array are not of this form; "" if they are. The values are not looked at."""
    if array.stype != "numpy.ndarray":
        return f"came as {quoted(array.stype)}, expected 'numpy.ndarray'"
    if (array.dtype, array.shape) != (str(form.dtype), form.shape):
        return f"came as {readable(array.dtype)} of shape {quoted(array.shape)}, expected {form}"
    head, rest = array.data[:_HEAD], len(array.data) - _HEAD - int.from_bytes(array.data[_HEAD - 2 : _HEAD], "little")
    if rest != form.nbytes:
        return f"came with {len(array.data)} bytes, expected {form.nbytes} behind the header of an .npy file"
    header = array.data[_HEAD : len(array.data) - rest]
    if (
        not head.startswith(_NPY)
        or not header.startswith(form.header)
        or header[len(form.header) :].lstrip(b" ") != b"\n"
    ):
        return f"came with the header {quoted(head + header.rstrip())}, expected that of {form}: {form.header.decode()}"
    return ""


def _decode(data: bytes, form: Form) -> NDArray[Any]:
    flat = np.frombuffer(data, form.dtype.newbyteorder("<"), offset=len(data) - form.nbytes)
    return flat.astype(form.dtype, copy=False).reshape(form.shape)


class Sums(Settings):
    """Channel statistics as they travel; ``total`` and ``squares`` have a value for each channel.

    Sums that no samples have, or of samples beyond 1e15, are refused: they would make NaN of everybody's windows.
    """

    count: PositiveInt
    total: tuple[float, ...]
    squares: tuple[float, ...]

    @model_validator(mode="after")
    def _are_possible(self) -> Self:
        if len(self.total) != len(self.squares):
            raise ValueError(f"total has {len(self.total)} values, squares has {len(self.squares)}")
        for total, squares in zip(self.total, self.squares, strict=True):
            if not total * total <= squares * self.count * (1 + 1e-6) or squares > _LARGEST_SQUARE * self.count:
                raise ValueError(f"no {self.count} samples have the sum {total:g} and the sum of squares {squares:g}")
        return self

    @property
    def statistics(self) -> ChannelStatistics:
        """The channel statistics."""
        return ChannelStatistics.from_dict(self.model_dump())


def read_record(kind: type[R], values: Mapping[str, Any]) -> R:
    """Return the numbers and texts of a record, typed.

    Raises:
        UserError: They do not fit ``kind``; the first that does not is named.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        raise UserError(f"{readable(place)}: {readable(problem['msg'])}") from None


def readable(text: str) -> str:
    """Return a text as one line that can be printed, of its beginning and its end where it is longer than ``LONGEST``.

    The end of a traceback says what went wrong.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} [{len(text)} characters] {text[-LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else " " for letter in text)


def quoted(value: object) -> str:
    """Return a value as Python would write it, cut to a length that can be read."""
    return readable(_SHORT.repr(value))
