"""What is hidden from an encoder, and what stands in its place.

Shapes: N windows, C channels, T samples, L positions in time, K tokens. True means hidden. In images samples are pixels
(H, W), and positions are square patches, row after row.
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

LOG_ASPECT = (math.log(1 / 3), math.log(3))
"""Of the height of an image's region to its width, as in BEiT (Bao et al. 2022)."""


class MaskSettings(Settings):
    """How positions are hidden; the same number in each window.

    Args:
        kind: "tube" hides positions in all channels at once, so that no sensor tells what another one shows there
            (VideoMAE, Tong et al. 2022); "span" the same in stretches of ``span`` positions (wav2vec 2.0, Baevski et
            al. 2020); "block" in a single stretch, of an image in a region of patches; "random" hides positions of each
            sensor by itself; "sensor" hides whole sensors (nodes in GraphMAE, Hou et al. 2022).
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
        grid: (L,) positions in time, or rows and columns of the patches of an image.

    Raises:
        UserError: Masks that would hide all or nothing: there are fewer than two positions, or fewer than two sensors
            where whole sensors are hidden. Or stretches of time in images.
    """

    def __init__(self, settings: MaskSettings, channels: Channels, grid: tuple[int, ...]) -> None:
        self._settings = settings
        self._grid = grid
        self._positions = positions = math.prod(grid)
        self._sensors = torch.tensor(sensors_of(channels, len(channels.std)))
        of_sensors = settings.kind == "sensor"
        parts = int(self._sensors.max()) + 1 if of_sensors else positions
        if parts < 2:
            what = "sensors" if of_sensors else "positions"
            raise UserError(f"masks of kind {settings.kind!r} need at least 2 {what} in a window, found {parts}")
        if settings.kind == "span" and len(grid) == 2:
            raise UserError("masks of kind 'span' hide stretches of time, which images do not have: use tube or block")

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
            mask = stretches((n,), hidden, self._grid, generator)
        return mask[:, None].expand(-1, len(sensors), -1)


