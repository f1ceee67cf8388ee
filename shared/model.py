"""One encoder, several pretext tasks and the rule that weighs them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.augmentations import Channels
from shared.config import Config
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Meta, Windows
from shared.encoders import Encoder, build_encoder
from shared.errors import UserError
from shared.features import expert_features, feature_names
from shared.seeding import seeded_initialisation
from shared.tasks import TASKS, Batch, Task, TaskContext, Views
from shared.weighting import Weighting, build_weighting

EVERYBODY = 0
"""Stands for the person where windows of several people are trained together."""


@dataclass(frozen=True)
class TrainingData:
    """One person's, or all people's, windows as tensors.

    Args:
        x: float32 (N, C, T) in physical units.
        features: float32 (N, F) standardised expert features; F is 0 where no task needs them.
        meta: What the channels are.
        person: Whose windows they are; ``EVERYBODY`` where they are of several people.
    """

    x: Tensor
    features: Tensor
    meta: Meta
    person: int

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> "TrainingData":
        """Return the data on a device."""
        return replace(self, x=self.x.to(device), features=self.features.to(device))


class Model(nn.Module):
    """The shared encoder, and beside it what stays private: the heads of the tasks and their weighting."""

    def __init__(self, encoder: Encoder, tasks: Mapping[str, Task], weighting: Weighting) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(tasks)
        self.tasks = dict(tasks)
        self.weighting = weighting

    def losses(self, x: Tensor, features: Tensor, generator: torch.Generator, precision: torch.dtype) -> Tensor:
        """Return the losses of the K tasks on a batch, (K,), with one pass of the encoder over all views.

        Args:
            x: (N, C, T) windows in physical units.
            features: (N, F) standardised expert features.
            generator: Source of every random choice in the views.
            precision: Of the encoder's arithmetic; the heads and the losses are float32.
        """
        views: list[Views] = [task.views(x, generator) for task in self.tasks.values()]
        windows = torch.cat([view.windows for view in views])
        with torch.autocast(x.device.type, precision, enabled=precision != torch.float32):
            embeddings = self.encoder(windows)
        parts = embeddings.float().split([len(view.windows) for view in views])
        batch = Batch((x - self.encoder.mean) / self.encoder.std, features)
        return torch.stack(
            [
                task.loss(part, view.targets, batch)
                for task, part, view in zip(self.tasks.values(), parts, views, strict=True)
            ]
        )


def build_initial_encoder(config: Config, channels: int, samples: int) -> Encoder:
    """Return the encoder as every run of this configuration starts it."""
    with seeded_initialisation(config.seed, "encoder"):
        return build_encoder(config.encoder, channels, samples)


def build_model(config: Config, meta: Meta, samples: int, statistics: ChannelStatistics) -> Model:
    """Build the model for windows of ``samples`` samples of the channels in ``meta``.

    Heads start from the configuration's seed alone: clients that begin alike disagree less at first.

    Args:
        config: The configuration.
        meta: The channels.
        samples: T.
        statistics: Of the training people; standardises the encoder's input.
    """
    encoder = build_initial_encoder(config, len(meta.channels), samples)
    encoder.standardise(statistics.mean, statistics.std)
    std = torch.as_tensor(statistics.std, dtype=torch.float32)
    context = TaskContext(Channels(meta.triads, std, meta.rate), samples, encoder.dim, _feature_count(config, meta))
    with seeded_initialisation(config.seed, "tasks"):
        tasks = {name: TASKS[name](settings, context) for name, settings in config.enabled_tasks.items()}
    weights = {name: settings.weight for name, settings in config.enabled_tasks.items()}
    return Model(encoder, tasks, build_weighting(config.weighting, weights))


def prepare(config: Config, windows: Windows) -> TrainingData:
    """Turn windows into what the training loop takes, with expert features standardised for each person.

    Raises:
        UserError: Shipped features are asked for and the data set has none.
    """
    x = torch.from_numpy(windows.x)
    person = windows.people[0] if len(windows.people) == 1 else EVERYBODY
    if not _needs_features(config):
        return TrainingData(x, torch.empty(len(x), 0), windows.meta, person)
    if _ships_features(config):
        if windows.features is None:
            raise UserError(f"tasks.features.source is 'shipped', but {windows.meta.name} ships no features")
        features = torch.from_numpy(windows.features)
    else:
        features = expert_features(x, windows.meta)
    return TrainingData(x, standardise_by_person(features, windows.subject), windows.meta, person)


def standardise_by_person(features: Tensor, people: NDArray[np.int64]) -> Tensor:
    """Return features (N, F) with mean 0 and standard deviation 1 over each person's windows, cut off at 5.

    A client has its own person's windows only, and the baseline trains the same targets. On held-out people this is no
    worse than the statistics of everybody (docs/results.md), and nothing has to travel for it.

    Args:
        features: float32 (N, F).
        people: int64 (N,), whose windows they are.
    """
    standardised = torch.empty_like(features)
    for person in np.unique(people):
        rows = torch.from_numpy(people == person)
        spread, mean = torch.std_mean(features[rows], dim=0, correction=0)
        # A feature that hardly varies within one person would otherwise become huge for a single window.
        standardised[rows] = ((features[rows] - mean) / spread.clamp_min(1e-6)).clamp(-5, 5)
    return standardised


def _needs_features(config: Config) -> bool:
    return any(TASKS[name].needs_features for name in config.enabled_tasks)


def _ships_features(config: Config) -> bool:
    return getattr(config.tasks["features"], "source", None) == "shipped"


def _feature_count(config: Config, meta: Meta) -> int:
    if not _needs_features(config):
        return 0
    return len(meta.feature_names if _ships_features(config) else feature_names(meta))
