"""Convolutional encoders, and the one whose last layers are recurrent."""

import torch.nn.functional as F
from torch import Tensor, nn

from shared.data.spec import InputSpec
from shared.encoders.base import Backbone, Block, EncoderSettings
from shared.layers import Norm, maps_norm


def fcn(settings: EncoderSettings, inputs: int, spec: InputSpec) -> Backbone:
    """Fully convolutional network of three blocks (Wang, Yan and Oates 2017, figure 1b), H = 4 width.

    Each block halves the time by the stride of its convolution rather than by pooling: half the arithmetic.
    """
    width = settings.width
    layers = nn.Sequential(
        *convolution(inputs, width, 7, settings.norm, stride=2),
        *convolution(width, 2 * width, 5, settings.norm, stride=2),
        *convolution(2 * width, 4 * width, 3, settings.norm, stride=2),
    )
    return Backbone(layers, (Block(2, width), Block(5, 2 * width), Block(8, 4 * width)), 8)


def resnet1d(settings: EncoderSettings, inputs: int, spec: InputSpec) -> Backbone:
    """Residual network of three blocks (Wang, Yan and Oates 2017, figure 1c), H = 2 width.

    Stem, short cuts and strides are those of He et al. 2016 (ResNet-18), in one dimension.
    """
    width = settings.width
    layers = nn.Sequential(
        *convolution(inputs, width, 7, settings.norm, stride=2),
        Residual(width, width, settings.norm, stride=1),
        Residual(width, 2 * width, settings.norm, stride=2),
        Residual(2 * width, 2 * width, settings.norm, stride=2),
    )
    return Backbone(layers, (Block(3, width), Block(4, 2 * width), Block(5, 2 * width)), 8)


def conv_lstm(settings: EncoderSettings, inputs: int, spec: InputSpec) -> Backbone:
    """DeepConvLSTM: four convolutions, then two LSTM layers (Ordóñez and Roggen 2016), H = 2 width.

    Unlike theirs, the first two convolutions have stride 2: the LSTM, whose steps cannot run side by side,
    takes a quarter of them. Convolutions are normalised, and all LSTM outputs are pooled, not the last alone.
    """
    width = settings.width
    layers = nn.Sequential(
        *convolution(inputs, width, 5, settings.norm, stride=2),
        *convolution(width, width, 5, settings.norm, stride=2),
        *convolution(width, width, 5, settings.norm),
        *convolution(width, width, 5, settings.norm),
        _LSTM(width, 2 * width),
    )
    convolutions = (Block(last, width) for last in (2, 5, 8, 11))
    return Backbone(layers, (*convolutions, Block(12, 2 * width)), 4)


Convolution = type[nn.Conv1d] | type[nn.Conv2d]


def convolution(
    inputs: int, maps: int, kernel: int, norm: Norm, stride: int = 1, of: Convolution = nn.Conv1d
) -> list[nn.Module]:
    """Convolution with an odd kernel, norm and ReLU: (N, inputs, L) to (N, maps, ceil(L / stride)).

    With ``nn.Conv2d`` it does so to both sides of an image.
    """
    return [
        # The norm that follows would take a bias away again.
        of(inputs, maps, kernel, stride, padding=kernel // 2, bias=False),
        maps_norm(norm, maps),
        nn.ReLU(),
    ]


class Residual(nn.Module):
    """Two convolutions beside a short cut: (N, inputs, L) to (N, maps, ceil(L / stride)), or both sides of an image."""

    def __init__(self, inputs: int, maps: int, norm: Norm, stride: int, of: Convolution = nn.Conv1d) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *convolution(inputs, maps, 3, norm, stride, of),
            of(maps, maps, 3, padding=1, bias=False),
            maps_norm(norm, maps),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != maps or stride != 1:
            self.shortcut = nn.Sequential(of(inputs, maps, 1, stride, bias=False), maps_norm(norm, maps))

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps."""
        return F.relu(self.body(x) + self.shortcut(x))


class _LSTM(nn.Module):
    """Two LSTM layers over the positions: (N, inputs, L) to (N, maps, L)."""

    def __init__(self, inputs: int, maps: int) -> None:
        super().__init__()
        self.layers = nn.LSTM(inputs, maps, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x.transpose(1, 2))[0]
        return outputs.transpose(1, 2)
