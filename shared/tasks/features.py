"""Agree with what an expert would compute from the window: time and frequency features as a teacher."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from shared.data.windows import Meta, Windows
from shared.encoders import Encoded, Encoder, View
from shared.errors import UserError
from shared.features import expert_features, feature_names
from shared.losses import vicreg
from shared.tasks.base import Batch, Task, TaskContext, TaskSettings, mlp


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


def person_features(windows: Windows, encoder: Encoder, settings: FeaturesSettings, before: Tensor | None) -> Tensor:
    """Return the expert features (N, F), standardised for each person.

    Raises:
        UserError: Shipped features are asked for and the data set has none.
    """
    if settings.source == "computed":
        features = expert_features(torch.from_numpy(windows.x), windows.meta.spec)
    elif windows.features is not None:
        features = torch.from_numpy(windows.features)
    else:
        raise UserError(f"tasks.features.source is 'shipped', but {windows.meta.name} ships no features")
    return standardise_by_person(features, windows.person)


def standardise_by_person(features: Tensor, people: NDArray[np.str_]) -> Tensor:
    """Return features (N, F) with mean 0 and standard deviation 1 over each person's windows, cut off at 5.

    A client has its own person's windows only, and the baseline trains the same targets. On held-out people this is no
    worse than the statistics of everybody (docs/results.md), and nothing has to travel for it.

    Args:
        features: float32 (N, F).
        people: text (N,), whose windows they are.
    """
    standardised = torch.empty_like(features)
    unique, places = np.unique(people, return_inverse=True)
    for place in range(len(unique)):
        rows = torch.from_numpy(places == place)
        spread, mean = torch.std_mean(features[rows], dim=0, correction=0)
        # A feature that hardly varies within one person would otherwise become huge for a single window.
        standardised[rows] = ((features[rows] - mean) / spread.clamp_min(1e-6)).clamp(-5, 5)
    return standardised


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
