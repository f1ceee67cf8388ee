"""Which windows an epoch takes of each person, where somebody has more than an epoch can take.

Yuan et al. ("Self-supervised learning for human activity recognition using 700,000 person-days of wearable data", 2024)
draw windows with a probability in proportion to their standard deviation, because most of a week is rest.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.config import TrainSettings
from shared.data.person import numbered, person_seed
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.large import blocks
from shared.seeding import make_generator

LEAST = 1e-6
"""Movement of a window that does not vary at all: it can be drawn, if hardly ever."""


class Sampler:
    """Draws the windows of an epoch: of each person as many as the settings say, none twice.

    Each person has a generator of its own, so a person's draw does not depend on who else is there. One window after
    the other is drawn from those that are left, with a probability in proportion to its weight: it is the same to let
    each wait for an exponential time at a rate of its weight and to take those that come first (Efraimidis and
    Spirakis, "Weighted random sampling with a reservoir", 2006).

    Args:
        settings: How many, and how.
        seed: Of the run.
        windows: To draw from.
        statistics: Of all training people; movement is measured in their standard deviations.
    """

    def __init__(self, settings: TrainSettings, seed: int, windows: Windows, statistics: ChannelStatistics) -> None:
        self._settings = settings
        self._seed = seed
        self._all = torch.arange(len(windows))
        self._size = windows_an_epoch(settings, windows)
        self._people: dict[str, Tensor] = {}
        if self._size < len(windows):
            people, places = numbered(windows.person)
            order = np.argsort(places, kind="stable")
            rows = np.split(order, np.bincount(places).cumsum()[:-1])
            self._people = {person: torch.from_numpy(own) for person, own in zip(people, rows, strict=True)}
            uniform = settings.sampling == "uniform"
            weights = np.ones(len(windows)) if uniform else movement(windows, statistics)
            self._weights = torch.from_numpy(weights)

    def __len__(self) -> int:
        return self._size

    def draw(self, epoch: int) -> Tensor:
        """Return the rows of the windows of an epoch, int64 (M,), each at most once."""
        if not self._people:
            return self._all
        return torch.cat([self._draw_of(person, rows, epoch) for person, rows in self._people.items()])

    def _draw_of(self, person: str, rows: Tensor, epoch: int) -> Tensor:
        generator = make_generator(self._seed, epoch, person_seed(person), "windows")
        waiting = -torch.log1p(-torch.rand(len(rows), dtype=torch.float64, generator=generator)) / self._weights[rows]
        first = waiting.topk(self._settings.windows_of(len(rows)), largest=False).indices
        return rows[first.sort().values]


def windows_an_epoch(settings: TrainSettings, windows: Windows) -> int:
    """Return how many windows an epoch takes of all people together."""
    counts = np.unique(windows.person, return_counts=True)[1]
    return sum(settings.windows_of(count) for count in counts.tolist())


def movement(windows: Windows, statistics: ChannelStatistics) -> NDArray[np.float64]:
    """Return how much each window varies in time, float64 (N,), at least ``LEAST``.

    It is the root mean square, over the channels, of the standard deviation within the window.

    Args:
        windows: N windows.
        statistics: Gives the standard deviations that channels are divided by, so that their units do not matter.
    """
    within = np.concatenate([block.std(axis=2, dtype=np.float64) for block in blocks(windows.x)]) / statistics.std
    found: NDArray[np.float64] = np.maximum(np.sqrt(np.square(within).mean(axis=1)), LEAST)
    return found
