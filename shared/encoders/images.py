"""Convolutional encoders of images."""

from torch import nn

from shared.data.spec import InputSpec
from shared.encoders.base import Backbone, Block, EncoderSettings
from shared.encoders.convolutional import Residual, convolution


def resnet18(settings: EncoderSettings, inputs: int, spec: InputSpec) -> Backbone:
    """Residual network of 18 layers (He et al. 2016, table 1), H = 8 width; theirs has width 64.

    Images are seen 32 times smaller at the end, so that it is for sides of 64 pixels or more.
    """
    width = settings.width
    stem = [*convolution(inputs, width, 7, settings.norm, 2, nn.Conv2d), nn.MaxPool2d(3, stride=2, padding=1)]
    return _resnet18(settings, stem, 4)


def resnet18_small(settings: EncoderSettings, inputs: int, spec: InputSpec) -> Backbone:
    """The same with the first layer of Chen et al. 2020 (SimCLR, appendix B.9) for images such as those of CIFAR-10.

    It is a 3 x 3 convolution without a stride or maximum, so that images are seen 8 times smaller at the end.
    """
    return _resnet18(settings, convolution(inputs, settings.width, 3, settings.norm, 1, nn.Conv2d), 1)


def _resnet18(settings: EncoderSettings, stem: list[nn.Module], stride: int) -> Backbone:
    layers, blocks, maps = nn.Sequential(*stem), [], settings.width
    for stage in range(4):
        for first in (True, False):
            step = 2 if stage and first else 1
            layers.append(Residual(maps, settings.width * 2**stage, settings.norm, step, nn.Conv2d))
            maps, stride = settings.width * 2**stage, stride * step
        blocks.append(Block(len(layers) - 1, maps))
    return Backbone(layers, tuple(blocks), stride)
