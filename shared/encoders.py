"""Encoders: raw windows (N, C, T) in, embeddings (N, D) out, chosen by name.

Shapes: N windows, C channels, T samples, H feature maps of the last layer, L positions in time, D embedding.

An encoder is three things in a row: the training people's channel statistics (and a copy of the movements on a
logarithmic scale), a backbone that makes H maps of a window, and a pooling over time (and a hidden layer over all that
is pooled). Nothing here draws from the global random generator after construction (there is no dropout), so clients can
train in parallel threads and still repeat themselves exactly.
"""

from collections.abc import Callable
from math import gcd
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from shared.errors import UserError, choose
from shared.layers import Norm, hidden_layer
from shared.settings import Settings

POOLED_STD_EPSILON = 1e-5
"""Added to the variance over time before its root: constant maps then have a finite gradient."""

ATTENTION_HEADS = 4
PATCH = 8


class EncoderSettings(Settings):
    """What an encoder is built from.

    Args:
        name: A key of ``ENCODERS``.
        width: Base number of channels; every layer has this many or a small multiple of it.
        norm: BatchNorm, whose statistics a federation has to decide about, or GroupNorm, which has none.
        pooling: Mean over time, or mean, maximum and standard deviation side by side (D times three).
        log_input: If a number s, the backbone also sees each channel's deviation d from its window mean as
            asinh(d / s) / 2, with d in standard deviations of the channel: linear below s, logarithmic above, as in
            speech coding (ITU-T G.711), and halved to be as large as the window. Somebody who sits or stands moves a
            hundred times less than somebody who walks, and those movements tell the two apart. None: the windows alone.
        pooled_blocks: The maps of the "last" block, or of "every" block side by side: coarse and fine in time, as in a
            hypercolumn (Hariharan et al. 2015). The backbone has no more weights for it, and the embedding tells more
            where the last block is narrow.
        hidden: If a number, that many units of a hidden layer over all that is pooled stand beside it in the embedding.
            Unlike the hidden layers of the heads it is shared by all tasks, and in a federation by all clients.
    """

    name: str
    width: int = Field(ge=ATTENTION_HEADS, multiple_of=ATTENTION_HEADS)
    norm: Norm
    pooling: Literal["mean", "mean_max_std"]
    log_input: PositiveFloat | None
    pooled_blocks: Literal["last", "every"]
    hidden: PositiveInt | None


class Block(NamedTuple):
    """The number of a block's last layer, from 0, and how many maps it makes."""

    last: int
    maps: int


class Backbone(NamedTuple):
    """Layers from standardised windows (N, C, T) to maps (N, H, L), with L about T / stride.

    Args:
        layers: One after the other.
        blocks: What can be pooled; the last one makes H maps.
        stride: Samples per position of the last maps, a power of two.
    """

    layers: nn.Sequential
    blocks: tuple[Block, ...]
    stride: int


