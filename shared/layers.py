"""What encoders and task heads share: a hidden layer for vectors, and attention between the positions of a window.

Shapes: N windows, L positions, V of them that are visible, H maps.
"""

from math import gcd
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION_HEADS = 4

Norm = Literal["batch", "group"]
"""BatchNorm, whose statistics a federation has to decide about, or GroupNorm, which has none."""


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe and Szegedy 2015); one vector alone, without spread, by the running statistics.

    They are mean 0 and variance 1 where there has never been a larger batch.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Take maps of any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise vectors (N, D), or maps (N, D, L) or (N, D, h, w)."""
        if not self.training or input.numel() > input.shape[1]:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def hidden_layer(inputs: int, units: int, norm: Norm = "batch") -> list[nn.Module]:
    """Return the layers from (N, inputs) to (N, units): normalised before and after the weights, then ReLU.

    What is pooled over time spreads differently, by up to two orders of magnitude. Normalised over the batch, all of it
    counts. With "group" each vector is one group: layer normalisation (Ba, Kiros and Hinton 2016).
    """
    return [
        _norm(norm, inputs),
        nn.Linear(inputs, units, bias=False),  # the norm that follows would take a bias away again
        _norm(norm, units),
        nn.ReLU(inplace=True),
    ]


def _norm(norm: Norm, features: int) -> nn.Module:
    return BatchNorm(features) if norm == "batch" else nn.LayerNorm(features)


def maps_norm(norm: Norm, maps: int) -> nn.Module:
    """Return the normalisation of maps (N, maps, ...); "group" (Wu and He 2018) has up to 8 groups of at least two."""
    return BatchNorm(maps) if norm == "batch" else nn.GroupNorm(gcd(8, maps // 2), maps)


class Attention(nn.Module):
    """A pre-norm layer of self-attention and feed-forward, without dropout: (N, maps, L) to the same."""

    def __init__(self, maps: int, norm: Norm) -> None:
        super().__init__()
        self.norm_attention = maps_norm(norm, maps)
        self.projections = nn.Linear(maps, 3 * maps)
        self.output = nn.Linear(maps, maps)
        self.norm_forward = maps_norm(norm, maps)
        self.forward_layers = nn.Sequential(nn.Linear(maps, 2 * maps), nn.GELU(), nn.Linear(2 * maps, maps))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, maps, L)."""
        x = x + self.attend(self.norm_attention(x).transpose(1, 2)).transpose(1, 2)
        forward: Tensor = self.forward_layers(self.norm_forward(x).transpose(1, 2))
        return x + forward.transpose(1, 2)

    def attend(self, tokens: Tensor, absent: Tensor | None = None) -> Tensor:
        """Multi-head scaled dot-product attention (Vaswani et al. 2017, equation 1).

        Args:
            tokens: (N, L, maps).
            absent: bool (N, L): those that nobody attends to, not they themselves; at least one is not. None: none.
        """
        heads = self.projections(tokens).unflatten(2, (3, ATTENTION_HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        # Written out: with so few tokens the fused CPU kernel's backward pass is many times slower.
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        if absent is not None:
            scores = scores.masked_fill(absent[:, None, None], -torch.inf)
        mixed = scores.softmax(dim=3) @ value
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output


class TokenDecoder(nn.Module):
    """Tells from the tokens of visible positions what stands at every position (the decoder of He et al. 2022, MAE).

    Args:
        inputs: H, of a visible token.
        hidden: Width inside, a multiple of ``ATTENTION_HEADS``.
        depth: Layers of attention.
        positions: L.
        outputs: Numbers told of a position.
    """

    def __init__(self, inputs: int, hidden: int, depth: int, positions: int, outputs: int) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, hidden)
        self.blank = nn.Parameter(torch.zeros(hidden))
        self.positions = nn.Parameter(0.02 * torch.randn(positions, hidden))
        self.blocks = nn.Sequential(*(Attention(hidden, "batch") for _ in range(depth)), BatchNorm(hidden))
        self.leave = nn.Linear(hidden, outputs)

    def forward(self, tokens: Tensor, keep: Tensor | None = None, hidden: Tensor | None = None) -> Tensor:
        """Return (N, L, outputs).

        Args:
            tokens: (N, V, H).
            keep: Their positions, int64 (N, V); None: all L, in order.
            hidden: Of all L, those whose tokens it does not get, bool (N, L); None: it gets what is there.
        """
        entered = self.enter(tokens)
        if keep is not None:
            place = keep.unsqueeze(2).expand(-1, -1, entered.shape[2])
            entered = self.blank.expand(len(tokens), len(self.positions), -1).scatter(1, place, entered)
        if hidden is not None:
            entered = torch.where(hidden.unsqueeze(2), self.blank.to(entered.dtype), entered)
        maps = self.blocks((entered + self.positions).transpose(1, 2))
        told: Tensor = self.leave(maps.transpose(1, 2))
        return told
