"""What an encoder is: raw windows (N, C, T), or images (N, C, H, W), in, embeddings (N, D) and tokens (N, L, H) out.

Shapes: N windows, C channels, T samples, H feature maps of the last layer, L positions in time, D embedding; M views, V
positions that a view keeps. There is a token for each position; an encoder of S single sensors has one for each sensor
and position, S L. What is said of windows is true of images: their samples are pixels, and their positions are patches,
row after row.

An encoder is three things in a row: the training people's channel statistics (windows may be turned upright before, and
be followed by a copy of the movements on a logarithmic scale), a backbone that makes H maps of a window, and a pooling
over time (and a hidden layer over all that is pooled). Nothing here draws from the global random generator after
construction (there is no dropout), so clients can train in parallel threads and still repeat themselves exactly.
"""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from numpy.typing import ArrayLike
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from shared.body import Sensor
from shared.data.spec import InputSpec
from shared.encoders.align import Align, Alignment
from shared.errors import UserError
from shared.layers import ATTENTION_HEADS, Norm, hidden_layer
from shared.masks import Layout, fill, grid_of, of_samples
from shared.settings import Settings

POOLED_STD_EPSILON = 1e-5
"""Added to the variance over time before its root: constant maps then have a finite gradient."""


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
        align: Whether windows are turned first, so that up is always the same ("gravity"), and the way that the device
            faces too ("heading"); see ``shared.encoders.align``. None: they are seen as they were recorded.
    """

    name: str
    width: int = Field(ge=ATTENTION_HEADS, multiple_of=ATTENTION_HEADS)
    norm: Norm
    pooling: Literal["mean", "mean_max_std"]
    log_input: PositiveFloat | None
    pooled_blocks: Literal["last", "every"]
    hidden: PositiveInt | None
    align: Alignment | None


class View(NamedTuple):
    """M windows as an encoder shall see them.

    Args:
        x: (M, C, T) in physical units, or (M, C, H, W).
        keep: The positions that it sees, int64 (M, V); the others are left out. Only encoders whose first layer is a
            ``TokenLayer`` can do it. None: all.
        mask: Where it sees nothing, bool (M, C, L): the mean of what the channel shows elsewhere in the window, or a
            learned token where all channels are hidden and the encoder is made of tokens. To an encoder of single
            sensors, one that is hidden all the time is not there. None: nowhere.
        teacher: Whether the slow copy of the encoder encodes it, without a gradient.
    """

    x: Tensor
    keep: Tensor | None = None
    mask: Tensor | None = None
    teacher: bool = False


class Encoded(NamedTuple):
    """M views, encoded.

    Args:
        pooled: float32 (M, D).
        tokens: The last maps, float32 (M, L, H), or (M, V, H) of the positions that were kept.
        blocks: Maps of each block whose shape is that of the last, the last included, (M, L or V, H).
    """

    pooled: Tensor
    tokens: Tensor
    blocks: tuple[Tensor, ...]

    def split(self, sizes: list[int]) -> list["Encoded"]:
        """Cut into parts of so many views."""
        blocks = zip(*(torch.split(block, sizes) for block in self.blocks), strict=True)
        parts = zip(torch.split(self.pooled, sizes), torch.split(self.tokens, sizes), blocks, strict=True)
        return [Encoded(*part) for part in parts]


class TokenLayer(nn.Module, ABC):
    """A first layer that makes tokens, which later layers treat as a set, so that some can be left out or replaced."""

    @abstractmethod
    def arrange(self, tokens: Tensor, keep: Tensor | None, hidden: Tensor | None, blank: Tensor | None) -> Tensor:
        """Replace and leave out tokens (M, H, L).

        Args:
            tokens: What ``forward`` returned.
            keep: See ``View``.
            hidden: bool (M, L), where the blank token stands.
            blank: (H, 1); None: nothing is replaced.
        """


class Present(NamedTuple):
    """Which of the S sensors of M views are there.

    Args:
        flags: bool (M, S); at least one of each view is.
        rows: int64 (P,), the numbers of those that are, among all M S.
    """

    flags: Tensor
    rows: Tensor

    def everybody(self, values: Tensor) -> Tensor:
        """Return values (P, ...) of those that are there among zeros for those that are not: (M S, ...)."""
        blank = values.new_zeros(self.flags.numel(), *values.shape[1:])
        return blank.index_copy(0, self.rows, values)


class SensorLayer(nn.Module, ABC):
    """A layer of an encoder of single sensors that must know which of them it gets."""

    @abstractmethod
    def forward(self, maps: Tensor, present: Present | None = None) -> Tensor:
        """Return maps of sensors.

        Args:
            maps: (M S, H, L); or (P, H, L) of those that are there.
            present: Which are there; None: all.
        """


class Block(NamedTuple):
    """The number of a block's last layer, from 0, and how many maps it makes."""

    last: int
    maps: int


