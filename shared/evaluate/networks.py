"""The protocols that train a network: "head", "finetune" and "supervised".

- "head": one hidden layer on frozen, standardised embeddings, for comparison with work that calls that linear.
- "finetune": the whole network. It starts as the linear probe (Kumar et al. 2022, "Fine-tuning can distort pretrained
  features and underperform out-of-distribution") and goes on with a small learning rate for the encoder, whose
  BatchNorm statistics stay as they are, and a larger one for the head.
- "supervised": the same network from scratch, on the same augmented windows.

Each trains a network of its own, in float32: what it is given stays as it was. How many passes over the labelled
windows are best is chosen by accuracy with training people held out, and all labelled windows are then used for that
many. Weights are averaged over the last steps (Polyak and Juditsky 1992; here with exponentially falling weights), so
that every pass ends with a usable network at a constant learning rate.

The recipes of "finetune" and "supervised" were chosen on UCI HAR with a third of its 21 training people held out, from
three learning rates and two or three sets of augmentations each; most of them differed by less than two seeds do. Its
test people played no part. The encoder that was fine-tuned for it had seen the held-out people's windows, unlabelled.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from shared.augmentations import Channels, Transform, compose
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import Encoder, build_encoder
from shared.evaluate.classifier import Classifier, linear_head
from shared.evaluate.linear import choose_C, logistic_regression
from shared.evaluate.representation import Embeddings, modes_kept
from shared.evaluate.selection import held_out_folds
from shared.seeding import make_generator, seeded_initialisation
from shared.transforms import transforms_of

AVERAGED_STEPS = 25
"""Steps over which weights are averaged, about."""

WARMUP_STEPS = 20
"""Steps over which the learning rate rises."""

ONE_FOLD_ABOVE = 500
"""With more labelled windows than this, one fold of held-out people chooses: several would take minutes."""

HIDDEN = 256
"""Units of the hidden layer of "head"."""

TRANSFORMS = ("tilt", "scale", "jitter")
"""Augmentations of labelled windows. Gravity, which tells sitting from standing, turns by ``TILT_DEGREES`` at most."""

TRANSFORMS_OF_IMAGES = ("resize_crop", "flip")
"""Augmentations of labelled images."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on labelled windows, by AdamW.

    Args:
        encoder_rate: Learning rate of the encoder.
        head_rate: Learning rate of the head.
        weight_decay: On matrices and kernels.
        batch: Windows a step.
        updates: Steps to try, about.
        epochs: Fewest and most epochs to try, whatever the number of steps.
        transforms: Augmentations of the windows.
        norm_frozen: Whether BatchNorm keeps its statistics.
    """

    encoder_rate: float
    head_rate: float
    weight_decay: float
    batch: int
    updates: int
    epochs: tuple[int, int]
    transforms: tuple[str, ...]
    norm_frozen: bool

    def most_epochs(self, labels: int) -> int:
        """Return how many epochs to try with a number of labelled windows."""
        fewest, most = self.epochs
        return min(max(self.updates // math.ceil(labels / self.batch), fewest), most)


HEAD = Recipe(0.0, 1e-3, 1e-2, 64, 600, (20, 60), (), norm_frozen=True)
FINETUNE = Recipe(2e-4, 1e-3, 1e-2, 64, 200, (8, 40), TRANSFORMS, norm_frozen=True)
SUPERVISED = Recipe(1e-3, 1e-3, 1e-2, 64, 400, (12, 80), TRANSFORMS, norm_frozen=False)


@dataclass(frozen=True)
class Labelled:
    """The labelled windows that a network is fitted to.

    Args:
        x: float32 (N, ...), what the network takes: windows or embeddings.
        y: int64 (N,), class indices without gaps.
        people: text (N,) person ids.
        augment: Fresh random copy of a batch of ``x``.
    """

    x: Tensor
    y: NDArray[np.int64]
    people: NDArray[np.str_]
    augment: Callable[[Tensor, torch.Generator], Tensor]

    def __getitem__(self, rows: NDArray[np.int64]) -> "Labelled":
        return Labelled(self.x[torch.from_numpy(rows)], self.y[rows], self.people[rows], self.augment)


@dataclass(frozen=True)
class FittedNetwork:
    """A trained network, the class of each logit, and the number of epochs that held-out people chose."""

    network: Classifier
    classes: NDArray[np.int64]
    epochs: int

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the predicted labels (N,) of inputs (N, ...)."""
        return self.classes[_decide(self.network, torch.from_numpy(x))]


