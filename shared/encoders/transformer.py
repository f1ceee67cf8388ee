"""Encoders of tokens: each position in time, or each patch of an image, is one, and they attend to each other."""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.data.spec import InputSpec
from shared.encoders.base import Backbone, Block, EncoderSettings, TokenLayer
from shared.layers import Attention, maps_norm
from shared.masks import grid_of

PATCH = 8
"""Samples of a token."""

IMAGE_SIDE = 8
"""Patches along the shorter side of an image: those of CIFAR-10 are of 4 x 4 pixels, those of STL-10 of 12 x 12."""


def transformer(settings: EncoderSettings, inputs: int, spec: InputSpec) -> Backbone:
    """Pre-norm transformer over patches of 8 samples with learned positions, H = 2 width, of two layers.

    As in Zerveas et al. 2021 (section 3.1) the tokens of a series are normalised over the batch, not one by
    one; ``norm: group`` normalises each window by itself.
    """
    return _attending(settings, inputs, spec.size, PATCH, depth=2)


def vit(settings: EncoderSettings, inputs: int, spec: InputSpec) -> Backbone:
    """Vision transformer (Dosovitskiy et al. 2021) over 64 patches of a square image, H = 2 width, of four layers.

    Unlike theirs it has no class token: what is pooled is pooled over all patches. It is normalised as ``transformer``.
    """
    return _attending(settings, inputs, spec.size, max(1, min(spec.size) // IMAGE_SIDE), depth=4)


def _attending(settings: EncoderSettings, inputs: int, size: tuple[int, ...], patch: int, depth: int) -> Backbone:
    maps = 2 * settings.width
    layers = nn.Sequential(
        _Patches(inputs, maps, size, patch),
        *(Attention(maps, settings.norm) for _ in range(depth)),
        maps_norm(settings.norm, maps),
    )
    return Backbone(layers, (*(Block(layer, maps) for layer in range(1, depth)), Block(depth + 1, maps)), patch)


class _Patches(TokenLayer):
    """Tokens of patches plus learned positions: (N, channels, *size) to (N, maps, L), L of all sides together."""

    def __init__(self, channels: int, maps: int, size: tuple[int, ...], patch: int) -> None:
        super().__init__()
        self.missing = [end for samples in reversed(size) for end in (0, -samples % patch)]
        convolution = nn.Conv1d if len(size) == 1 else nn.Conv2d
        self.embedding = convolution(channels, maps, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(maps, prod(grid_of(size, patch))))

    def forward(self, x: Tensor) -> Tensor:
        # Windows are standardised: zeros continue them with the channel's mean.
        tokens: Tensor = self.embedding(F.pad(x, self.missing)).flatten(2) + self.positions
        return tokens

    def arrange(self, tokens: Tensor, keep: Tensor | None, hidden: Tensor | None, blank: Tensor | None) -> Tensor:
        """Put the blank token, at its position, where all is hidden, and leave out what is not kept."""
        if hidden is not None and blank is not None:
            tokens = torch.where(hidden.unsqueeze(1), (blank + self.positions).to(tokens.dtype), tokens)
        if keep is not None:
            tokens = tokens.gather(2, keep.unsqueeze(1).expand(-1, tokens.shape[1], -1))
        return tokens
