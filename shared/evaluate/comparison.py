"""Is one report better than another, or did the test people happen to suit it?"""

from collections.abc import Mapping

import numpy as np

from shared.data.person import in_order
from shared.errors import UserError
from shared.evaluate.report import ProbeReport

RESAMPLES = 10_000
"""Bootstrap samples of the test people."""

CONFIDENCE = 0.95
"""Share of the bootstrap samples inside the interval."""


def paired_difference(
    a: ProbeReport, b: ProbeReport, regime: str, protocol: str = "linear"
) -> tuple[float, float, float]:
    """Return how much more accurate ``a`` is than ``b`` on the same test people: (mean, low, high), fractions.

    The mean is over people, each counting once, of the difference of their accuracies (mean over the seeds). See
    ``bootstrap_mean`` for the interval. A supervised baseline stands in for itself, whatever the protocol.

    Raises:
        UserError: Reports of other test people, or without that regime and protocol.
    """
    if (a.data, a.test_people) != (b.data, b.test_people):
        raise UserError(
            f"reports of {a.data}, people {a.test_people}, and {b.data}, people {b.test_people}, cannot be compared: "
            "expected the same test people"
        )
    scores = [_person_accuracy(report, regime, protocol) for report in (a, b)]
    return bootstrap_mean({person: score - scores[1][person] for person, score in scores[0].items()})


def bootstrap_mean(differences: Mapping[str, float]) -> tuple[float, float, float]:
    """Return the mean of one number a person and its 95 % percentile bootstrap interval: (mean, low, high).

    People are drawn with replacement (Efron 1979), always the same draws, so that equal input gives equal output.
    With few people the interval is somewhat too narrow.
    """
    values = np.array([differences[person] for person in in_order(differences)])
    rows = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(values.mean()), float(low), float(high)


def _person_accuracy(report: ProbeReport, regime: str, protocol: str) -> dict[str, float]:
    shown = report.shown_as(protocol)
    if shown is None or regime not in report.regimes:
        raise UserError(
            f"a report has no protocol {protocol!r} in regime {regime!r}; "
            f"found {', '.join(report.protocols)} in {', '.join(report.regimes)}"
        )
    return report.person_accuracy(regime, shown)
