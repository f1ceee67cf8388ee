"""The encoders, by name."""

from collections.abc import Callable

from shared.encoders.base import Backbone, Encoded, Encoder, EncoderSettings, View
from shared.encoders.convolutional import conv_lstm, fcn, resnet1d
from shared.encoders.transformer import transformer
from shared.errors import choose

ENCODERS: dict[str, Callable[[EncoderSettings, int, int], Backbone]] = {
    "fcn": fcn,
    "resnet1d": resnet1d,
    "conv_lstm": conv_lstm,
    "transformer": transformer,
}
"""Encoder name to the builder of its backbone, called with (settings, input channels, samples)."""


def build_encoder(settings: EncoderSettings, channels: int, samples: int) -> Encoder:
    """Build the encoder that the settings name, for windows of (channels, samples).

    Weights are drawn from the global generator: seed it before.

    Raises:
        UserError: Unknown name, or windows too short for the architecture.
    """
    inputs = channels if settings.log_input is None else 2 * channels
    backbone = choose("encoder", ENCODERS, settings.name)(settings, inputs, samples)
    return Encoder(settings, backbone, channels, samples)


__all__ = ["ENCODERS", "Encoded", "Encoder", "EncoderSettings", "View", "build_encoder"]
