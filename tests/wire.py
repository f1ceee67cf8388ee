"""The bytes that are tried on the decoder, by kind; ``python -m tests.wire`` prints the table of ``docs/wire.md``."""

import io
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np
from flwr.app import Array
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from shared.compression import decompress, wire_forms
from shared.errors import UserError
from shared.exchange import mismatch
from shared.wire import read_arrays

NAME = "encoder.kernel"
SENT = {NAME: np.linspace(-1, 1, 60, dtype=np.float32).reshape(4, 3, 5)}
EACH = 150
"""Byte strings of each kind."""

FINITE = st.floats(-1e6, 1e6, width=32)


def saved(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


GOOD = saved(SENT[NAME])
HEADER = len(GOOD) - SENT[NAME].nbytes


def with_header(text: str, values: bytes = GOOD[HEADER:]) -> bytes:
    """Return an .npy file with a header of any text, padded as numpy pads it."""
    head = text.encode()[:60_000]
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + values


def zipped(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


ZIP = zipped(kernel=SENT[NAME])


def flipped(data: bytes, start: int, end: int) -> st.SearchStrategy[bytes]:
    """One to eight bits of ``data`` between two places are turned over."""

    def flip(places: list[int]) -> bytes:
        changed = bytearray(data)
        for place in places:
            changed[place // 8] ^= 1 << place % 8
        return bytes(changed)

    return st.lists(st.integers(8 * start, 8 * end - 1), min_size=1, max_size=8, unique=True).map(flip)


def cut(data: bytes) -> st.SearchStrategy[bytes]:
    return st.integers(0, len(data) - 1).map(lambda length: data[:length])


def described(descr: object, shape: object, order: object = False) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {order!r}, 'shape': {shape!r}, }}"


def of_type(dtype: np.dtype) -> bytes:
    with warnings.catch_warnings(action="ignore"):  # numpy warns of headers in UTF-8
        return saved(np.zeros((4, 3, 5), dtype), allow_pickle=True)


def full_of(thing: object) -> np.ndarray:
    array = np.empty((4, 3, 5), object)
    for place in np.ndindex(array.shape):
        array[place] = thing
    return array


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
SIZES = st.lists(st.integers(-1, 10**18) | st.integers(0, 6), max_size=40).map(tuple)

KINDS: dict[str, st.SearchStrategy[bytes]] = {
    "as `numpy.save` writes it": npst.arrays(np.float32, (4, 3, 5), elements=FINITE).map(saved),
    "bits of the values changed": flipped(GOOD, HEADER, len(GOOD)),
    "bits of the header changed": flipped(GOOD, 0, HEADER),
    "cut short": cut(GOOD),
    "more bytes behind it": st.binary(min_size=1).map(lambda more: GOOD + more),
    "a header that claims any shape, up to 10^18 a side": SIZES.map(lambda s: with_header(described("<f4", s))),
    "a header of any text": st.text(st.characters(codec="utf-8") | st.sampled_from("([{'\"\\,:")).map(with_header),
    "Fortran order": npst.arrays(np.float32, (4, 3, 5), elements=FINITE, unique=True).map(np.asfortranarray).map(saved),
    "another type, either byte order": npst.scalar_dtypes().filter(lambda d: d != np.float32).map(of_type),
    "structured types": npst.array_dtypes().map(of_type),
    "objects, with their pickle": PLAIN.map(full_of).map(lambda array: saved(array, allow_pickle=True)),
    "a pickle": PLAIN.map(pickle.dumps),
    "a zip of `numpy.savez`, whole": npst.arrays(np.float32, npst.array_shapes()).map(lambda a: zipped(kernel=a)),
    "such a zip, broken": cut(ZIP) | flipped(ZIP, 0, len(ZIP)),
    "any bytes": st.binary(max_size=2 * len(GOOD)),
}
"""They come as the array that is expected, with its declared type and shape."""

ROUNDED = {name: wire_forms(SENT, name)[NAME] for name in ("bfloat16", "int8", "int4")}
KINDS_OF_CODES = {
    f"any bytes for codes of `{name}`": st.binary(min_size=form.nbytes, max_size=form.nbytes).map(
        lambda data: saved(np.frombuffer(data, np.uint8))
    )
    for name, form in ROUNDED.items()
}


def receive(data: bytes, upload: str) -> np.ndarray:
    """Do what a server does with the array of a reply.

    Raises:
        UserError: In the words of ``server.log``.
    """
    forms = wire_forms(SENT, upload)
    form = forms[NAME]
    came = read_arrays({NAME: Array(str(form.dtype), form.shape, "numpy.ndarray", data)}, forms)
    with np.errstate(all="ignore"):
        trained = decompress(SENT, came, upload)
    if complaint := mismatch(trained, SENT):
        raise UserError(complaint)
    return trained[NAME]


def try_all(kind: str, look: Callable[[bytes, np.ndarray], None]) -> Counter[str]:
    """Try the byte strings of a kind, let ``look`` see those that are accepted, and count what became of all."""
    became: Counter[str] = Counter()
    upload = next((name for name in ROUNDED if f"`{name}`" in kind), "float32")

    @settings(max_examples=EACH, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given((KINDS | KINDS_OF_CODES)[kind])
    def try_one(data: bytes) -> None:
        try:
            array = receive(data, upload)
        except UserError as error:
            became[re.sub(r"(header) .*|\d+ (bytes).*", r"\1\2", str(error).removeprefix(f"{NAME} "))] += 1
        else:
            became["accepted"] += 1
            look(data, array)

    try_one()
    return became


def row_of(kind: str, became: Counter[str]) -> str:
    dropped = {words: count for words, count in became.most_common() if words != "accepted"}
    words = ", ".join(f"{words} ({count})" for words, count in dropped.items())
    return f"| {kind} | {became.total()} | {became['accepted']} | {sum(dropped.values())} | {words} |"


if __name__ == "__main__":
    print("| bytes | tried | accepted | dropped | words in `server.log` |\n|---|---|---|---|---|")
    for each in KINDS | KINDS_OF_CODES:
        print(row_of(each, try_all(each, lambda data, array: None)))
