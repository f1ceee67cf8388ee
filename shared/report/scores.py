"""Probe reports as tables: which encoder, how many labels, how often right. Scores are in percent here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from shared.evaluate import ProbeResult, bootstrap_mean
from shared.report.reading import Run

MAIN = "linear"
"""The protocol that encoders are compared by; one that was judged otherwise only is compared by what it has."""

PROTOCOLS = {
    "linear": "linear probe",
    "knn": "nearest neighbours",
    "finetune": "fine-tuned network",
    "supervised": "supervised from scratch",
    "head": "head with a hidden layer",
}
"""Protocols in plain words; any other one is called by its name."""


@dataclass(frozen=True)
class Score:
    """Mean and population standard deviation (percent) over the seeds, and the labelled windows used."""

    mean: float
    std: float
    labels: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.1f}"


@dataclass(frozen=True)
class Entry:
    """One encoder judged by one protocol."""

    run: Run
    protocol: str
    results: list[ProbeResult]

    @property
    def name(self) -> str:
        """The run's name, and the protocol where it is not the main one."""
        return self.run.name if self.protocol == MAIN else f"{self.run.name} ({protocol_words(self.protocol)})"

    @property
    def regimes(self) -> list[str]:
        """Its label regimes, fewest labels first."""
        return in_order({result.regime: result.labels for result in self.results})

    def of(self, regime: str) -> list[ProbeResult]:
        """Its probes of a regime, one per seed."""
        return [result for result in self.results if result.regime == regime]

    def score(self, regime: str, field: str = "accuracy") -> Score:
        """Its score in a regime; ``field`` is "accuracy" or "macro_f1"."""
        rows = self.of(regime)
        values = [100 * getattr(row, field) for row in rows]
        labels = float(np.mean([row.labels for row in rows]))
        return Score(float(np.mean(values)), float(np.std(values)), labels, len(rows))

    def per_person(self, regime: str) -> dict[str, float]:
        """Accuracy of each test person in percent, mean over the seeds."""
        rows = self.of(regime)
        return {p: 100 * float(np.mean([row.per_person[p] for row in rows])) for p in rows[0].per_person}

    def confusion(self, regime: str) -> NDArray[np.int64]:
        """Windows by (true class, predicted class), summed over the seeds."""
        matrix: NDArray[np.int64] = np.sum([row.confusion for row in self.of(regime)], axis=0)
        return matrix


@dataclass(frozen=True)
class Group:
    """Entries that are compared with each other: the main table, then one for each further protocol."""

    title: str
    entries: list[Entry]

    @property
    def regimes(self) -> list[str]:
        """All label regimes of the group, fewest labels first."""
        return in_order({r: entry.score(r).labels for entry in self.entries for r in entry.regimes})

    @property
    def last(self) -> str:
        """The regime of most labels among those that all entries have; if they share none, of all."""
        common = [regime for regime in self.regimes if all(regime in entry.regimes for entry in self.entries)]
        return (common or self.regimes)[-1]

    @property
    def first(self) -> str:
        """The regime of fewest labels among those that all entries have; if they share none, of all."""
        common = [regime for regime in self.regimes if all(regime in entry.regimes for entry in self.entries)]
        return (common or self.regimes)[0]

    def best(self, regime: str) -> Entry:
        """The entry of the highest mean accuracy in a regime that somebody has."""
        return max(
            (entry for entry in self.entries if regime in entry.regimes), key=lambda entry: entry.score(regime).mean
        )

    def is_best(self, entry: Entry, regime: str) -> bool:
        """Whether nobody is shown with a higher number."""
        return str(entry.score(regime)) == str(self.best(regime).score(regime))


@dataclass(frozen=True)
class Comparison:
    """How entries of a group differ from its strongest one, in percentage points, person by person.

    Args:
        reference: The entry of the highest mean accuracy with the most labels.
        regimes: Regimes that all entries have.
        rows: For each other entry and regime: mean over the test people, and the interval around it.
    """

    reference: Entry
    regimes: list[str]
    rows: list[tuple[Entry, list[tuple[float, float, float]]]]


def compare(group: Group) -> Comparison:
    """Compare the entries of a group that were judged on the same people."""
    reference = group.best(group.last)
    regimes = [regime for regime in group.regimes if all(regime in entry.regimes for entry in group.entries)]
    people = reference.per_person(group.last).keys()
    rows = [
        (entry, [_difference(entry, reference, regime) for regime in regimes])
        for entry in group.entries
        if entry is not reference and regimes and entry.per_person(regimes[-1]).keys() == people
    ]
    return Comparison(reference, regimes, rows)


