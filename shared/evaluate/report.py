"""What an evaluation found: one result per protocol, label regime and seed, and reports of them as JSON.

Scores are fractions from 0 to 1.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, computed_field
from sklearn.metrics import confusion_matrix, f1_score

from shared.collapse import EmbeddingSpread
from shared.data.person import numbered
from shared.data.windows import Windows

SUPERVISED = "supervised"
"""The protocol that needs no trained encoder; its results stand beside those of every other protocol."""


class ProbeResult(BaseModel):
    """One fresh classifier: a protocol, a regime and a seed.

    Args:
        protocol: A key of ``PROTOCOLS``.
        regime: Labels per person and class, a percentage, or "all".
        seed: Of the draw of labels, of a randomly initialised encoder and of everything a protocol draws; the place
            of the encoder among ``ProbeReport.trainings``.
        labels: Number of labelled windows that were used.
        C: The inverse strength of the penalty that held-out training people chose ("linear", "finetune").
        k: The number of neighbours that they chose ("knn").
        epochs: The passes over the labelled windows that they chose ("head", "finetune", "supervised").
        accuracy: Share of the labelled test windows that are right.
        macro_f1: Mean of the F1 scores of the classes that the test people have.
        confusion: Windows by (true class, predicted class).
        per_person: Accuracy of each test person who has labels.
        worst_person: The test person of the lowest accuracy.
    """

    model_config = ConfigDict(frozen=True)

    protocol: str
    regime: str
    seed: int
    labels: int
    C: float | None = None
    k: int | None = None
    epochs: int | None = None
    accuracy: float
    macro_f1: float
    confusion: list[list[int]]
    per_person: dict[str, float]
    worst_person: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def per_class_f1(self) -> list[float | None]:
        """F1 of each class, in the order of ``confusion``; None where no test person has the class."""
        counts = np.array(self.confusion)
        hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        return [float(2 * h / (t + p)) if t else None for h, t, p in zip(hits, true, predicted, strict=True)]


class ProbeReport(BaseModel):
    """All results of one representation, as stored in ``probe.json``.

    Read one back by ``ProbeReport.model_validate_json(text)``.

    Args:
        data: Name of the data set.
        classes: Activity names, in the order of the confusion matrices.
        train_people: Whose labels could be drawn; others have none.
        test_people: Who was judged on; others have no labels.
        dim: D, the width of the embeddings.
        results: One result per seed, protocol and regime.
        embeddings: How the training people's embeddings are spread (of the first seed); None where there are none.
        notes: What the scores suffer from and no encoder can help, in words.
        trainings: Run folders, relative to the report's, where each seed has a training of its own; else empty.
    """

    model_config = ConfigDict(frozen=True)

    data: str
    classes: list[str]
    train_people: list[str]
    test_people: list[str]
    dim: int
    results: list[ProbeResult]
    embeddings: EmbeddingSpread | None = None
    notes: list[str] = []
    trainings: list[str] = []

    @property
    def regimes(self) -> list[str]:
        """The regimes, in the order in which they were asked for."""
        return list(dict.fromkeys(result.regime for result in self.results))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in the order in which they were asked for."""
        return list(dict.fromkeys(result.seed for result in self.results))

    @property
    def protocols(self) -> list[str]:
        """The protocols, in the order in which they were asked for."""
        return list(dict.fromkeys(result.protocol for result in self.results))

    def shown_as(self, protocol: str) -> str | None:
        """Return whose results stand in a table of ``protocol``: its own, or those of a supervised baseline."""
        if protocol in self.protocols:
            return protocol
        return SUPERVISED if self.protocols == [SUPERVISED] else None

    def of(self, regime: str, protocol: str = "linear") -> list[ProbeResult]:
        """The results of one regime and protocol, one per seed."""
        return [result for result in self.results if (result.regime, result.protocol) == (regime, protocol)]

    def summary(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """Mean and population standard deviation (divisor: number of seeds) over the seeds.

        Returns:
            ``summary[protocol][regime]["accuracy" or "macro_f1"]["mean" or "std"]``, fractions.
        """
        return {
            protocol: {
                regime: {
                    score: mean_std([getattr(result, score) for result in self.of(regime, protocol)])
                    for score in ("accuracy", "macro_f1")
                }
                for regime in self.regimes
            }
            for protocol in self.protocols
        }

    def person_accuracy(self, regime: str, protocol: str = "linear") -> dict[str, float]:
        """Accuracy of each test person, mean over the seeds."""
        rows = self.of(regime, protocol)
        return {person: sum(row.per_person[person] for row in rows) / len(rows) for person in self.test_people}

    def worst_person(self, regime: str, protocol: str = "linear") -> tuple[str, float]:
        """The test person of the lowest accuracy, mean over the seeds, and that accuracy."""
        return min(self.person_accuracy(regime, protocol).items(), key=lambda item: item[1])

    def to_json(self) -> str:
        """Return the report and its summary as JSON."""
        return json.dumps(self.model_dump(mode="json") | {"summary": self.summary()}) + "\n"


def judge(
    test: Windows,
    predicted: NDArray[np.int64],
    *,
    protocol: str,
    regime: str,
    seed: int,
    labels: int,
    choices: Mapping[str, float],
) -> ProbeResult:
    """Score predicted labels (N,) of test windows, which are all labelled; the rest is passed on into the result."""
    right = predicted == test.y
    people, places = numbered(test.person)
    per_person = {person: float(right[places == place].mean()) for place, person in enumerate(people)}
    return ProbeResult.model_validate(
        {
            "protocol": protocol,
            "regime": regime,
            "seed": seed,
            "labels": labels,
            **choices,
            "accuracy": float(right.mean()),
            "macro_f1": float(
                f1_score(test.y, predicted, labels=np.unique(test.y), average="macro", zero_division=0),
            ),
            "confusion": confusion_matrix(test.y, predicted, labels=range(len(test.meta.classes))).tolist(),
            "per_person": per_person,
            "worst_person": min(per_person, key=per_person.__getitem__),
        }
    )


def unseen_classes(train: Windows, test: Windows) -> list[str]:
    """Say of each class that no training window is labelled with how many test windows can only be wrong."""
    classes, counts = np.unique(test.y[test.labelled & ~np.isin(test.y, train.y)], return_counts=True)
    return [
        f"{test.meta.classes[k]} has no labelled training window: its {count} test windows count as wrong"
        for k, count in zip(classes, counts, strict=True)
    ]


def mean_std(scores: Sequence[float]) -> dict[str, float]:
    """Return the mean and the population standard deviation as ``{"mean": ..., "std": ...}``."""
    return {"mean": float(np.mean(scores)), "std": float(np.std(scores))}
