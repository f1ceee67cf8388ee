"""Fewer bytes up: a client sends its rounded update, and remembers what rounding took away (error feedback).

The update is what training changed. Kernels and matrices are rounded: to bfloat16, or to 8 or 4 bits with a scale for
each output channel. Vectors (biases, statistics) are a hundredth of the bytes and stay float32. What rounding took away
is added to the next update (Seide et al. 2014; Karimireddy et al. 2019), so that nothing is lost for good.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared.wire import Form

Arrays = Mapping[str, NDArray[Any]]

FULL = "float32"
"""The name for no compression: trained arrays are sent as they are."""


@dataclass(frozen=True)
class Code:
    """How an array becomes bytes (uint8, one axis) and, knowing its shape, an array again; ``bits`` a value."""

    bits: int
    scaled: bool
    encode: Callable[[NDArray[np.float32]], NDArray[np.uint8]]
    decode: Callable[[NDArray[np.uint8], tuple[int, ...]], NDArray[np.float32]]

    def length(self, shape: tuple[int, ...]) -> int:
        """Return the number of bytes of an array of this shape; a scale is four bytes for each row."""
        return math.ceil(math.prod(shape) * self.bits / 8) + 4 * shape[0] * self.scaled


def _encode_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.uint8).numpy().ravel()


def _decode_bfloat16(data: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = torch.from_numpy(data.copy()).view(torch.bfloat16).float().numpy()
    return result.reshape(shape)


def _round(values: NDArray[np.float32], largest: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Return a scale for each row of the first axis, and whole numbers up to ``largest``."""
    rows = values.reshape(len(values), -1)
    scales = np.abs(rows).max(axis=1) / largest
    return scales, np.rint(rows / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8)


def _encode_int8(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    scales, whole = _round(values, 127)
    return np.concatenate([scales.view(np.uint8), whole.ravel().view(np.uint8)])


def _decode_int8(data: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    head = 4 * shape[0]
    return _scaled(data[:head], data[head:].view(np.int8), shape)


def _encode_int4(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    scales, whole = _round(values, 7)
    nibbles = (whole.ravel() + 8).astype(np.uint8)
    nibbles = np.append(nibbles, np.zeros(len(nibbles) % 2, np.uint8))
    return np.concatenate([scales.view(np.uint8), nibbles[::2] << 4 | nibbles[1::2]])


def _decode_int4(data: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    head = 4 * shape[0]
    nibbles = np.stack([data[head:] >> 4, data[head:] & 15], axis=1).ravel()[: math.prod(shape)]
    return _scaled(data[:head], nibbles.astype(np.int8) - 8, shape)


def _scaled(scales: NDArray[np.uint8], whole: NDArray[np.int8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    rows = whole.reshape(shape[0], -1).astype(np.float32)
    result: NDArray[np.float32] = rows * scales.view(np.float32)[:, None]
    return result.reshape(shape)


CODES: dict[str, Code] = {
    "bfloat16": Code(16, False, _encode_bfloat16, _decode_bfloat16),
    "int8": Code(8, True, _encode_int8, _decode_int8),
    "int4": Code(4, True, _encode_int4, _decode_int4),
}


def wire_forms(arrays: Arrays, name: str) -> dict[str, Form]:
    """Return the form in which each array goes up.

    Args:
        arrays: The encoder's arrays.
        name: A key of ``CODES``, or ``FULL``.
    """
    whole = {n: Form(value.shape, value.dtype) for n, value in arrays.items()}
    if name == FULL:
        return whole
    rounded = {n: (CODES[name].length(form.shape),) for n, form in whole.items() if len(form.shape) > 1}
    return whole | {n: Form(shape, np.dtype(np.uint8)) for n, shape in rounded.items()}


def compress(
    sent: Arrays, trained: Arrays, residual: Arrays, name: str
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return what goes up, and what rounding took away.

    Args:
        sent: The arrays that the client received.
        trained: The same after training.
        residual: What rounding took away last time; empty at first.
        name: A key of ``CODES``.
    """
    update = {n: np.asarray(trained[n] - sent[n] + residual.get(n, 0), np.float32) for n in sent}
    wire = {n: CODES[name].encode(value) if value.ndim > 1 else value for n, value in update.items()}
    received = _updates(sent, wire, name)
    return wire, {n: value - received[n] for n, value in update.items() if value.ndim > 1}


def decompress(sent: Arrays, wire: Arrays, name: str) -> dict[str, NDArray[np.float32]]:
    """Return the trained arrays, as far as they came through.

    Args:
        sent: The arrays that the client received.
        wire: What it sent back, in the forms that ``wire_forms`` tells.
        name: A key of ``CODES``, or ``FULL``.
    """
    if name == FULL:
        return dict(wire)
    return {n: sent[n] + value for n, value in _updates(sent, wire, name).items()}


def _updates(sent: Arrays, wire: Arrays, name: str) -> dict[str, NDArray[np.float32]]:
    return {n: CODES[name].decode(wire[n], value.shape) if value.ndim > 1 else wire[n] for n, value in sent.items()}