def _difference(entry: Entry, reference: Entry, regime: str) -> tuple[float, float, float]:
    theirs = reference.per_person(regime)
    return bootstrap_mean({person: score - theirs[person] for person, score in entry.per_person(regime).items()})


def group(runs: Sequence[Run]) -> list[Group]:
    """Sort what was judged into groups; empty if nothing was."""
    entries = [
        Entry(run, protocol, [result for result in run.probe.results if result.protocol == protocol])
        for run in runs
        if run.probe is not None
        for protocol in dict.fromkeys(result.protocol for result in run.probe.results)
    ]
    main = [_main([e for e in entries if e.run is run]) for run in runs if any(e.run is run for e in entries)]
    others = [entry for entry in entries if entry not in main]
    protocols = dict.fromkeys(entry.protocol for entry in others)
    title = protocol_words(MAIN) if any(e.protocol == MAIN for e in main) else "all encoders"
    groups = [Group(title, main)] if main else []
    return groups + [Group(protocol_words(p), [e for e in others if e.protocol == p]) for p in protocols]


def answer(groups: Sequence[Group]) -> list[Markup]:
    """Say in a few sentences what the main table shows."""
    if not groups:
        return [Markup("None of these encoders has been judged yet.")]
    main = groups[0]
    top, few = main.best(main.last), main.best(main.first)
    said = [
        Markup("With {}, <strong>{}</strong> is right in <strong>{}\u202f%</strong> of the windows of people "
               "it never saw.").format(labels_words(main.last), top.name, top.score(main.last))
    ]  # fmt: skip
    if main.first != main.last:
        who = "it" if few is top else few.name
        said.append(
            Markup("With {}, {} is best at <strong>{}\u202f%</strong>.").format(
                labels_words(main.first), who, few.score(main.first)
            )
        )
    return said + _federation_gap(main) + _baseline_gap(main) + _caution(main)


def labels_words(regime: str) -> str:
    """A label regime in plain words."""
    if regime == "all":
        return "all labels"
    if regime.endswith("%"):
        return f"{regime[:-1]}\u202f% of the labels"
    return f"{regime} label{'' if regime == '1' else 's'} per person and activity"


def protocol_words(protocol: str) -> str:
    """A protocol in plain words."""
    return PROTOCOLS.get(protocol, protocol)


def class_words(name: str) -> str:
    """A class name without capitals and underscores, as it reads best beside a figure."""
    return re.sub(r"[_\s]+", " ", name).strip().lower()


def in_order(labels: dict[str, float]) -> list[str]:
    """Regimes by the number of labelled windows, "all" last."""
    return sorted(labels, key=lambda regime: (regime == "all", labels[regime]))


def _main(entries: Sequence[Entry]) -> Entry:
    return next((entry for entry in entries if entry.protocol == MAIN), entries[0])


def _best_of(main: Group, kind: str) -> Entry | None:
    entries = [entry for entry in main.entries if entry.run.kind == kind and main.last in entry.regimes]
    return Group(main.title, entries).best(main.last) if entries else None


def _federation_gap(main: Group) -> list[Markup]:
    federated, pooled = _best_of(main, "federated"), _best_of(main, "centralized")
    if federated is None or pooled is None:
        return []
    gap = federated.score(main.last).mean - pooled.score(main.last).mean
    relation = "is level with" if abs(gap) < 0.05 else f"is {abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
    return [
        Markup("{}, trained without windows leaving their devices, {} {}, trained on everybody's windows in one place.")
        .format(federated.name, relation, pooled.name)
    ]  # fmt: skip


def _baseline_gap(main: Group) -> list[Markup]:
    baseline = _best_of(main, "baseline")
    trained = [best for kind in ("federated", "centralized") if (best := _best_of(main, kind))]
    if baseline is None or not trained:
        return []
    return [Markup("The strongest baseline, {}, reaches {}\u202f%.").format(baseline.name, baseline.score(main.last))]


def _caution(main: Group) -> list[Markup]:
    judges = {tuple(entry.run.probe.test_people) for entry in main.entries if entry.run.probe is not None}
    if len(judges) == 1:
        return []
    return [Markup("Careful: these encoders were judged on different people, so their numbers cannot be compared.")]