def fit_head(train: Windows, z: Embeddings, rows: NDArray[np.int64], seed: int) -> FittedNetwork:
    """Fit a head with a hidden layer to the embeddings (N, D) of the labelled rows of the training windows."""
    classes, y = np.unique(train.y[rows], return_inverse=True)
    labelled = Labelled(torch.from_numpy(z[rows]), y, train.person[rows], _unchanged)
    scaler = StandardScaler().fit(z)

    def start(fitted: NDArray[np.int64]) -> Classifier:
        with seeded_initialisation(seed, "head"):
            layers = nn.Sequential(nn.Linear(z.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, len(classes)))
        return Classifier(nn.Identity(), scaler, layers)

    return _fit(labelled, start, HEAD, classes, seed)


def fit_supervised(train: Windows, like: Encoder, rows: NDArray[np.int64], seed: int) -> FittedNetwork:
    """Train an encoder of the architecture of ``like`` from scratch, with a linear head, on the labelled rows."""
    labelled, classes = _augmented(train, rows, SUPERVISED, like)
    statistics = ChannelStatistics.of(train)

    def start(fitted: NDArray[np.int64]) -> Classifier:
        with seeded_initialisation(seed, "supervised"):
            encoder = build_encoder(like.settings, like.spec)
            head = nn.Linear(encoder.dim, len(classes))
        encoder.standardise(statistics.mean, statistics.std)
        return Classifier(encoder, None, head).to(like.mean.device)

    return _fit(labelled, start, SUPERVISED, classes, seed)


def fit_finetuned(
    train: Windows, z: Embeddings, encoder: Encoder, rows: NDArray[np.int64], seed: int
) -> tuple[FittedNetwork, float]:
    """Train a copy of an encoder on from its linear probe; return the network and the C of that probe.

    Args:
        train: Training people's windows.
        z: float32 (N, D), their embeddings by the encoder as it is.
        encoder: Stays as it is.
        rows: Of the labelled windows.
        seed: Of the order of the windows and their augmentations.
    """
    labelled, classes = _augmented(train, rows, FINETUNE, encoder)
    scaler = StandardScaler().fit(z)
    scaled = scaler.transform(z[rows])
    C = choose_C(scaled, labelled.y, labelled.people)

    def start(fitted: NDArray[np.int64]) -> Classifier:
        probe = logistic_regression(scaled[fitted], labelled.y[fitted], C)
        head = linear_head(probe, range(len(classes)))
        return Classifier(copy.deepcopy(encoder), scaler, head).to(encoder.mean.device)

    return _fit(labelled, start, FINETUNE, classes, seed), C


def _augmented(
    train: Windows, rows: NDArray[np.int64], recipe: Recipe, encoder: Encoder
) -> tuple[Labelled, NDArray[np.int64]]:
    """Return the labelled windows on the encoder's device, and the classes that they have."""
    classes, y = np.unique(train.y[rows], return_inverse=True)
    x = torch.from_numpy(train.x[rows]).to(encoder.mean.device)
    std = torch.as_tensor(ChannelStatistics.of(train).std, dtype=torch.float32, device=x.device)
    spec = train.meta.spec
    names = TRANSFORMS_OF_IMAGES if spec.rate is None else recipe.transforms
    channels, transform = Channels(spec, std), compose(names, transforms_of(spec))
    return Labelled(x, y, train.person[rows], _with(transform, channels)), classes


def _with(transform: Transform, channels: Channels) -> Callable[[Tensor, torch.Generator], Tensor]:
    return lambda x, generator: transform(x, generator, channels)


