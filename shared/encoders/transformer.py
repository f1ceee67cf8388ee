"""An encoder of tokens: each position in time is one, and they attend to each other."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.data.spec import InputSpec
from shared.encoders.base import Backbone, Block, EncoderSettings, TokenLayer
from shared.layers import Attention, maps_norm

PATCH = 8
"""Samples of a token."""


def transformer(settings: EncoderSettings, inputs: int, spec: InputSpec) -> Backbone:
    """Pre-norm transformer over patches of 8 samples with learned positions, H = 2 width.

    As in Zerveas et al. 2021 (section 3.1) the tokens of a series are normalised over the batch, not one by
    one; ``norm: group`` normalises each window by itself.
    """
    maps = 2 * settings.width
    layers = nn.Sequential(
        _Patches(inputs, maps, spec.time.samples),
        Attention(maps, settings.norm),
        Attention(maps, settings.norm),
        maps_norm(settings.norm, maps),
    )
    return Backbone(layers, (Block(1, maps), Block(3, maps)), PATCH)


class _Patches(TokenLayer):
    """Tokens of 8 samples plus learned positions: (N, channels, samples) to (N, maps, ceil(samples / 8))."""

    def __init__(self, channels: int, maps: int, samples: int) -> None:
        super().__init__()
        self.missing = -samples % PATCH
        self.embedding = nn.Conv1d(channels, maps, PATCH, stride=PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(maps, (samples + self.missing) // PATCH))

    def forward(self, x: Tensor) -> Tensor:
        # Windows are standardised: zeros continue them with the channel's mean.
        tokens: Tensor = self.embedding(F.pad(x, (0, self.missing))) + self.positions
        return tokens

    def arrange(self, tokens: Tensor, keep: Tensor | None, hidden: Tensor | None, blank: Tensor | None) -> Tensor:
        """Put the blank token, at its position, where all is hidden, and leave out what is not kept."""
        if hidden is not None and blank is not None:
            tokens = torch.where(hidden.unsqueeze(1), (blank + self.positions).to(tokens.dtype), tokens)
        if keep is not None:
            tokens = tokens.gather(2, keep.unsqueeze(1).expand(-1, tokens.shape[1], -1))
        return tokens
