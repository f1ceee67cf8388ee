"""The table of methods: ``python -m benchmarks.methods --config configs/uci_har.yaml``.

Trains every method of ``configs/methods`` centralized and federated, with one budget and several seeds, and judges all
of them alike, beside encoders that were never trained, expert features and networks trained from scratch. What is done
already, is not done again: a benchmark that was stopped goes on.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.series import (
    ONE_THREAD,
    ROOT,
    WAYS,
    Judging,
    Score,
    Series,
    as_svg,
    as_table,
    baseline,
    do,
    draw_scores,
    judgement,
    percent,
    read_report,
    scores_of,
)
from benchmarks.steps import step_times
from shared.config import METHODS, Config, load_config
from shared.data import IMAGE_SETS, training_people
from shared.errors import UserError, choose, run_command
from shared.evaluate import ProbeReport
from shared.files import write_atomic
from shared.runs import EXCHANGE

PROTOCOLS = ("linear", "knn", "finetune")
BASELINES = ("features", "random", "supervised")
"""What stands beside the methods."""


@dataclass(frozen=True)
class Judged:
    """A row of the table.

    Args:
        name: Of the method, or of the baseline.
        way: Of training; "" of a baseline.
        scores: Accuracy (mean, deviation) by protocol and regime.
        rank: Effective rank of the embeddings; None where there are none.
        dim: Their dimensions.
        sent: Bytes that a client sends up in a round; None where nothing is sent.
    """

    name: str
    way: str
    scores: Mapping[tuple[str, str], Score]
    rank: float | None
    dim: int
    sent: float | None


def main(arguments: list[str]) -> None:
    """Train and judge the methods, print the table, and write it with its figure.

    Raises:
        UserError: A method that is not there, or trainings that failed; says which.
    """
    options = _parser().parse_intermixed_args(arguments)
    for name in options.methods:
        choose("method", METHODS, name)
    if min(options.seeds, options.epochs, options.jobs) < 1:
        raise UserError("--seeds, --epochs and --jobs must be at least 1")
    budget = [
        f"centralized.epochs={options.epochs}",
        f"federation.rounds={options.epochs}",
        "federation.local_epochs=1",
        *ONE_THREAD,
        *options.overrides,
    ]
    configs = {name: load_config(options.config, budget, name) for name in options.methods}
    first = next(iter(configs.values()))
    least = min(len(training_people(first.data, first.any_sensors)), first.federation.min_clients)
    budget.append(f"federation.min_clients={least}")  # fewer where people are held out
    configs = {name: load_config(options.config, budget, name) for name in options.methods}
    console = Console()
    series = [Series(options.config, tuple(budget), way, name) for name, way in product(options.methods, options.ways)]
    do("training", [one.training(seed) for one in series for seed in range(options.seeds)], options.jobs, console)
    judging = Judging(tuple(options.protocols), options.seeds)
    judged = [(one, one.candidate(judging)) for one in series]
    jobs = [judgement(candidate.report.parent.name, [candidate], judging) for _, candidate in judged]
    beside = []
    for name, kind in _distinct_baselines(configs):
        if protocols := _protocols_of(kind, options.protocols):
            by = Judging(protocols, options.seeds)
            candidate = baseline(configs[name], kind, by)
            arguments = ["--config", str(options.config.resolve()), "--method", name, *budget]
            jobs.append(judgement(candidate.report.parent.name, [candidate], by, arguments))
            beside.append((_baseline_name(kind, configs[name]), candidate))
    do("judging", jobs, options.jobs, console)
    rows = [_row(one.method or "", one.way, read_report(found.report), _bytes_up(one)) for one, found in judged]
    rows += [_row(name, "", read_report(found.report), None) for name, found in beside]
    with console.status("timing steps"):
        times = step_times(configs)
    table = _table(rows, times)
    console.print(table, highlight=False, markup=False, soft_wrap=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out / "methods.md", table + "\n")
    write_atomic(options.out / "methods.svg", _chart(rows))
    console.print(f"wrote {options.out / 'methods.md'} and methods.svg", highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.methods",
        description="Train and judge all methods, centralized and federated, with one budget. What is done already is "
        "not done again.",
        epilog="example: python -m benchmarks.methods --config configs/demo.yaml --methods simclr byol --seeds 1",
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the data set")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as data.holdout=[1,2]")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME", help="default: all")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: both")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=12, help="epochs, and rounds of one local epoch (default: %(default)s)"
    )
    parser.add_argument(
        "--protocols",
        nargs="+",
        choices=PROTOCOLS,
        default=list(PROTOCOLS),
        help="default: all; finetune takes longest",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side (default: one a core)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks", metavar="FOLDER", help="for methods.md and methods.svg"
    )
    return parser


def _protocols_of(baseline: str, protocols: Sequence[str]) -> tuple[str, ...]:
    """Return how a baseline is judged; a network from scratch stands beside those that are fine-tuned."""
    if baseline == "supervised":
        return ("supervised",) if "finetune" in protocols else ()
    return tuple(name for name in protocols if name != "finetune")


def _distinct_baselines(configs: Mapping[str, Config]) -> Iterator[tuple[str, str]]:
    """Yield each baseline, once for each encoder that the methods have, with a method that has it."""
    seen = set()
    for name, config in configs.items():
        for kind in BASELINES:
            if kind == "features" and config.data.names[0] in IMAGE_SETS:
                continue
            key = (kind, None if kind == "features" else config.encoder)
            if key not in seen:
                seen.add(key)
                yield name, kind


def _baseline_name(baseline: str, config: Config) -> str:
    if baseline == "features":
        return baseline
    hidden = "" if config.encoder.hidden is None else f" with hidden={config.encoder.hidden}"
    return f"{baseline}, {config.encoder.name}{hidden}"


def _bytes_up(series: Series) -> float | None:
    """Return what a client sends up in a round; None where nothing is sent."""
    if series.way == "centralized":
        return None
    exchange: dict[str, Any] = json.loads((series.run(0) / EXCHANGE).read_text(encoding="utf-8"))
    arrays = [row for row in exchange["crossed_the_wire"] if row["direction"] == "up" and row["kind"] == "array"]
    return float(sum(row["bytes"] / row["times"] for row in arrays))


def _row(name: str, way: str, report: ProbeReport, sent: float | None) -> Judged:
    rank = report.embeddings.effective_rank if report.embeddings else None
    return Judged(name, way, scores_of(report), rank, report.dim, sent)


def _table(rows: Sequence[Judged], times: Mapping[str, float]) -> str:
    """Return the table as Markdown."""
    measured = list(dict.fromkeys(key for row in rows for key in row.scores))
    heading = ["method", "trained", *(f"{protocol}, {regime}" for protocol, regime in measured)]
    first = "simclr" if "simclr" in times else next(iter(times))
    reference = times[first]
    heading += ["effective rank", f"step / {first}", "kB up"]
    lines = [heading]
    for row in rows:
        scores = [percent(row.scores.get(key)) for key in measured]
        rank = f"{row.rank:.0f} of {row.dim}" if row.rank is not None else ""
        step = f"{times[row.name] / reference:.2f}" if row.name in times and row.way else ""
        lines.append([row.name, row.way, *scores, rank, step, f"{row.sent / 1e3:.0f}" if row.sent else ""])
    return as_table(lines)


def _chart(rows: Sequence[Judged]) -> str:
    """Draw the linear probe's accuracy with all labels, as SVG: a line a method, from federated to centralized."""
    shown = {(row.name, row.way): row.scores["linear", "all"] for row in rows if ("linear", "all") in row.scores}
    trained = {key: score for key, score in shown.items() if key[1]}
    best = {name: max(score for (other, _), score in trained.items() if other == name) for name, _ in trained}
    methods = sorted(best, key=lambda name: best[name][0])
    figure = Figure((7.5, 1.2 + 0.26 * len(methods)), layout="constrained")
    axes = figure.subplots()
    draw_scores(axes, methods, trained, {name: score for (name, way), score in shown.items() if not way})
    axes.set(xlabel="accuracy of a linear probe, all labels, %")
    axes.legend(loc="lower left")
    return as_svg(figure)


if __name__ == "__main__":
    run_command(main)
