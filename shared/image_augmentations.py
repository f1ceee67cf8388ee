"""Random transformations of a batch of images, each one line in ``IMAGE_TRANSFORMS``.

A transform takes images (N, C, H, W) of values from 0 to 255, and a generator on their device; it returns new images of
the same shape and leaves its input as it was. Everything random is drawn for each image separately and for the whole
batch at once, so that the same generator state always gives the same result. What the channels are, which transforms of
sensors must know, plays no part.

Crop, flip, blur and colours are those of SimCLR (Chen et al. 2020, appendix A). Changes of colour are linear, so that
all of them together are one product with a 3 x 3 matrix an image. Those that are drawn by chance leave some images as
they were, and only ``turn_90`` to ``turn_270`` can always be told afterwards.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from shared.errors import UserError

WHITE = 255.0
"""The largest value of a pixel."""

CROP_AREA = (0.2, 1.0)
"""Share of the image that ``resize_crop`` keeps; in smaller ones than these an image of 32 pixels shows little."""

CROP_LOG_ASPECT = (math.log(3 / 4), math.log(4 / 3))
"""Logarithm of the width of a crop to its height, as shares of the image."""

FLIPPED = 0.5
"""Share of the images that ``flip`` mirrors."""

STRENGTH = (0.6, 1.4)
"""Factor of brightness, of contrast and of saturation in ``colour_jitter``."""

HUE_TURN = 0.1
"""Largest turn of the hue in ``colour_jitter``, in turns of the circle of colours."""

JITTERED = 0.8
"""Share of the images that ``colour_jitter`` changes."""

GREYED = 0.2
"""Share of the images that ``grey`` changes."""

BLURRED = 0.5
"""Share of the images that ``blur`` changes."""

BLUR = (0.1, 2.0)
"""Standard deviation of ``blur``, in pixels of an image of ``BLUR_SIDE``."""

BLUR_SIDE = 96.0
"""Side of an image (pixels) for which ``BLUR`` is meant; what is smaller is blurred less."""

ERASED_AREA = (0.02, 0.33)
"""Share of the image that ``erase`` hides (Zhong et al. 2020)."""

ERASED_LOG_ASPECT = (math.log(1 / 3), math.log(3))
"""Logarithm of the width of what ``erase`` hides to its height."""

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the brightness of a pixel (ITU-R BT.601)."""

TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""Red, green and blue to brightness and the two axes of the plane of colours, in which the hue is an angle."""

ImageTransform = Callable[[Tensor, Generator, object], Tensor]


def resize_crop(x: Tensor, generator: Generator, channels: object) -> Tensor:
    """Stretch a random part of the image over the whole of it; values stay within their range."""
    return crop(x, generator, CROP_AREA)


def crop(x: Tensor, generator: Generator, areas: tuple[float, float]) -> Tensor:
    """Stretch a part of each image, of a share between two, over the whole of it: (N, C, H, W) to the same.

    Pixels are interpolated linearly between their centres.
    """
    height, width = _extent(x, generator, areas, CROP_LOG_ASPECT)
    # In the coordinates of grid_sample an image goes from -1 to 1, so that a part may be moved by what it lacks.
    down, right = ((1 - share) * _uniform(x, generator, share.shape, -1.0, 1.0) for share in (height, width))
    none = torch.zeros_like(height)
    maps = torch.stack([torch.cat([width, none, right], dim=1), torch.cat([none, height, down], dim=1)], dim=1)
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def flip(x: Tensor, generator: Generator, channels: object) -> Tensor:
    """Mirror left and right of some images."""
    return torch.where(_chosen(x, generator, FLIPPED), x.flip(3), x)


def colour_jitter(x: Tensor, generator: Generator, channels: object) -> Tensor:
    """Change brightness, contrast, saturation and hue of some images, in this order.

    The hue turns about the axis of brightness in the plane of colours (YIQ), which keeps the brightness.

    Raises:
        UserError: Not three channels.
    """
    luma = _luma(x, "colour_jitter")
    brightness, contrast, saturation = _uniform(x, generator, (3, len(x), 1, 1), *STRENGTH)
    angle = _uniform(x, generator, (len(x),), -HUE_TURN, HUE_TURN) * (2 * math.pi)
    grey = luma.expand(3, 3)
    mixing = saturation * torch.eye(3, dtype=x.dtype, device=x.device) + (1 - saturation) * grey
    mixing = _turned_hue(angle, x) @ mixing * (brightness * contrast)
    mean = (luma @ x.flatten(2)).mean(dim=2, keepdim=True) * (brightness * (1 - contrast))  # contrast is about the mean
    jittered = torch.baddbmm(mean, mixing, x.flatten(2)).clamp_(0, WHITE).view(x.shape)
    return torch.where(_chosen(x, generator, JITTERED), jittered, x)


def grey(x: Tensor, generator: Generator, channels: object) -> Tensor:
    """Take the colours from some images; keeps the brightness of each pixel.

    Raises:
        UserError: Not three channels.
    """
    brightness = (_luma(x, "grey") @ x.flatten(2)).view(len(x), 1, *x.shape[2:])
    return torch.where(_chosen(x, generator, GREYED), brightness, x)


def blur(x: Tensor, generator: Generator, channels: object) -> Tensor:
    """Blur some images by a Gaussian of random width; beyond the border its pixels go on."""
    scale = max(x.shape[2:]) / BLUR_SIDE
    sigma = _uniform(x, generator, (len(x), 1), *BLUR) * scale
    radius = math.ceil(3 * BLUR[1] * scale)
    distance = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    weights = (-(distance / sigma).square() / 2).softmax(dim=1)[..., None, None, None].unbind(1)
    blurred = x
    for dim, ends in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        around, blurred = F.pad(blurred, ends, mode="replicate"), torch.zeros_like(x)
        for place, weight in enumerate(weights):
            blurred.addcmul_(around.narrow(dim, place, x.shape[dim]), weight)
    return torch.where(_chosen(x, generator, BLURRED), blurred, x)


def erase(x: Tensor, generator: Generator, channels: object) -> Tensor:
    """Replace a random rectangle by the mean colour of the image; keeps everything outside of it."""
    inside = []
    for share, size in zip(_extent(x, generator, ERASED_AREA, ERASED_LOG_ASPECT), x.shape[2:], strict=True):
        length = (share * size).round().clamp_min(1)
        start = (_uniform(x, generator, (len(x), 1), 0.0, 1.0) * (size - length + 1)).floor()
        place = torch.arange(size, device=x.device)
        inside.append((place >= start) & (place < start + length))
    erased = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(erased, x.mean(dim=(2, 3), keepdim=True), x)


def turn_90(x: Tensor, generator: Generator, channels: object) -> Tensor:
    """Turn square images by a quarter to the left. Not random."""
    return _turned(x, 1)


def turn_180(x: Tensor, generator: Generator, channels: object) -> Tensor:
    """Turn images upside down. Not random."""
    return _turned(x, 2)


def turn_270(x: Tensor, generator: Generator, channels: object) -> Tensor:
    """Turn square images by a quarter to the right. Not random."""
    return _turned(x, 3)


IMAGE_TRANSFORMS: dict[str, ImageTransform] = {
    "resize_crop": resize_crop,
    "flip": flip,
    "colour_jitter": colour_jitter,
    "grey": grey,
    "blur": blur,
    "erase": erase,
    "turn_90": turn_90,
    "turn_180": turn_180,
    "turn_270": turn_270,
}


def _uniform(x: Tensor, generator: Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Draw uniformly from [low, high), in the type and on the device of ``x``."""
    return torch.empty(shape, dtype=x.dtype, device=x.device).uniform_(low, high, generator=generator)


def _chosen(x: Tensor, generator: Generator, share: float) -> Tensor:
    """Draw which images are changed, bool (N, 1, 1, 1)."""
    return _uniform(x, generator, (len(x), 1, 1, 1), 0.0, 1.0) < share


def _extent(
    x: Tensor, generator: Generator, areas: tuple[float, float], log_aspects: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Draw the height and the width of a part of each image, as shares of its sides, (N, 1) each; at most 1."""
    area = _uniform(x, generator, (len(x), 1), *areas)
    aspect = _uniform(x, generator, (len(x), 1), *log_aspects).exp()
    return (area / aspect).sqrt().clamp_max(1), (area * aspect).sqrt().clamp_max(1)


def _luma(x: Tensor, name: str) -> Tensor:
    """Return the weights (1, 3) of red, green and blue in the brightness."""
    if x.shape[1] != len(LUMA):
        raise UserError(f"augmentation {name!r} needs red, green and blue, found {x.shape[1]} channels")
    return torch.tensor([LUMA], dtype=x.dtype, device=x.device)


def _turned_hue(angle: Tensor, x: Tensor) -> Tensor:
    """Return the matrices (N, 3, 3) that turn the hue of red, green and blue by angles (N,)."""
    to_yiq = torch.tensor(TO_YIQ, dtype=x.dtype, device=x.device)
    turn = torch.zeros(len(x), 3, 3, dtype=x.dtype, device=x.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 2, 1] = angle.sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    matrices: Tensor = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return matrices


def _turned(x: Tensor, quarters: int) -> Tensor:
    if quarters % 2 and x.shape[2] != x.shape[3]:
        raise UserError(f"expected square images to turn by a quarter, found {x.shape[2]} x {x.shape[3]} pixels")
    return x.rot90(quarters, (2, 3))
