"""Which augmentations there are for an input: the registry of those of sensors and of those of images."""

from collections.abc import Callable, Mapping

from torch import Generator, Tensor

from shared import augmentations, image_augmentations
from shared.augmentations import TRANSFORMS, Transform
from shared.data.spec import InputSpec
from shared.image_augmentations import IMAGE_TRANSFORMS

Crop = Callable[[Tensor, Generator, tuple[float, float]], Tensor]
"""Stretches a part of each example, of a share between two, over the whole of it."""


def transforms_of(spec: InputSpec) -> Mapping[str, Transform]:
    """Return the transforms of windows with a time axis, or of images, by name."""
    return IMAGE_TRANSFORMS if spec.rate is None else TRANSFORMS


def crop_of(spec: InputSpec) -> Crop:
    """Return what crops windows, or images."""
    return image_augmentations.crop if spec.rate is None else augmentations.crop
