"""Rounded updates: how close they are, how small, and that error feedback loses nothing."""

import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.compression import CODES, compress, decompress, wire_forms
from shared.errors import UserError
from shared.wire import read_arrays

pytestmark = pytest.mark.numerics

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 3))
VALUES = st.floats(-1e3, 1e3, width=32)
RELATIVE = {"bfloat16": 2.0**-8, "int8": 0.5 / 127, "int4": 0.5 / 7}
"""Largest error, of the value itself (bfloat16) or of the largest value of its row."""


@pytest.mark.parametrize("name", CODES)
@given(update=SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=VALUES)))
def test_a_rounded_update_is_as_close_as_its_code_allows(name: str, update: np.ndarray) -> None:
    sent = {"encoder.kernel": np.zeros_like(update)}
    wire, left = compress(sent, {"encoder.kernel": update}, {}, name)
    back = decompress(sent, wire, name)["encoder.kernel"]
    largest = np.abs(update).max(axis=(1, 2), keepdims=True)
    assert back.shape == update.shape
    assert (np.abs(back - update) <= RELATIVE[name] * 1.001 * largest + 1e-30).all()
    np.testing.assert_array_equal(left["encoder.kernel"], update - back)


@pytest.mark.parametrize(("name", "share"), [("bfloat16", 0.5), ("int8", 0.25), ("int4", 0.125)])
def test_the_bytes_are_the_share_that_the_name_promises(name: str, share: float) -> None:
    kernel = np.random.default_rng(0).standard_normal((128, 64, 5)).astype(np.float32)
    wire, _ = compress({"k": np.zeros_like(kernel)}, {"k": kernel}, {}, name)
    assert wire["k"].dtype == np.uint8
    assert wire["k"].nbytes - (0 if name == "bfloat16" else 4 * 128) == share * kernel.nbytes


@pytest.mark.parametrize("name", CODES)
def test_vectors_and_their_updates_come_through_unharmed(name: str) -> None:
    sent, trained = {"v": np.float32([1, 2, 3])}, {"v": np.float32([1.5, 2.25, 3])}
    wire, left = compress(sent, trained, {}, name)
    np.testing.assert_array_equal(decompress(sent, wire, name)["v"], trained["v"])
    assert left == {}


@pytest.mark.parametrize("name", CODES)
def test_error_feedback_loses_nothing_over_many_rounds(name: str) -> None:
    """The sum of what came through differs from the sum of what was learned by one round's rounding only."""
    rng, left = np.random.default_rng(1), {}
    sent = {"k": np.zeros((4, 9), np.float32)}
    learned, came = np.zeros((4, 9)), np.zeros((4, 9))
    for _ in range(50):
        step = rng.standard_normal((4, 9)).astype(np.float32)
        wire, left = compress(sent, {"k": step}, left, name)
        learned, came = learned + step, came + decompress(sent, wire, name)["k"]
    np.testing.assert_allclose(came + left["k"], learned, atol=1e-4)
    assert np.abs(came - learned).max() < 1


@pytest.mark.parametrize("name", CODES)
def test_what_does_not_fit_is_an_error_and_not_a_wrong_array(name: str) -> None:
    sent = {"k": np.zeros((4, 9), np.float32)}
    wire, _ = compress(sent, {"k": np.ones((4, 9), np.float32)}, {}, name)
    forms = wire_forms(sent, name)
    read_arrays({"k": Array(wire["k"])}, forms)
    with pytest.raises(UserError, match=r"k came as uint8 of shape \(\d+,\), expected uint8 of shape"):
        read_arrays({"k": Array(wire["k"][:-3])}, forms)
    with pytest.raises(UserError, match=r"k came as float32 of shape \(4, 9\), expected uint8 of shape"):
        read_arrays({"k": Array(np.ones((4, 9), np.float32))}, forms)
    with pytest.raises(UserError, match="1 unknown arrays, the first is other"):
        read_arrays({"k": Array(wire["k"]), "other": Array(wire["k"])}, forms)