def stretches(shape: tuple[int, ...], length: int, grid: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw places for stretches of ``length`` positions, or regions of as many patches of an image: bool (*shape, L).

    A region is a rectangle around a random place, of a random aspect. What would be outside of the image is added to it
    inside. Its last row or column may not be whole, so that each region has as many patches.
    """
    device = generator.device
    if len(grid) == 1:
        first = torch.randint(grid[0] - length + 1, (*shape, 1), generator=generator, device=device)
        place = torch.arange(grid[0], device=device)
        return (place >= first) & (place < first + length)
    centres = (torch.rand(*shape, 1, generator=generator, device=device) * side for side in grid)
    y, x = (
        (torch.arange(side, device=device) + 0.5 - centre).abs() for side, centre in zip(grid, centres, strict=True)
    )
    ratio = torch.empty(*shape, 1, 1, device=device).uniform_(*LOG_ASPECT, generator=generator).exp()
    distance = torch.maximum(y.unsqueeze(-1), x.unsqueeze(-2) * ratio)
    return _lowest(distance.flatten(-2), length)


def visible_positions(mask: Tensor) -> Tensor:
    """Return the positions that a mask of whole positions, bool (N, C, L), leaves: int64 (N, V), in order of time."""
    seen = ~mask[:, 0]
    return seen.nonzero()[:, 1].view(len(mask), int(seen[0].sum()) if len(mask) else 0)


@dataclass(frozen=True)
class Layout:
    """What stands under each token: the tokens of a row follow each other in time, and row stands behind row.

    Args:
        rows: The channels of each row. Encoders have one row of all channels, or a row for each sensor.
        grid: (L,) positions in time, or rows and columns of the patches of an image.
        stride: Samples of a position, or pixels along the sides of a patch; the last may have fewer.
    """

    rows: tuple[tuple[int, ...], ...]
    grid: tuple[int, ...]
    stride: int

    @property
    def times(self) -> int:
        """L, positions in time or in the image."""
        return math.prod(self.grid)

    @property
    def tokens(self) -> int:
        """Tokens of a window, K."""
        return len(self.rows) * self.times

    @property
    def values(self) -> int:
        """Values under a token."""
        return len(self.rows[0]) * math.prod([self.stride] * len(self.grid))

    def patches(self, x: Tensor) -> Tensor:
        """Cut windows (N, C, T), or images (N, C, H, W), into what stands under each token: (N, K, values)."""
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


def grid_of(size: tuple[int, ...], stride: int) -> tuple[int, ...]:
    """Return how many positions, along each side, a size (T,) or (H, W) has."""
    return tuple(-(-samples // stride) for samples in size)


def of_samples(mask: Tensor, stride: int, size: tuple[int, ...]) -> Tensor:
    """Return which samples a mask of positions, bool (N, C, L), hides: bool (N, C, *size)."""
    mask = mask.view(*mask.shape[:2], *grid_of(size, stride))
    for dim, samples in enumerate(size, start=2):
        mask = mask.repeat_interleave(stride, dim).narrow(dim, 0, samples)
    return mask


def patches(x: Tensor, stride: int) -> Tensor:
    """Cut windows (N, C, *size) into what stands at each position: (N, L, C stride ...), channel after channel.

    Zeros, or False, continue a last patch that is shorter.
    """
    n, channels, *size = x.shape
    grid = grid_of(tuple(size), stride)
    missing = [positions * stride - samples for positions, samples in zip(grid, size, strict=True)]
    whole = F.pad(x, [end for side in reversed(missing) for end in (0, side)])
    cut = whole.reshape(n, channels, *(part for positions in grid for part in (positions, stride)))
    places = range(2, cut.dim(), 2)
    return cut.permute(0, *places, 1, *(place + 1 for place in places)).reshape(n, math.prod(grid), -1)


def fill(x: Tensor, mask: Tensor, otherwise: Tensor) -> Tensor:
    """Replace hidden samples by the mean of the samples of that channel that stay.

    Args:
        x: (N, C, T), or (N, C, H, W).
        mask: bool of that shape, or with one channel, for all channels alike.
        otherwise: (C, 1), or (C, 1, 1), for channels of which nothing stays.
    """
    kept = (~mask).to(x.dtype)
    inside = tuple(range(2, x.dim()))
    count = kept.sum(dim=inside, keepdim=True)
    mean = torch.where(count > 0, (x * kept).sum(dim=inside, keepdim=True) / count, otherwise)
    return torch.where(mask, mean, x)


def mask_patches(shape: tuple[int, ...], patch: int, ratio: float, generator: Generator) -> Tensor:
    """Draw which samples the reconstruction task hides: patches anywhere in a window, a region of those of an image.

    Args:
        shape: (N, T), or (N, H, W).
        patch: Samples in a patch; the last of a window may be shorter, and a window of fewer than two
            patches is cut in two.
        ratio: Share of the patches to hide, between 0 and 1; at least one is hidden and one kept.
        generator: Source of randomness; the mask is made on its device.

    Returns:
        bool of that shape, True where hidden; the same number of patches in each window.

    Raises:
        UserError: A ratio or patch out of range, or windows of a single sample.
    """
    n, *size = shape
    samples = max(size)
    if not 0 < ratio < 1 or patch < 1 or samples < 2:
        raise UserError(
            f"masking needs 0 < ratio < 1, patch >= 1 and windows of at least 2 samples; "
            f"found ratio {ratio}, patch {patch}, {samples} samples"
        )
    patch = min(patch, (samples + 1) // 2)
    grid = grid_of(tuple(size), patch)
    hidden = _share(ratio, math.prod(grid))
    if len(grid) == 2:
        mask = stretches((n,), hidden, grid, generator)
    else:
        mask = torch.rand(n, *grid, generator=generator, device=generator.device).argsort(dim=1) < hidden
    return of_samples(mask.unsqueeze(1), patch, tuple(size))[:, 0]


def _share(ratio: float, of: int) -> int:
    return min(max(round(ratio * of), 1), of - 1)


def _lowest(scores: Tensor, count: int) -> Tensor:
    """True at the ``count`` lowest scores of the last dimension, from the left where they are equal."""
    order = scores.argsort(dim=-1, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order[..., :count], True)