class Encoder(nn.Module):
    """Channel statistics, a backbone and a pooling over time; build it with ``build_encoder``.

    Args:
        settings: What to build.
        channels: C.
        samples: T.

    Attributes:
        dim: D.
        mean: Channel means of the training people, (C, 1); not part of the state dict, see ``standardise``.
        std: Their standard deviations, (C, 1).

    Raises:
        UserError: Unknown name, or windows too short to leave two positions in time.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: EncoderSettings, channels: int, samples: int) -> None:
        super().__init__()
        inputs = channels if settings.log_input is None else 2 * channels
        backbone = choose("encoder", ENCODERS, settings.name)(settings, inputs, samples)
        if samples < 2 * backbone.stride:
            raise UserError(
                f"encoder {settings.name!r}: windows are too short; "
                f"expected at least {2 * backbone.stride} samples, found {samples}"
            )
        self.settings = settings
        self.channels = channels
        self.samples = samples
        self.backbone = backbone.layers
        pooled = backbone.blocks if settings.pooled_blocks == "every" else backbone.blocks[-1:]
        self.pooled_after = [block.last for block in pooled]
        self.dim = sum(block.maps for block in pooled) * (3 if settings.pooling == "mean_max_std" else 1)
        self.hidden: nn.Module | None = None
        if settings.hidden is not None:
            self.hidden = nn.Sequential(*hidden_layer(self.dim, settings.hidden, settings.norm))
            self.dim += settings.hidden
        self.register_buffer("mean", torch.zeros(channels, 1), persistent=False)
        self.register_buffer("std", torch.ones(channels, 1), persistent=False)

    def standardise(self, mean: ArrayLike, std: ArrayLike) -> None:
        """Set what raw windows are standardised with: channel mean and standard deviation, (C,) each.

        Until then they are 0 and 1. The state dict leaves them out: they never travel with the weights.

        Raises:
            UserError: Not C numbers, or a standard deviation that is not above 0.
        """
        statistics = torch.stack([self._per_channel("mean", mean), self._per_channel("std", std)])
        if not bool(statistics.isfinite().all() and (statistics[1] > 0).all()):
            raise UserError(
                "channel statistics: expected finite means and standard deviations above 0, "
                f"found mean {statistics[0].tolist()} and std {statistics[1].tolist()}"
            )
        self.mean, self.std = statistics.unsqueeze(2)

    def _per_channel(self, name: str, values: ArrayLike) -> Tensor:
        tensor = torch.as_tensor(values, dtype=self.mean.dtype, device=self.mean.device)
        if tensor.shape != (self.channels,):
            raise UserError(f"channel {name}: expected shape {(self.channels,)}, found {tuple(tensor.shape)}")
        return tensor

    def forward(self, x: Tensor) -> Tensor:
        """Encode raw windows (N, C, T) to embeddings (N, D), float32 also under autocast.

        Raises:
            UserError: Windows of another shape than the encoder was built for.
        """
        if x.dim() != 3 or x.shape[1:] != (self.channels, self.samples):
            raise UserError(f"windows: expected shape (N, {self.channels}, {self.samples}), found {tuple(x.shape)}")
        inputs = (x - self.mean) / self.std
        if self.settings.log_input is not None:
            deviation = inputs - inputs.mean(dim=2, keepdim=True)
            inputs = torch.cat([inputs, torch.asinh(deviation / self.settings.log_input) / 2], dim=1)
        parts = []
        for number, layer in enumerate(self.backbone):
            inputs = layer(inputs)
            if number in self.pooled_after:
                parts.append(self._pool(inputs.float()))
        pooled = torch.cat(parts, dim=1)
        if self.hidden is None:
            return pooled
        return torch.cat([pooled, self.hidden(pooled).float()], dim=1)

    def _pool(self, maps: Tensor) -> Tensor:
        """Maps (N, H, L) to statistics over time, (N, H) or (N, 3H)."""
        mean = maps.mean(dim=2)
        if self.settings.pooling == "mean":
            return mean
        # torch.var over the last dimension is several times slower on a CPU than these two passes.
        variance = (maps - mean.unsqueeze(2)).square().mean(dim=2)
        return torch.cat([mean, maps.amax(dim=2), (variance + POOLED_STD_EPSILON).sqrt()], dim=1)


def build_encoder(settings: EncoderSettings, channels: int, samples: int) -> Encoder:
    """Build the encoder that the settings name, for windows of (channels, samples).

    Weights are drawn from the global generator: seed it before.

    Raises:
        UserError: Unknown name, or windows too short for the architecture.
    """
    return Encoder(settings, channels, samples)


def fcn(settings: EncoderSettings, channels: int, samples: int) -> Backbone:
    """Fully convolutional network of three blocks (Wang, Yan and Oates 2017, figure 1b), H = 4 width.

    Each block halves the time by the stride of its convolution rather than by pooling: half the arithmetic.
    """
    width = settings.width
    layers = nn.Sequential(
        *_convolution(channels, width, 7, settings.norm, stride=2),
        *_convolution(width, 2 * width, 5, settings.norm, stride=2),
        *_convolution(2 * width, 4 * width, 3, settings.norm, stride=2),
    )
    return Backbone(layers, (Block(2, width), Block(5, 2 * width), Block(8, 4 * width)), 8)


def resnet1d(settings: EncoderSettings, channels: int, samples: int) -> Backbone:
    """Residual network of three blocks (Wang, Yan and Oates 2017, figure 1c), H = 2 width.

    Stem, short cuts and strides are those of He et al. 2016 (ResNet-18), in one dimension.
    """
    width = settings.width
    layers = nn.Sequential(
        *_convolution(channels, width, 7, settings.norm, stride=2),
        _Residual(width, width, settings.norm, stride=1),
        _Residual(width, 2 * width, settings.norm, stride=2),
        _Residual(2 * width, 2 * width, settings.norm, stride=2),
    )
    return Backbone(layers, (Block(3, width), Block(4, 2 * width), Block(5, 2 * width)), 8)


def conv_lstm(settings: EncoderSettings, channels: int, samples: int) -> Backbone:
    """DeepConvLSTM: four convolutions, then two LSTM layers (Ordóñez and Roggen 2016), H = 2 width.

    Unlike theirs, the first two convolutions have stride 2: the LSTM, whose steps cannot run side by side,
    takes a quarter of them. Convolutions are normalised, and all LSTM outputs are pooled, not the last alone.
    """
    width = settings.width
    layers = nn.Sequential(
        *_convolution(channels, width, 5, settings.norm, stride=2),
        *_convolution(width, width, 5, settings.norm, stride=2),
        *_convolution(width, width, 5, settings.norm),
        *_convolution(width, width, 5, settings.norm),
        _LSTM(width, 2 * width),
    )
    convolutions = (Block(last, width) for last in (2, 5, 8, 11))
    return Backbone(layers, (*convolutions, Block(12, 2 * width)), 4)


def transformer(settings: EncoderSettings, channels: int, samples: int) -> Backbone:
    """Pre-norm transformer over patches of 8 samples with learned positions, H = 2 width.

    As in Zerveas et al. 2021 (section 3.1) the tokens of a series are normalised over the batch, not one by
    one; ``norm: group`` normalises each window by itself.
    """
    maps = 2 * settings.width
    layers = nn.Sequential(
        _Patches(channels, maps, samples),
        _Attention(maps, settings.norm),
        _Attention(maps, settings.norm),
        _norm(settings.norm, maps),
    )
    return Backbone(layers, (Block(1, maps), Block(3, maps)), PATCH)


ENCODERS: dict[str, Callable[[EncoderSettings, int, int], Backbone]] = {
    "fcn": fcn,
    "resnet1d": resnet1d,
    "conv_lstm": conv_lstm,
    "transformer": transformer,
}
"""Encoder name to the builder of its backbone, called with (settings, channels, samples)."""


def _norm(norm: Norm, maps: int) -> nn.Module:
    """BatchNorm, or GroupNorm (Wu and He 2018) with up to 8 groups, each of at least two maps."""
    return nn.BatchNorm1d(maps) if norm == "batch" else nn.GroupNorm(gcd(8, maps // 2), maps)


def _convolution(inputs: int, maps: int, kernel: int, norm: Norm, stride: int = 1) -> list[nn.Module]:
    """Convolution with an odd kernel, norm and ReLU: (N, inputs, L) to (N, maps, ceil(L / stride))."""
    return [
        # The norm that follows would take a bias away again.
        nn.Conv1d(inputs, maps, kernel, stride, padding=kernel // 2, bias=False),
        _norm(norm, maps),
        nn.ReLU(),
    ]


class _Residual(nn.Module):
    """Two convolutions beside a short cut: (N, inputs, L) to (N, maps, ceil(L / stride))."""

    def __init__(self, inputs: int, maps: int, norm: Norm, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inputs, maps, 3, norm, stride),
            nn.Conv1d(maps, maps, 3, padding=1, bias=False),
            _norm(norm, maps),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != maps or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv1d(inputs, maps, 1, stride, bias=False), _norm(norm, maps))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class _LSTM(nn.Module):
    """Two LSTM layers over the positions: (N, inputs, L) to (N, maps, L)."""

    def __init__(self, inputs: int, maps: int) -> None:
        super().__init__()
        self.layers = nn.LSTM(inputs, maps, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x.transpose(1, 2))[0]
        return outputs.transpose(1, 2)


class _Patches(nn.Module):
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


class _Attention(nn.Module):
    """A pre-norm layer of self-attention and feed-forward, without dropout: (N, maps, L) to the same."""

    def __init__(self, maps: int, norm: Norm) -> None:
        super().__init__()
        self.norm_attention = _norm(norm, maps)
        self.projections = nn.Linear(maps, 3 * maps)
        self.output = nn.Linear(maps, maps)
        self.norm_forward = _norm(norm, maps)
        self.forward_layers = nn.Sequential(nn.Linear(maps, 2 * maps), nn.GELU(), nn.Linear(2 * maps, maps))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm_attention(x).transpose(1, 2)).transpose(1, 2)
        forward: Tensor = self.forward_layers(self.norm_forward(x).transpose(1, 2))
        return x + forward.transpose(1, 2)

    def _attend(self, tokens: Tensor) -> Tensor:
        """Multi-head scaled dot-product attention (Vaswani et al. 2017, equation 1) over (N, L, maps)."""
        heads = self.projections(tokens).unflatten(2, (3, ATTENTION_HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        # Written out: with so few tokens the fused CPU kernel's backward pass is many times slower.
        weights = (query @ key.transpose(2, 3) / query.shape[3] ** 0.5).softmax(dim=3)
        mixed = weights @ value
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return output
