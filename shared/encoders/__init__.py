"""The encoders, by name."""

from collections.abc import Callable

from shared.data.spec import InputSpec
from shared.encoders.base import Backbone, Encoded, Encoder, EncoderSettings, View
from shared.encoders.convolutional import conv_lstm, fcn, resnet1d
from shared.encoders.images import resnet18, resnet18_small
from shared.encoders.sensors import SensorEncoder, sensors
from shared.encoders.transformer import transformer, vit
from shared.errors import UserError, choose

Builder = Callable[[EncoderSettings, int, InputSpec], Backbone]
"""Builds a backbone, called with (settings, channels of its input, what the windows are)."""

ENCODERS: dict[str, Builder] = {
    "fcn": fcn,
    "resnet1d": resnet1d,
    "conv_lstm": conv_lstm,
    "transformer": transformer,
    "sensors": sensors,
}
"""Of windows with a time axis, by name."""

IMAGE_ENCODERS: dict[str, Builder] = {
    "resnet18": resnet18,
    "resnet18_small": resnet18_small,
    "vit": vit,
}
"""Of images, by name."""

ANY_SENSORS = frozenset({"sensors"})
"""Encoders whose weights are the same for whatever sensors the windows have."""


def build_encoder(settings: EncoderSettings, spec: InputSpec) -> Encoder:
    """Build the encoder that the settings name, for windows of a kind.

    Weights are drawn from the global generator: seed it before.

    Raises:
        UserError: Unknown name, an encoder of images for windows or the other way round, windows too short for the
            architecture, or channels that it cannot have.
    """
    build = choose("encoder", ENCODERS | IMAGE_ENCODERS, settings.name)
    fitting, kind = (IMAGE_ENCODERS, "images") if spec.rate is None else (ENCODERS, "windows with a time axis")
    if settings.name not in fitting:
        raise UserError(f"encoder {settings.name!r} does not take {kind}; expected one of: {', '.join(fitting)}")
    if spec.rate is None and settings.log_input is not None:
        raise UserError("encoder.log_input shows movements in time, and images have none: set encoder.log_input=null")
    inputs = len(spec.channels) if settings.log_input is None else 2 * len(spec.channels)
    try:
        backbone = build(settings, inputs, spec)
    except UserError as error:
        raise UserError(f"encoder {settings.name!r}: {error}") from None
    return (SensorEncoder if settings.name in ANY_SENSORS else Encoder)(settings, backbone, spec)


__all__ = [
    "ANY_SENSORS",
    "ENCODERS",
    "IMAGE_ENCODERS",
    "Encoded",
    "Encoder",
    "EncoderSettings",
    "View",
    "build_encoder",
]
