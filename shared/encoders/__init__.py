"""The encoders, by name."""

from collections.abc import Callable

from shared.data.spec import InputSpec
from shared.encoders.base import Backbone, Encoded, Encoder, EncoderSettings, View
from shared.encoders.convolutional import conv_lstm, fcn, resnet1d
from shared.encoders.sensors import SensorEncoder, sensors
from shared.encoders.transformer import transformer
from shared.errors import UserError, choose

ENCODERS: dict[str, Callable[[EncoderSettings, int, InputSpec], Backbone]] = {
    "fcn": fcn,
    "resnet1d": resnet1d,
    "conv_lstm": conv_lstm,
    "transformer": transformer,
    "sensors": sensors,
}
"""Encoder name to the builder of its backbone, called with (settings, channels of its input, what the windows are)."""

ANY_SENSORS = frozenset({"sensors"})
"""Encoders whose weights are the same for whatever sensors the windows have."""


def build_encoder(settings: EncoderSettings, spec: InputSpec) -> Encoder:
    """Build the encoder that the settings name, for windows of a kind.

    Weights are drawn from the global generator: seed it before.

    Raises:
        UserError: Unknown name, windows too short for the architecture, or channels that it cannot have.
    """
    inputs = len(spec.channels) if settings.log_input is None else 2 * len(spec.channels)
    build = choose("encoder", ENCODERS, settings.name)
    try:
        backbone = build(settings, inputs, spec)
    except UserError as error:
        raise UserError(f"encoder {settings.name!r}: {error}") from None
    return (SensorEncoder if settings.name in ANY_SENSORS else Encoder)(settings, backbone, spec)


__all__ = ["ANY_SENSORS", "ENCODERS", "Encoded", "Encoder", "EncoderSettings", "View", "build_encoder"]
