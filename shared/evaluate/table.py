"""Reports side by side, for the terminal. Tables show percent; differences are percentage points."""

from collections.abc import Mapping, Sequence
from itertools import chain
from textwrap import fill

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from shared.errors import UserError
from shared.evaluate.comparison import CONFIDENCE, paired_difference
from shared.evaluate.report import SUPERVISED, ProbeReport

TITLES = {
    "linear": "Linear probe",
    "knn": "Nearest neighbours",
    "finetune": "Fine-tuned network",
    SUPERVISED: "Supervised network",
    "head": "Head with a hidden layer",
}
"""What a protocol is called above its table."""

NAME_WIDTH = 24
"""Longer names of encoders take several lines of a table, to leave room for the numbers."""


def print_table(reports: Mapping[str, ProbeReport], console: Console | None = None) -> None:
    """Print a table for each protocol: accuracy by regime, then macro-F1 and the worst person, one row a report.

    The last two are of regime "all", or of the last regime that all reports have. A second table, where there are
    several reports of the same people, compares each with the first. A supervised baseline stands in every table. The
    reports' notes follow.

    Args:
        reports: Reports by the name of their row.
        console: Where to print; standard output if None.

    Raises:
        UserError: Reports that have no regime in common.
    """
    if not reports:
        return
    console = console or Console()
    trained = [report.protocols for report in reports.values() if report.protocols != [SUPERVISED]]
    for protocol in dict.fromkeys(chain(*trained)) or [SUPERVISED]:
        rows = {name: report for name, report in reports.items() if report.shown_as(protocol)}
        regimes = list(dict.fromkeys(regime for report in rows.values() for regime in report.regimes))
        common = [regime for regime in regimes if all(regime in report.regimes for report in rows.values())]
        if not common:
            raise UserError(f"the reports of {', '.join(rows)} have no label regime in common")
        console.print(_scores(rows, protocol, regimes, "all" if "all" in common else common[-1]))
        first = next(iter(rows.values()))
        same = {
            name: row for name, row in rows.items() if (row.data, row.test_people) == (first.data, first.test_people)
        }
        if len(same) > 1:
            console.print(_differences(same, protocol, common))
    for note in dict.fromkeys(chain(*(report.notes for report in reports.values()))):
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def _scores(reports: Mapping[str, ProbeReport], protocol: str, regimes: Sequence[str], last: str) -> Table:
    """Return the accuracy of each report, with macro-F1 and the worst person of regime ``last``."""
    table = _table(
        f"{TITLES[protocol]}: test accuracy in % by labels per person and class ({_described(reports)})",
        f"macro-F1 and the person of the lowest accuracy are of regime {last!r}",
        [*regimes, "F1"],
    )
    table.add_column("worst\nperson", justify="right", no_wrap=True)
    for name, report in reports.items():
        shown = report.shown_as(protocol) or protocol
        scores = report.summary()[shown]
        person, accuracy = report.worst_person(last, shown)
        table.add_row(
            escape(fill(name, NAME_WIDTH)),
            *(_percent(report, scores[r]["accuracy"]) if r in scores else "" for r in regimes),
            _percent(report, scores[last]["macro_f1"]),
            f"{escape(person)}: {100 * accuracy:.1f}",
        )
    return table


def _differences(reports: Mapping[str, ProbeReport], protocol: str, regimes: Sequence[str]) -> Table:
    """Return how each report differs from the first, person by person."""
    (reference, first), *others = reports.items()
    table = _table(
        f"Difference to {escape(reference)} in percentage points",
        f"mean over test people, each counting once, and its {100 * CONFIDENCE:.0f} % bootstrap interval",
        regimes,
    )
    for name, report in others:
        table.add_row(
            escape(fill(name, NAME_WIDTH)),
            *(_points(paired_difference(report, first, regime, protocol)) for regime in regimes),
        )
    return table


def _table(title: str, caption: str, headings: Sequence[str]) -> Table:
    """Return an empty table of encoders with a column of numbers for each heading."""
    table = Table(
        Column("encoder", no_wrap=True), title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _points(interval: tuple[float, float, float]) -> str:
    """Return a mean, and on two more lines what it lies between."""
    return "\n".join(f"{100 * value:+.1f}" for value in interval)


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
