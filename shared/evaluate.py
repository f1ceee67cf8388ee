"""How good is a representation? A linear probe on frozen embeddings, at several amounts of labels.

The protocol "linear": embeddings are computed once by an encoder that does not change, standardised with the mean
and spread of all training embeddings (labels are not needed for that), and classified by multinomial logistic
regression that sees the labels of the drawn training windows only. Its strength is chosen by cross-validation with
training people held out; test people are used for nothing but the score. Every regime and seed gets a fresh probe.

Scores are fractions from 0 to 1; tables show percent.
"""

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import fill

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, f1_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.data.partition import draw_fraction, draw_labels
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import EncoderSettings, build_encoder
from shared.errors import UserError
from shared.features import expert_features
from shared.seeding import make_generator, seeded_initialisation

Embeddings = NDArray[np.float32]

REGIMES = ("1", "2", "3", "4", "5", "6", "all")
"""Labels per person and class. A share of the windows, such as "1%" or "10%", is understood too."""

C_GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Inverse strengths of the L2 penalty to choose from, strongest penalty first."""

FOLDS = 3
"""Groups of training people that take turns to be held out when C is chosen."""

SEARCH_STEPS = 200
SEARCH_TOLERANCE = 3e-4
"""Most L-BFGS steps, and the gradient at which to stop, while C is chosen: fits are compared, not kept."""
FIT_STEPS = 2000
FIT_TOLERANCE = 1e-4
"""The same for the probe itself."""


NAME_WIDTH = 24
"""Longer names of encoders take several lines of a table, to leave room for the numbers."""


class ProbeResult(BaseModel):
    """One fresh probe: a regime and a seed.

    Args:
        protocol: "linear".
        regime: Labels per person and class, a percentage, or "all".
        seed: Of the draw of labels (and of a randomly initialised encoder).
        labels: Number of labelled windows that were used.
        C: The inverse strength of the penalty that cross-validation chose.
        accuracy: Share of the test windows that are right.
        macro_f1: Mean of the F1 scores of the classes that the test people have.
        confusion: Windows by (true class, predicted class).
        per_person: Accuracy of each test person.
        worst_person: The test person of the lowest accuracy.
    """

    model_config = ConfigDict(frozen=True)

    protocol: str
    regime: str
    seed: int
    labels: int
    C: float
    accuracy: float
    macro_f1: float
    confusion: list[list[int]]
    per_person: dict[int, float]
    worst_person: int


class ProbeReport(BaseModel):
    """All probes of one representation, as stored in ``probe.json``.

    Read one back by ``ProbeReport.model_validate_json(text)``.

    Args:
        data: Name of the data set.
        classes: Activity names, in the order of the confusion matrices.
        train_people: Whose labels the probes could draw.
        test_people: Whom the probes were judged on.
        dim: D, the width of the embeddings.
        results: One probe per seed and regime.
    """

    model_config = ConfigDict(frozen=True)

    data: str
    classes: list[str]
    train_people: list[int]
    test_people: list[int]
    dim: int
    results: list[ProbeResult]

    @property
    def regimes(self) -> list[str]:
        """The regimes, in the order in which they were asked for."""
        return list(dict.fromkeys(result.regime for result in self.results))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in the order in which they were asked for."""
        return list(dict.fromkeys(result.seed for result in self.results))

    def of(self, regime: str) -> list[ProbeResult]:
        """The probes of one regime, one per seed."""
        return [result for result in self.results if result.regime == regime]

    def summary(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """Mean and population standard deviation (divisor: number of seeds) over the seeds.

        Returns:
            ``summary[protocol][regime]["accuracy" or "macro_f1"]["mean" or "std"]``, fractions.
        """
        return {
            protocol: {
                regime: {
                    score: _mean_std([getattr(r, score) for r in self.of(regime) if r.protocol == protocol])
                    for score in ("accuracy", "macro_f1")
                }
                for regime in self.regimes
            }
            for protocol in dict.fromkeys(result.protocol for result in self.results)
        }

    def worst_person(self, regime: str) -> tuple[int, float]:
        """The test person of the lowest accuracy in a regime, mean over the seeds, and that accuracy."""
        rows = self.of(regime)
        means = {p: sum(row.per_person[p] for row in rows) / len(rows) for p in self.test_people}
        return min(means.items(), key=lambda item: item[1])

    def to_json(self) -> str:
        """Return the report and its summary as JSON."""
        return json.dumps(self.model_dump(mode="json") | {"summary": self.summary()}) + "\n"


@dataclass(frozen=True)
class Representation:
    """Something to probe: embeddings of the training and the test windows.

    Args:
        embed: Seed to float32 (N, D) embeddings of (train, test).
        seeded: Whether the seed changes them.
    """

    embed: Callable[[int], tuple[Embeddings, Embeddings]]
    seeded: bool = False


def encoded(encoder: nn.Module, train: Windows, test: Windows) -> Representation:
    """A frozen encoder's embeddings."""
    return Representation(lambda seed: (embed(encoder, train.x), embed(encoder, test.x)))


def random_encoder(settings: EncoderSettings, train: Windows, test: Windows) -> Representation:
    """Embeddings by an encoder that was never trained, initialised afresh for each seed.

    What a trained encoder knows of its data without learning, this one knows too: the training people's channel
    statistics and its own BatchNorm statistics on their windows.
    """
    statistics = ChannelStatistics.of(train)

    def by_seed(seed: int) -> tuple[Embeddings, Embeddings]:
        with seeded_initialisation(seed, "encoder"):
            encoder = build_encoder(settings, *train.x.shape[1:])
        encoder.standardise(statistics.mean, statistics.std)
        estimate_norm_statistics(encoder, train.x)
        return embed(encoder, train.x), embed(encoder, test.x)

    return Representation(by_seed, seeded=True)


def expert(settings: EncoderSettings, train: Windows, test: Windows) -> Representation:
    """Expert time and frequency features of the windows; the settings play no part."""
    return Representation(
        lambda seed: (
            expert_features(torch.from_numpy(train.x), train.meta).numpy(),
            expert_features(torch.from_numpy(test.x), test.meta).numpy(),
        )
    )


def raw(settings: EncoderSettings, train: Windows, test: Windows) -> Representation:
    """The samples themselves, (N, C * T); the probe standardises each. The settings play no part."""
    return Representation(
        lambda seed: (train.x.reshape(len(train), -1), test.x.reshape(len(test), -1)),
    )


BASELINES: dict[str, Callable[[EncoderSettings, Windows, Windows], Representation]] = {
    "random": random_encoder,
    "features": expert,
    "raw": raw,
}
"""What a trained encoder has to beat, by name."""


def embed(encoder: nn.Module, x: NDArray[np.float32], batch: int = 1024) -> Embeddings:
    """Encode windows without changing the encoder: evaluation mode, no gradient, modes put back afterwards.

    Args:
        encoder: Maps (N, C, T) to (N, D).
        x: float32 (N, C, T), raw.
        batch: Most windows at a time.

    Returns:
        float32 (N, D).
    """
    device = next(encoder.parameters()).device
    with _modes_kept(encoder), torch.no_grad():
        encoder.eval()
        parts = torch.from_numpy(x).tensor_split(max(1, math.ceil(len(x) / batch)))
        embedded = [encoder(part.to(device)).float().cpu() for part in parts]
    embeddings: Embeddings = torch.cat(embedded).numpy()
    return embeddings


def estimate_norm_statistics(encoder: nn.Module, x: NDArray[np.float32], batch: int = 1024) -> None:
    """Set the running statistics of every BatchNorm layer from unlabelled windows, in one pass.

    For encoders whose statistics never left the clients (policy "local"; FedBN, Li et al. 2021). Layers average the
    statistics of nearly equal batches in an order that mixes people. Nothing else is in training mode, so that the
    statistics are those of the encoder as it will be used. The encoder is left in evaluation mode.

    Args:
        encoder: Maps (N, C, T) to (N, D); without BatchNorm it stays as it is.
        x: float32 (N, C, T), raw, of training people.
        batch: Most windows at a time.

    Raises:
        UserError: No windows.
    """
    if not len(x):
        raise UserError("normalisation statistics cannot be estimated from no windows")
    encoder.eval()
    layers = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch: the plain average of all batches
        layer.train()
    device = next(encoder.parameters()).device
    order = torch.randperm(len(x), generator=make_generator("norm statistics"))
    with torch.no_grad():
        for rows in order.tensor_split(math.ceil(len(x) / batch)):
            encoder(torch.from_numpy(x[rows.numpy()]).to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    encoder.eval()


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe, the C that it was fitted with, and the number of labels that it saw."""

    scaler: StandardScaler
    classifier: LogisticRegression
    C: float
    labels: int

    def predict(self, z: Embeddings) -> NDArray[np.int64]:
        """Return the predicted labels (N,) of embeddings (N, D)."""
        predicted: NDArray[np.int64] = self.classifier.predict(self.scaler.transform(z))
        return predicted


def draw_regime(train: Windows, regime: str, seed: int) -> NDArray[np.int64]:
    """Return the sorted indices of the windows whose labels a regime reveals.

    Args:
        train: The windows to draw from.
        regime: A number of labels per person and class, "all", or a percentage of the windows, such as "10%".
        seed: Of the draw; "all" does not depend on it.

    Raises:
        UserError: Any other regime.
    """
    if regime == "all":
        return draw_labels(train, None, seed)
    if re.fullmatch(r"[1-9]\d*", regime):
        return draw_labels(train, int(regime), seed)
    if re.fullmatch(r"\d+(\.\d+)?%", regime):
        return draw_fraction(train, float(regime[:-1]) / 100, seed)
    raise UserError(
        f"unknown label regime {regime!r}; expected a number of labels per person and class such as 1, "
        "a percentage such as 10%, or all"
    )


def fit_linear_probe(train: Windows, z_train: Embeddings, regime: str, seed: int) -> LinearProbe:
    """Fit a probe to the labels that a regime reveals.

    The standardisation uses all training embeddings, which needs no labels.

    Args:
        train: Training people's windows.
        z_train: float32 (N, D), their embeddings.
        regime: See ``draw_regime``.
        seed: Of the draw of labels.

    Raises:
        UserError: Fewer than two people or classes among the drawn windows, or embeddings that are not finite or
            do not belong to the windows.
    """
    _check_embeddings(train, z_train)
    rows = draw_regime(train, regime, seed)
    scaler = StandardScaler().fit(z_train)
    z, y = scaler.transform(z_train[rows]), train.y[rows]
    with threadpool_limits(1):  # small matrices: more threads wait for each other, and the result depends on them
        C = choose_C(z, y, train.subject[rows])
        classifier = LogisticRegression(C=C, max_iter=FIT_STEPS, tol=FIT_TOLERANCE).fit(z, y)
    return LinearProbe(scaler, classifier, C, len(rows))


def choose_C(z: Embeddings, y: NDArray[np.int64], people: NDArray[np.int64]) -> float:  # noqa: N802
    """Return the C of ``C_GRID`` that classifies held-out people best; the strongest penalty wins ties.

    Args:
        z: float32 (N, D), standardised embeddings of labelled windows.
        y: int64 (N,) labels.
        people: int64 (N,) person ids; nobody is in the fitted and the held-out part of a fold at once.

    Raises:
        UserError: Fewer than two people or classes, or no fold that leaves two classes to fit.
    """
    groups, classes = len(np.unique(people)), len(np.unique(y))
    if groups < 2 or classes < 2:
        raise UserError(
            f"a probe needs labels of at least 2 people and 2 classes, found {groups} people and {classes} classes"
        )
    right = np.zeros(len(C_GRID), dtype=np.int64)
    folds = [
        (fitted, held_out)
        for fitted, held_out in GroupKFold(min(FOLDS, groups)).split(z, groups=people)
        if len(np.unique(y[fitted])) > 1
    ]
    if not folds:
        raise UserError("a probe cannot hold people out: without them there is one class left to fit")
    for fitted, held_out in folds:
        z_fitted, z_held_out = z[fitted], z[held_out]
        for index, classifier in enumerate(_search_fits(z_fitted, y[fitted])):
            right[index] += int((classifier.predict(z_held_out) == y[held_out]).sum())
    return C_GRID[int(right.argmax())]


def linear_probe(
    train: Windows, z_train: Embeddings, test: Windows, z_test: Embeddings, regime: str, seed: int
) -> ProbeResult:
    """Fit a fresh probe on training people and score it on test people.

    Args:
        train: Training people's windows.
        z_train: float32 (N, D), their embeddings.
        test: Test people's windows.
        z_test: float32 (M, D), their embeddings.
        regime: See ``draw_regime``.
        seed: Of the draw of labels.

    Raises:
        UserError: See ``fit_linear_probe``; also no test windows, or test people among the training people.
    """
    if both := sorted(set(train.people) & set(test.people)):
        raise UserError(f"{test.meta.name}: people {both} are in both the training and the test part")
    _check_embeddings(test, z_test)
    fitted = fit_linear_probe(train, z_train, regime, seed)
    predicted = fitted.predict(z_test)
    right = predicted == test.y
    per_person = {person: float(right[test.subject == person].mean()) for person in test.people}
    return ProbeResult(
        protocol="linear",
        regime=regime,
        seed=seed,
        labels=fitted.labels,
        C=fitted.C,
        accuracy=float(right.mean()),
        macro_f1=float(f1_score(test.y, predicted, labels=np.unique(test.y), average="macro", zero_division=0)),
        confusion=confusion_matrix(test.y, predicted, labels=range(len(test.meta.classes))).tolist(),
        per_person=per_person,
        worst_person=min(per_person, key=per_person.__getitem__),
    )


def probe(
    representation: Representation,
    train: Windows,
    test: Windows,
    *,
    seeds: Sequence[int],
    regimes: Sequence[str] = REGIMES,
    advance: Callable[[], None] = lambda: None,
) -> ProbeReport:
    """Probe a representation in each regime with each seed.

    Regime "all" draws the same labels whatever the seed: where the embeddings do not depend on the seed either, it
    is fitted once and the row repeated, with a standard deviation of zero.

    Args:
        representation: What to probe, such as ``encoded(encoder, train, test)``.
        train: Training people's windows.
        test: Test people's windows.
        seeds: One draw of labels each.
        regimes: See ``draw_regime``.
        advance: Called after each of the ``len(seeds) * len(regimes)`` probes.

    Raises:
        UserError: See ``linear_probe``; also no seeds or no regimes.
    """
    if not seeds or not regimes:
        raise UserError("a probe needs at least one seed and one regime")
    for regime in regimes:
        draw_regime(train, regime, seeds[0])  # refuses a bad one before the work of the others is done
    results: list[ProbeResult] = []
    every_seed: dict[str, ProbeResult] = {}
    for index, seed in enumerate(dict.fromkeys(seeds)):
        if index == 0 or representation.seeded:
            z_train, z_test = representation.embed(seed)
        for regime in dict.fromkeys(regimes):
            if regime in every_seed:
                result = every_seed[regime].model_copy(update={"seed": seed})
            else:
                result = linear_probe(train, z_train, test, z_test, regime, seed)
            if regime == "all" and not representation.seeded:
                every_seed[regime] = result
            results.append(result)
            advance()
    return ProbeReport(
        data=train.meta.name,
        classes=list(train.meta.classes),
        train_people=train.people,
        test_people=test.people,
        dim=z_train.shape[1],
        results=results,
    )


def print_table(reports: Mapping[str, ProbeReport], console: Console | None = None) -> None:
    """Print one row per report: accuracy in percent by regime, then macro-F1 and the worst person.

    The last two are of regime "all", or of the last regime that all reports have.

    Args:
        reports: Reports by the name of their row.
        console: Where to print; standard output if None.

    Raises:
        UserError: Reports that have no regime in common.
    """
    if not reports:
        return
    regimes = list(dict.fromkeys(regime for report in reports.values() for regime in report.regimes))
    common = [regime for regime in regimes if all(regime in report.regimes for report in reports.values())]
    if not common:
        raise UserError(f"the reports of {', '.join(reports)} have no label regime in common")
    last = "all" if "all" in common else common[-1]
    table = Table(
        Column("encoder", no_wrap=True),
        title=f"Linear probe: test accuracy in % by labels per person and class ({_described(reports)})",
        caption=f"macro-F1 and the person of the lowest accuracy are of regime {last!r}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in (*regimes, "F1"):
        table.add_column(heading, justify="right")
    table.add_column("worst\nperson", justify="right", no_wrap=True)
    for name, report in reports.items():
        scores = report.summary()["linear"]
        person, accuracy = report.worst_person(last)
        table.add_row(
            escape(fill(name, NAME_WIDTH)),
            *(_percent(report, scores[r]["accuracy"]) if r in scores else "" for r in regimes),
            _percent(report, scores[last]["macro_f1"]),
            f"{person}: {100 * accuracy:.1f}",
        )
    (console or Console()).print(table)


def _search_fits(z: Embeddings, y: NDArray[np.int64]) -> Iterator[LogisticRegression]:
    """Yield the classifier for each C of the grid, each started from the one before it."""
    classifier = LogisticRegression(max_iter=SEARCH_STEPS, tol=SEARCH_TOLERANCE, warm_start=True)
    for C in C_GRID:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.set_params(C=C).fit(z, y)
        yield classifier


def _check_embeddings(windows: Windows, z: Embeddings) -> None:
    if not len(windows):
        raise UserError(f"{windows.meta.name}: there are no windows to probe")
    if z.ndim != 2 or len(z) != len(windows):
        raise UserError(f"{windows.meta.name}: expected ({len(windows)}, D) embeddings, found {z.shape}")
    if not np.isfinite(z).all():
        raise UserError(f"{windows.meta.name}: embeddings hold NaN or infinite values")


def _mean_std(scores: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(scores)), "std": float(np.std(scores))}


def _percent(report: ProbeReport, score: Mapping[str, float]) -> str:
    spread = f" ±{100 * score['std']:.1f}" if len(report.seeds) > 1 else ""
    return f"{100 * score['mean']:.1f}{spread}"


def _described(reports: Mapping[str, ProbeReport]) -> str:
    """Say what the numbers of a table are of: data set, test people and seeds."""
    return "; ".join(
        dict.fromkeys(
            f"{report.data}, {len(report.test_people)} test people, {len(report.seeds)} "
            + ("seed" if len(report.seeds) == 1 else "seeds")
            for report in reports.values()
        )
    )


@contextmanager
def _modes_kept(module: nn.Module) -> Iterator[None]:
    """Put the training flag of every submodule back when the block ends."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