def _unchanged(x: Tensor, generator: torch.Generator) -> Tensor:
    return x


def _fit(
    labelled: Labelled,
    start: Callable[[NDArray[np.int64]], Classifier],
    recipe: Recipe,
    classes: NDArray[np.int64],
    seed: int,
) -> FittedNetwork:
    """Choose the number of epochs with people held out, then train on all labelled windows for that many.

    Args:
        labelled: N labelled windows.
        start: Rows that are fitted to, to a fresh network.
        recipe: How to train.
        classes: The class of each logit.
        seed: Of all randomness of the training.
    """
    epochs = _choose_epochs(labelled, start, recipe, seed)
    passes = _passes(
        start(np.arange(len(labelled.y))), labelled, recipe, make_generator(seed, "all", device=labelled.x.device)
    )
    return FittedNetwork(next(islice(passes, epochs, None)), classes, epochs)


def _choose_epochs(
    labelled: Labelled, start: Callable[[NDArray[np.int64]], Classifier], recipe: Recipe, seed: int
) -> int:
    """Return the number of epochs after which held-out people are classified best; the smallest wins ties."""
    folds = held_out_folds(labelled.y, labelled.people)
    if len(labelled.y) > ONE_FOLD_ABOVE:
        folds = folds[:1]
    right = np.zeros(recipe.most_epochs(len(labelled.y)) + 1, dtype=np.int64)
    for number, (fitted, held_out) in enumerate(folds):
        judged = labelled[held_out]
        passes = _passes(
            start(fitted), labelled[fitted], recipe, make_generator(seed, "fold", number, device=labelled.x.device)
        )
        for epoch, network in enumerate(islice(passes, len(right))):
            right[epoch] += int((_decide(network, judged.x) == judged.y).sum())
    return int(right.argmax())


def _passes(
    network: Classifier, labelled: Labelled, recipe: Recipe, generator: torch.Generator
) -> Iterator[Classifier]:
    """Yield the network before the first and after each further epoch, averaged over its last steps."""
    averaged, steps = copy.deepcopy(network), 0
    optimizer = _optimizer(network, recipe)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS))
    y = torch.from_numpy(labelled.y).to(labelled.x.device)
    while True:
        yield averaged
        _train_mode(network, recipe.norm_frozen)
        order = torch.randperm(len(y), generator=generator, device=y.device)
        for rows in order.tensor_split(math.ceil(len(y) / recipe.batch)):
            loss = cross_entropy(network(labelled.augment(labelled.x[rows].float(), generator)), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            warmup.step()
            steps += 1
            _follow(averaged, network, 1 / min(steps, AVERAGED_STEPS))


def _follow(averaged: nn.Module, network: nn.Module, share: float) -> None:
    """Move the averaged weights and BatchNorm statistics towards those of the network by a share of the way."""
    with torch.no_grad():
        for mean, value in zip(averaged.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share)
            else:
                mean.copy_(value)


def _optimizer(network: Classifier, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices and kernels only."""
    groups = []
    for part, rate in ((network.encoder, recipe.encoder_rate), (network.head, recipe.head_rate)):
        for decayed in (True, False):
            parameters = [p for p in part.parameters() if (p.ndim > 1) == decayed]
            groups.append({"params": parameters, "lr": rate, "weight_decay": recipe.weight_decay * decayed})
    return torch.optim.AdamW([group for group in groups if group["params"]])


def _train_mode(network: Classifier, norm_frozen: bool) -> None:
    network.train()
    if norm_frozen:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _decide(network: Classifier, x: Tensor, batch: int = 1024) -> NDArray[np.int64]:
    """Return the logit numbers (N,) of the decisions."""
    with modes_kept(network), torch.no_grad():
        network.eval()
        parts = x.to(network.mean.device).tensor_split(max(1, math.ceil(len(x) / batch)))
        decided: NDArray[np.int64] = torch.cat([network(part).argmax(dim=1) for part in parts]).cpu().numpy()
    return decided
