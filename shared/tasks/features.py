"""Agree with what an expert would compute from the window: time and frequency features as a teacher."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from shared.columns import Column, column
from shared.data.windows import Meta, Windows
from shared.encoders import Encoded, Encoder, View
from shared.errors import UserError
from shared.features import CHUNK, expert_features, feature_names
from shared.large import blocks, stack
from shared.losses import vicreg
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, mlp

TOGETHER = 16
"""Features whose mean and standard deviation are computed together: bounds the memory that they take."""


class FeaturesSettings(TaskSettings):
    """How the embedding and the expert features are brought together.

    Args:
        mode: "regress" predicts the standardised features; "align" compares projections of both by VICReg
            (Bardes, Ponce and LeCun 2022).
        source: "computed" from the windows (``shared/features.py``), or "shipped" with the data set.
        hidden: Width of the hidden layers.
        projection: Width P of the two projections of "align".
    """

    mode: Literal["regress", "align"]
    source: Literal["computed", "shipped"]
    hidden: PositiveInt
    projection: PositiveInt


def person_features(windows: Windows, encoder: Encoder, settings: FeaturesSettings, before: Column | None) -> Column:
    """Return the expert features (N, F), standardised for each person.

    Raises:
        UserError: Shipped features are asked for and the data set has none.
    """
    if settings.source == "computed":
        spec = windows.meta.spec
        chunks = (torch.from_numpy(np.array(chunk)) for chunk in blocks(windows.x, CHUNK))
        computed = (expert_features(chunk, spec).numpy() for chunk in chunks)
        features = stack(computed, (len(feature_names(spec)),), np.float32)
    elif windows.features is not None:
        features = windows.features
    else:
        raise UserError(f"tasks.features.source is 'shipped', but {windows.meta.name} ships no features")
    return column(standardise_by_person(features, windows.person))


def standardise_by_person(features: NDArray[np.float32], people: NDArray[np.str_]) -> NDArray[np.float32]:
    """Return features (N, F) with mean 0 and standard deviation 1 over each person's windows, cut off at 5.

    A client has its own person's windows only, and the baseline trains the same targets. On held-out people this is no
    worse than the statistics of everybody (docs/results.md), and nothing has to travel for it.

    Args:
        features: float32 (N, F).
        people: text (N,), whose windows they are.
    """
    unique, places = np.unique(people, return_inverse=True)
    width = features.shape[1]
    spread, mean = torch.empty(2, len(unique), width)
    for first in range(0, width, TOGETHER):
        some = slice(first, first + TOGETHER)
        values = torch.from_numpy(np.concatenate([block[:, some].copy() for block in blocks(features)]))
        for place in range(len(unique)):
            own = torch.from_numpy(places == place)
            spread[place, some], mean[place, some] = torch.std_mean(values[own], dim=0, correction=0)
    # A feature that hardly varies within one person would otherwise become huge for a single window.
    spread.clamp_min_(1e-6)

    def standardised() -> Iterator[NDArray[np.float32]]:
        done = 0
        for block in blocks(features):
            own = places[done : done + len(block)]
            yield ((torch.from_numpy(np.array(block)) - mean[own]) / spread[own]).clamp(-5, 5).numpy()
            done += len(block)

    return stack(standardised(), (width,), np.float32)


class Features(Task):
    """Predict the expert features (N, F) of a window from its embedding, or align with an embedding of them."""

    Settings: ClassVar[type[TaskSettings]] = FeaturesSettings
    of_time: ClassVar[bool] = True
    extra = staticmethod(person_features)

    @classmethod
    def extra_width(cls, settings: FeaturesSettings, meta: Meta) -> int:
        """F."""
        return len(meta.feature_names if settings.source == "shipped" else feature_names(meta.spec))

    def __init__(self, settings: FeaturesSettings, context: TaskContext) -> None:
        super().__init__(settings, context)
        self.mode = settings.mode
        if self.mode == "regress":
            self.head = mlp(context.dim, settings.hidden, context.extra)
        else:
            self.head = mlp(context.dim, settings.hidden, settings.projection)
            self.projector = mlp(context.extra, settings.hidden, settings.projection)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[list[View], Any]:
        """The windows as they are: the features are those of the untouched window."""
        return [View(batch.x)], None

    def loss(self, encoded: list[Encoded], memory: Any, batch: Batch) -> Tensor:
        """Smooth L1 to the standardised features (robust to their heavy tails), or VICReg of both projections."""
        prediction, features = self.head(encoded[0].pooled), batch.extras["features"]
        if self.mode == "regress":
            return F.smooth_l1_loss(prediction, features)
        return vicreg(prediction, self.projector(features))
