"""What encoders and task heads share: a normalised hidden layer for vectors, which also takes a batch of one."""

from math import gcd
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "group"]
"""BatchNorm, whose statistics a federation has to decide about, or GroupNorm, which has none."""


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe and Szegedy 2015) of vectors; one alone, without spread, by the running statistics.

    They are mean 0 and variance 1 where there has never been a larger batch.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise vectors (N, D)."""
        if len(input) > 1:
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
    """Return the normalisation of maps (N, maps, L); "group" (Wu and He 2018) has up to 8 groups of at least two."""
    return nn.BatchNorm1d(maps) if norm == "batch" else nn.GroupNorm(gcd(8, maps // 2), maps)
