"""What one example is: what cannot be is refused, how two differ is said, and it travels whole."""

from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.data.spec import LARGEST, InputSpec
from shared.errors import UserError

WINDOW: dict[str, Any] = {
    "channels": ("wrist_gyro_z", "light", "wrist_gyro_x", "wrist_gyro_y", "total_acc_x"),
    "units": ("rad/s", "lx", "rad/s", "rad/s", "g"),
    "size": (128,),
    "rate": 50.0,
}
IMAGE: dict[str, Any] = {"channels": ("red", "green", "blue"), "units": ("1", "1", "1"), "size": (32, 24)}

SOME = ("a", "b", "c")
"""Few names, so that two specs are often alike in something."""


@st.composite
def specs(draw: st.DrawFn) -> InputSpec:
    channels = draw(st.lists(st.sampled_from(SOME), min_size=1, unique=True))
    units = draw(st.tuples(*[st.sampled_from("gV")] * len(channels)))
    windows = st.fixed_dictionaries({"size": st.sampled_from([(1,), (2,)]), "rate": st.sampled_from([50.0, 50.5])})
    images = st.fixed_dictionaries({"size": st.sampled_from([(1, 1), (1, 2), (2, 1)])})
    return InputSpec(channels=tuple(channels), units=units, **draw(windows | images))


def test_windows_have_sensors_and_a_time_axis() -> None:
    spec = InputSpec(**WINDOW)
    assert spec.shape == (5, 128)
    assert [(triad.kind, triad.place, triad.channels) for triad in spec.triads] == [("gyro", "wrist", (2, 3, 0))]
    assert (spec.time.samples, spec.time.rate, spec.time.seconds) == (128, 50.0, 2.56)


def test_images_have_no_time_axis() -> None:
    spec = InputSpec(**IMAGE)
    assert spec.shape == (3, 32, 24)
    with pytest.raises(UserError, match="expected windows with a time axis, found images of 32 x 24 pixels"):
        _ = spec.time


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"units": ("g",)}, r"expected a unit for each of 5 channels, found \['g'\]"),
        ({"channels": ("a", "b", "a", "c", "d")}, "channels must be unique, found a more than once"),
        ({"channels": (), "units": ()}, "channels"),
        ({"channels": ("a", "b", "c", "d", "")}, "channels.4"),
        ({"units": ("g", "g", "g", "g", "x" * 101)}, "units.4"),
        ({"size": ()}, "size"),
        ({"size": (0,)}, "size.0"),
        ({"size": (2, 2, 2)}, "size"),
        ({"size": (LARGEST + 1,)}, f"at most {LARGEST} values a channel, found {LARGEST + 1} samples"),
        ({"size": (LARGEST, 2), "rate": None}, f"found {LARGEST} x 2 pixels"),
        ({"rate": 0.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": None}, r"expected a rate \(Hz\) of windows, .*found 128 samples and rate None"),
        ({"size": (8, 16)}, "none of images; found 8 x 16 pixels and rate 50.0"),
        ({"samples": 128}, "samples"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        InputSpec(**WINDOW | change)


@given(specs(), specs())
def test_two_specs_differ_in_words_where_they_differ(one: InputSpec, other: InputSpec) -> None:
    assert (one.difference(other) == "") == (one == other)


def test_all_differences_are_named() -> None:
    def difference(**change: Any) -> str:
        return InputSpec(**WINDOW).difference(InputSpec(**WINDOW | change))

    assert difference(channels=WINDOW["channels"][::-1], units=WINDOW["units"][::-1]) == (
        "channels in the order total_acc_x, wrist_gyro_y, wrist_gyro_x, light, wrist_gyro_z, "
        "expected wrist_gyro_z, light, wrist_gyro_x, wrist_gyro_y, total_acc_x"
    )
    assert difference(
        channels=("wrist_gyro_z", "light", "hum"), units=("degrees/s", "lx", "%"), size=(64,), rate=25.5
    ) == (
        "missing channels: wrist_gyro_x, wrist_gyro_y, total_acc_x; unknown channels: hum; "
        "wrist_gyro_z is in degrees/s, expected rad/s; the size is 64 samples, expected 128 samples; "
        "the rate is 25.5 Hz, expected 50.0 Hz"
    )
    assert difference(**IMAGE, rate=None).endswith("the size is 32 x 24 pixels, expected 128 samples")


@given(specs())
def test_a_spec_travels_in_a_record_as_it_is(spec: InputSpec) -> None:
    record = ConfigRecord(spec.model_dump(mode="json", exclude_none=True))
    received = recorddict_from_proto(recorddict_to_proto(RecordDict({"sensors": record})))
    assert InputSpec.model_validate(dict(received["sensors"])) == spec