class Backbone(NamedTuple):
    """Layers from standardised windows (N, C, T) to maps (N, H, L), with L about T / stride.

    Layers of images (N, C, H, W) make maps (N, maps, h, w) or (N, maps, h w), with h about H / stride and w about
    W / stride.

    Args:
        layers: One after the other.
        blocks: What can be pooled; the last one makes H maps.
        stride: Samples, or pixels a side, per position of the last maps; a power of two where there is a time axis.
        sensors: Where the layers make maps (N S, H, L), of each sensor by itself: the S sensors. Else none.
    """

    layers: nn.Sequential
    blocks: tuple[Block, ...]
    stride: int
    sensors: tuple[Sensor, ...] = ()


class Encoder(nn.Module):
    """Channel statistics, a backbone and a pooling over time; build it with ``build_encoder``.

    Args:
        settings: What it was built from.
        backbone: Its layers.
        spec: Of its windows.

    Attributes:
        dim: D.
        width: H.
        spec: Of its windows.
        channels: C.
        layout: What stands under each token.
        mean: Channel means of the training people, (C, 1), or (C, 1, 1) of images; not part of the state dict, see
            ``standardise``.
        std: Their standard deviations, of that shape.

    Raises:
        UserError: Windows too short to leave two positions in time, images too small to leave two a side, or channels
            that cannot be aligned.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: EncoderSettings, backbone: Backbone, spec: InputSpec) -> None:
        super().__init__()
        channels, shortest = len(spec.channels), min(spec.size)
        if shortest < 2 * backbone.stride:
            what = "images are too small; expected sides of" if spec.rate is None else "windows are too short; expected"
            unit = "pixels" if spec.rate is None else "samples"
            raise UserError(
                f"encoder {settings.name!r}: {what} at least {2 * backbone.stride} {unit}, found {shortest}"
            )
        self.settings = settings
        self.spec = spec
        self.channels = channels
        self.width = backbone.blocks[-1].maps
        rows = tuple(sensor.channels for sensor in backbone.sensors) or (tuple(range(channels)),)
        self.layout = Layout(rows, grid_of(spec.size, backbone.stride), backbone.stride)
        self.align = None if settings.align is None else Align(settings.align, spec)
        self.backbone = backbone.layers
        self.block_ends = [block.last for block in backbone.blocks]
        pooled = backbone.blocks if settings.pooled_blocks == "every" else backbone.blocks[-1:]
        self.pooled_after = [block.last for block in pooled]
        self.dim = sum(block.maps for block in pooled) * (3 if settings.pooling == "mean_max_std" else 1)
        self.hidden: nn.Module | None = None
        if settings.hidden is not None:
            self.hidden = nn.Sequential(*hidden_layer(self.dim, settings.hidden, settings.norm))
            self.dim += settings.hidden
        shape = (channels, *[1] * len(spec.size))
        self.register_buffer("mean", torch.zeros(shape), persistent=False)
        self.register_buffer("std", torch.ones(shape), persistent=False)

    def standardise(self, mean: ArrayLike, std: ArrayLike) -> None:
        """Set what raw windows are standardised with: channel mean and standard deviation, (C,) each.

        Until then they are 0 and 1. The state dict leaves them out: they never travel with the weights.

        The statistics are those of windows as they were recorded. Where windows are aligned, the axes of a three-axis
        sensor have mean 0 and their root mean square in common: their squares add up to the same however it is turned.

        Raises:
            UserError: Not C numbers, or a standard deviation that is not above 0.
        """
        statistics = torch.stack([self._per_channel("mean", mean), self._per_channel("std", std)])
        if not bool(statistics.isfinite().all() and (statistics[1] > 0).all()):
            raise UserError(
                "channel statistics: expected finite means and standard deviations above 0, "
                f"found mean {statistics[0].tolist()} and std {statistics[1].tolist()}"
            )
        self.mean, self.std = statistics.view(2, *self.mean.shape)
        for triad in () if self.align is None else self.align.triads:
            axes = list(triad)
            self.std[axes] = (self.mean[axes].square() + self.std[axes].square()).mean().sqrt()
            self.mean[axes] = 0

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
        return self.encode(View(x)).pooled

    def encode(self, view: View, blank: Tensor | None = None) -> Encoded:
        """Encode a view, and give its tokens too.

        Args:
            view: What to encode.
            blank: The learned token (H, 1) that stands where a view is masked; None: the mean alone stands there.

        Raises:
            UserError: Windows of another shape than the encoder was built for.
            ValueError: A view that this encoder cannot see.
        """
        if view.keep is not None and (view.mask is not None or not self.takes_tokens):
            raise ValueError("a view that keeps some positions is not masked, and its encoder is made of tokens")
        maps = self._standardised(view)
        present = self._present(view)
        pooled, blocks = [], []
        for number, layer in enumerate(self.backbone):
            maps = layer(maps, present) if isinstance(layer, SensorLayer) else layer(maps)
            if isinstance(layer, TokenLayer):
                hidden = None if view.mask is None else view.mask.all(dim=1)
                maps = layer.arrange(maps, view.keep, hidden, blank)
            if number in self.block_ends:
                blocks.append(_in_a_row(maps))
            if number in self.pooled_after:
                pooled.append(self._pool(_in_a_row(maps).float(), present))
        embedding = torch.cat(pooled, dim=1)
        if self.hidden is not None:
            embedding = torch.cat([embedding, self.hidden(embedding).float()], dim=1)
        maps = _in_a_row(maps)
        alike = tuple(self._tokens(block) for block in blocks if block.shape == maps.shape)
        return Encoded(embedding, self._tokens(maps.float()), alike)

    def aligned(self, x: Tensor) -> Tensor:
        """Return windows (N, C, T) as the encoder turns them; nothing changes if they are turned so already."""
        return x if self.align is None else self.align(x)

    def _standardised(self, view: View) -> Tensor:
        """What the first layer gets, (M, C, T), or (M, 2C, T) with the movements on a logarithmic scale."""
        x = view.x if view.x.is_floating_point() else view.x.float()
        if x.shape[1:] != self.spec.shape:
            expected = ", ".join(map(str, ("N", *self.spec.shape)))
            raise UserError(f"windows: expected shape ({expected}), found {tuple(x.shape)}")
        unseen = view.mask
        if view.keep is not None:  # what is left out must not show in the window's mean either
            unseen = torch.ones(len(x), 1, self.layout.times, dtype=torch.bool, device=x.device)
            unseen = unseen.scatter(2, view.keep.unsqueeze(1), False)
        if unseen is not None:
            x = fill(x, of_samples(unseen, self.layout.stride, self.spec.size), self.mean)
        maps = (self.aligned(x) - self.mean) / self.std
        if self.settings.log_input is not None:
            deviation = maps - maps.mean(dim=2, keepdim=True)
            maps = torch.cat([maps, torch.asinh(deviation / self.settings.log_input) / 2], dim=1)
        return maps

    def _present(self, view: View) -> Present | None:
        """Which sensors are there; None where it makes no difference."""
        return None

    @property
    def takes_tokens(self) -> bool:
        """Whether positions can be left out, or replaced by a learned token."""
        return isinstance(self.backbone[0], TokenLayer)

    def _tokens(self, maps: Tensor) -> Tensor:
        """Maps (N, H, L) as tokens, (N, L, H)."""
        return maps.transpose(1, 2)

    def _pool(self, maps: Tensor, present: Present | None = None) -> Tensor:
        """Maps (N, H, L) to statistics over time, (N, H) or (N, 3H)."""
        mean = maps.mean(dim=2)
        if self.settings.pooling == "mean":
            return mean
        # torch.var over the last dimension is several times slower on a CPU than these two passes.
        variance = (maps - mean.unsqueeze(2)).square().mean(dim=2)
        return torch.cat([mean, maps.amax(dim=2), (variance + POOLED_STD_EPSILON).sqrt()], dim=1)


def _in_a_row(maps: Tensor) -> Tensor:
    """Return maps (M, H, L), or those of images (M, H, rows, columns) row after row, as (M, H, L)."""
    return maps if maps.dim() == 3 else maps.flatten(2)  # an exported model of windows keeps its shapes
