"""Parts of a data set that nobody owns, such as images, which stand for people: the clients of a federation."""

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from shared.data.images import NOBODY
from shared.data.person import of_numbers
from shared.data.windows import UNLABELLED, Windows
from shared.errors import UserError
from shared.settings import Settings

LEAST = 2
"""Images of a part, at least."""

TRIES = 100
"""Draws before no part is too small."""


class PartSettings(Settings):
    """How images that nobody owns are divided.

    Args:
        by: "even": every part is like the whole; "dirichlet": the shares of a class that the parts get are drawn from a
            symmetric Dirichlet distribution (Hsu, Qi and Brown 2019), the more unequal the smaller ``alpha`` is;
            "shards": sorted by class, images are cut into equal shards, and each part gets ``shards`` of them (McMahan
            et al. 2017, section 3). Images without a label are divided evenly.
        count: Number of parts.
        alpha: Of "dirichlet".
        shards: Of "shards".
        seed: Of the draw.
    """

    by: Literal["even", "dirichlet", "shards"]
    count: PositiveInt
    alpha: PositiveFloat
    shards: PositiveInt
    seed: int = Field(ge=0)


TEN_ALIKE = PartSettings(by="even", count=10, alpha=0.5, shards=2, seed=0)
"""Where no configuration says otherwise: in the command line of the data sets."""


def divide(windows: Windows, settings: PartSettings) -> Windows:
    """Give each image that nobody owns to one of the parts "1" to ``count``; others stay with their owners.

    Raises:
        UserError: Parts that would be too small, or some images with an owner and some without.
    """
    if NOBODY not in windows.people:
        return windows
    name = windows.meta.name
    if windows.people != [NOBODY]:
        raise UserError(
            f"{name}: some images have an owner and some have none; expected CLASS/NAME or OWNER/CLASS/NAME throughout"
        )
    if len(windows) < LEAST * settings.count:
        raise UserError(
            f"{name}: {len(windows)} images do not make {settings.count} parts of at least {LEAST}: set fewer "
            "data.parts.count"
        )
    generator = np.random.default_rng(settings.seed)
    draw = {"even": _even, "dirichlet": _dirichlet, "shards": _shards}[settings.by]
    for _ in range(TRIES):
        part = draw(windows.y, settings, generator)
        if np.bincount(part, minlength=settings.count).min() >= LEAST:
            return replace(windows, person=of_numbers(part + 1))
    raise UserError(
        f"{name}: parts by {settings.by} kept coming out with fewer than {LEAST} images: set fewer data.parts.count, "
        "or a larger data.parts.alpha"
    )


def _even(y: NDArray[np.int64], settings: PartSettings, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return a part for each image, class by class nearly as many for each."""
    part = np.empty(len(y), np.int64)
    order = generator.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    part[order] = np.arange(len(y)) % settings.count
    return part


def _dirichlet(y: NDArray[np.int64], settings: PartSettings, generator: np.random.Generator) -> NDArray[np.int64]:
    part = _even(y, settings, generator)
    for label in np.unique(y[y != UNLABELLED]):
        rows = generator.permutation(np.flatnonzero(y == label))
        shares = generator.dirichlet(np.full(settings.count, settings.alpha))
        ends = np.rint(shares.cumsum()[:-1] * len(rows)).astype(np.int64)
        for number, own in enumerate(np.split(rows, ends)):
            part[own] = number
    return part


def _shards(y: NDArray[np.int64], settings: PartSettings, generator: np.random.Generator) -> NDArray[np.int64]:
    part = _even(y, settings, generator)
    rows = generator.permutation(np.flatnonzero(y != UNLABELLED))
    rows = rows[np.argsort(y[rows], kind="stable")]
    cuts = np.array_split(rows, settings.count * settings.shards)
    for place, shard in enumerate(generator.permutation(len(cuts))):
        part[cuts[shard]] = place % settings.count
    return part
