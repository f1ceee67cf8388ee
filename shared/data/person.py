"""Who a window is of: a person is a text, unique across data sets, such as ``3``, ``Anna B.`` or ``uci_har/3``."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

from shared.errors import UserError

LONGEST = 100
"""Characters of an id."""

_LONGEST_QUOTED = 200
"""Characters of an id in the name of a file, where each byte of a letter beyond A to Z takes three."""

_NUMBER = re.compile("([0-9]+)")

_FILE = "person_"


def person_id(value: Any) -> Any:
    """Return the one spelling of a person's id: a whole number without leading zeros, another text composed (NFC).

    Args:
        value: A text or a whole number; what is neither is returned as it is, for pydantic to refuse.

    Raises:
        ValueError: A text that cannot be an id.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return value
    text = unicodedata.normalize("NFC", value)
    if not 1 <= len(text) <= LONGEST or not text.isprintable() or text != text.strip() or text in (".", ".."):
        raise ValueError(
            f"a person's id has 1 to {LONGEST} printable characters, no spaces around them, and is not '.' or '..'; "
            f"found {text[: LONGEST + 1]!r}{' and more' if len(text) > LONGEST + 1 else ''}"
        )
    if len(quote(text, safe="")) > _LONGEST_QUOTED:
        raise ValueError(f"a person's id is too long for the name of a file: {text!r}")
    return str(int(text)) if _NUMBER.fullmatch(text) else text


Person = Annotated[str, BeforeValidator(person_id)]
"""A person's id from elsewhere: a configuration, a description, the wire. Whole numbers are taken as text."""


def in_order(people: Iterable[str]) -> list[str]:
    """Return ids in natural order: numbers within them compare as numbers, so that ``"2"`` is before ``"10"``."""
    return sorted(people, key=_natural)


def _natural(person: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = [*_NUMBER.split(person)]  # text, number, text, ...
    parts[1::2] = map(int, parts[1::2])
    return parts, person


def numbered(person: NDArray[np.str_]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the people among the ids of windows, in natural order, and for each window the place of its person there.

    Args:
        person: text (N,).

    Returns:
        The ids, and int64 (N,).
    """
    unique, inverse = np.unique(person, return_inverse=True)
    ids = unique.tolist()
    people = in_order(ids)
    place = {one: number for number, one in enumerate(people)}
    return people, np.array([place[one] for one in ids], np.int64)[inverse]


def of_numbers(numbers: NDArray[np.integer[Any]]) -> NDArray[np.str_]:
    """Return the ids, text (N,), of people whom a data set numbers."""
    unique, inverse = np.unique(numbers, return_inverse=True)
    return np.array([str(number) for number in unique.tolist()], np.str_)[inverse]


def person_seed(person: str) -> int:
    """Return the number that stands for a person where randomness is seeded: a whole number stands for itself."""
    if _NUMBER.fullmatch(person):
        return int(person)
    return int.from_bytes(hashlib.sha256(person.encode()).digest()[:8], "big")


def file_name(person: str) -> str:
    """Return the name, without a suffix, of what one person has on a disk: ``person_3``, ``person_uci_har%2F3``."""
    return _FILE + quote(person, safe="")


def of_file_name(name: str) -> str:
    """Return the person of a ``file_name``.

    Raises:
        UserError: Any other name, or one of an id that cannot be.
    """
    try:
        if not name.startswith(_FILE):
            raise ValueError(f"expected a name that begins with {_FILE}")
        person: str = person_id(unquote(name.removeprefix(_FILE), errors="strict"))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    return person
