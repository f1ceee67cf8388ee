"""What is hidden from an encoder, and what stands in its place.

Shapes: N windows, C channels, T samples, L positions in time, K tokens. True means hidden.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Generator, Tensor

from shared.augmentations import Channels, sensors_of
from shared.errors import UserError
from shared.settings import Settings


class MaskSettings(Settings):
    """How positions are hidden; the same number in each window.

    Args:
        kind: "tube" hides positions in all channels at once, so that no sensor tells what another one shows there
            (VideoMAE, Tong et al. 2022); "span" the same in stretches of ``span`` positions (wav2vec 2.0, Baevski et
            al. 2020); "block" in a single stretch; "random" hides positions of each sensor by itself; "sensor" hides
            whole sensors (nodes in GraphMAE, Hou et al. 2022).
        ratio: Share of the positions, or of the sensors, that is hidden; at least one is, and one is not.
        span: Positions of a stretch of "span".
    """

    kind: Literal["tube", "span", "block", "random", "sensor"]
    ratio: float = Field(gt=0, lt=1)
    span: PositiveInt

    @property
    def whole_positions(self) -> bool:
        """Whether a hidden position is hidden in all channels, so that it can be left out."""
        return self.kind in ("tube", "span", "block")


class Masks:
    """Draws what is hidden from windows.

    Args:
        settings: How.
        channels: The C channels.
        positions: L.

    Raises:
        UserError: Masks that would hide all or nothing: there are fewer than two positions, or fewer than two sensors
            where whole sensors are hidden.
    """

    def __init__(self, settings: MaskSettings, channels: Channels, positions: int) -> None:
        self._settings = settings
        self._positions = positions
        self._sensors = torch.tensor(sensors_of(channels, len(channels.std)))
        of_sensors = settings.kind == "sensor"
        parts = int(self._sensors.max()) + 1 if of_sensors else positions
        if parts < 2:
            what = "sensors" if of_sensors else "positions in time"
            raise UserError(f"masks of kind {settings.kind!r} need at least 2 {what} in a window, found {parts}")

    def draw(self, n: int, generator: Generator) -> Tensor:
        """Draw what is hidden from each of ``n`` windows, bool (N, C, L), on the generator's device."""
        device = generator.device
        settings, positions, sensors = self._settings, self._positions, self._sensors.to(device)
        count = int(sensors.max()) + 1
        hidden = _share(settings.ratio, positions)
        if settings.kind == "sensor":
            lost = _lowest(torch.rand(n, count, generator=generator, device=device), _share(settings.ratio, count))
            return lost[:, sensors, None].expand(-1, -1, positions)
        if settings.kind == "random":
            return _lowest(torch.rand(n, count, positions, generator=generator, device=device), hidden)[:, sensors]
        if settings.kind == "tube":
            mask = _lowest(torch.rand(n, positions, generator=generator, device=device), hidden)
        elif settings.kind == "span":
            # Stretches begin anywhere. They are hidden in random order, until there are enough positions.
            phase = torch.randint(settings.span, (n, 1), generator=generator, device=device)
            stretch = (torch.arange(positions, device=device) + phase) // settings.span
            order = torch.rand(n, positions // settings.span + 2, generator=generator, device=device)
            mask = _lowest(order.gather(1, stretch), hidden)
        else:
            first = torch.randint(positions - hidden + 1, (n, 1), generator=generator, device=device)
            place = torch.arange(positions, device=device)
            mask = (place >= first) & (place < first + hidden)
        return mask[:, None].expand(-1, len(sensors), -1)


def visible_positions(mask: Tensor) -> Tensor:
    """Return the positions that a mask of whole positions, bool (N, C, L), leaves: int64 (N, V), in order of time."""
    seen = ~mask[:, 0]
    return seen.nonzero()[:, 1].view(len(mask), int(seen[0].sum()) if len(mask) else 0)


@dataclass(frozen=True)
class Layout:
    """What stands under each token: the tokens of a row follow each other in time, and row stands behind row.

    Args:
        rows: The channels of each row. Encoders have one row of all channels, or a row for each sensor.
        times: L, positions in time.
        stride: Samples of a position; the last may have fewer.
    """

    rows: tuple[tuple[int, ...], ...]
    times: int
    stride: int

    @property
    def tokens(self) -> int:
        """Tokens of a window, K."""
        return len(self.rows) * self.times

    @property
    def values(self) -> int:
        """Values under a token."""
        return len(self.rows[0]) * self.stride

    def patches(self, x: Tensor) -> Tensor:
        """Cut windows (N, C, T) into what stands under each token: (N, K, values)."""
        return torch.cat([patches(x[:, list(row)], self.stride) for row in self.rows], dim=1)

    def touched(self, mask: Tensor) -> Tensor:
        """Return under which tokens a mask (N, C, L) hides something, bool (N, K)."""
        return torch.cat([mask[:, list(row)].any(dim=1) for row in self.rows], dim=1)

    def hidden(self, mask: Tensor) -> Tensor:
        """Return under which tokens a mask (N, C, L) hides all, bool (N, K)."""
        return torch.cat([mask[:, list(row)].all(dim=1) for row in self.rows], dim=1)

    def over_time(self, tokens: Tensor) -> Tensor:
        """Return the mean of the rows of tokens (N, K, H): (N, L, H)."""
        return tokens.view(len(tokens), len(self.rows), self.times, -1).mean(dim=1)


def of_samples(mask: Tensor, stride: int, samples: int) -> Tensor:
    """Return which samples a mask of positions, bool (N, C, L), hides: bool (N, C, T)."""
    return mask.repeat_interleave(stride, dim=2)[:, :, :samples]


def patches(x: Tensor, stride: int) -> Tensor:
    """Cut windows (N, C, T) into what stands at each position: (N, L, C stride), channel after channel.

    Zeros, or False, continue a last patch that is shorter.
    """
    n, channels, samples = x.shape
    positions = -(-samples // stride)
    whole = F.pad(x, (0, positions * stride - samples)).reshape(n, channels, positions, stride)
    return whole.transpose(1, 2).flatten(2)


def fill(x: Tensor, mask: Tensor, otherwise: Tensor) -> Tensor:
    """Replace hidden samples by the mean of the samples of that channel that stay.

    Args:
        x: (N, C, T).
        mask: bool (N, C, T), or (N, 1, T) for all channels alike.
        otherwise: (C, 1), for channels of which nothing stays.
    """
    kept = (~mask).to(x.dtype)
    count = kept.sum(dim=2, keepdim=True)
    mean = torch.where(count > 0, (x * kept).sum(dim=2, keepdim=True) / count, otherwise)
    return torch.where(mask, mean, x)


def mask_patches(shape: tuple[int, int], patch: int, ratio: float, generator: Generator) -> Tensor:
    """Draw which samples the reconstruction task hides.

    Args:
        shape: (N, T).
        patch: Samples in a patch; the last of a window may be shorter, and a window of fewer than two
            patches is cut in two.
        ratio: Share of the patches to hide, between 0 and 1; at least one is hidden and one kept.
        generator: Source of randomness; the mask is made on its device.

    Returns:
        bool (N, T), True where hidden; the same number of patches in each window.

    Raises:
        UserError: A ratio or patch out of range, or windows of a single sample.
    """
    n, samples = shape
    if not 0 < ratio < 1 or patch < 1 or samples < 2:
        raise UserError(
            f"masking needs 0 < ratio < 1, patch >= 1 and windows of at least 2 samples; "
            f"found ratio {ratio}, patch {patch}, {samples} samples"
        )
    patch = min(patch, (samples + 1) // 2)
    patches = math.ceil(samples / patch)
    hidden = min(max(round(ratio * patches), 1), patches - 1)
    order = torch.rand(n, patches, generator=generator, device=generator.device).argsort(dim=1)
    return (order < hidden).repeat_interleave(patch, dim=1)[:, :samples]


def _share(ratio: float, of: int) -> int:
    return min(max(round(ratio * of), 1), of - 1)


def _lowest(scores: Tensor, count: int) -> Tensor:
    """True at the ``count`` lowest scores of the last dimension, from the left where they are equal."""
    order = scores.argsort(dim=-1, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., :count], True)
