"""What an encoder is worth on data sets that it was not trained on: ``python -m benchmarks.transfer``.

Pre-trains one encoder on each data set, on all together, and on all but each, federated with everybody as a client and
centralized; and judges each on the test people of every data set, beside expert features and networks that were not
pre-trained. What is done already is not done again: a benchmark that was stopped goes on.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.series import (
    ONE_THREAD,
    REGIMES,
    ROOT,
    WAYS,
    Candidate,
    Judging,
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
from shared.config import Config, load_config
from shared.data import DATASETS
from shared.errors import UserError, choose, run_command
from shared.evaluate import ProbeReport, paired_difference
from shared.files import write_atomic
from shared.runs import runs_root
from shared.settings import Way

SETS = ("uci_har", "motionsense", "dsads", "watch")
PROTOCOLS = ("linear", "knn")
SUPERVISED = "supervised"

Reports = dict[tuple[str, str], ProbeReport]
"""The reports of one data set's test people: by what an encoder was pre-trained on and in which way; baselines in no
way ("")."""


@dataclass(frozen=True)
class Pretraining:
    """Data sets that an encoder is pre-trained on, and what to call them."""

    name: str
    sets: tuple[str, ...]


def main(arguments: list[str]) -> None:
    """Train and judge the encoders, print the tables, and write them with their figure.

    Raises:
        UserError: Data sets that cannot be compared so, an encoder that cannot take any sensors, or trainings that
            failed; says which.
    """
    options = _parser().parse_intermixed_args(arguments)
    _check(options)
    overrides = [*ONE_THREAD, "federation.min_clients=1", *options.overrides]  # nobody of one's own machine is late
    config = load_config(options.config, overrides)
    if not config.any_sensors:
        raise UserError(
            f"data sets have different sensors, and encoder {config.encoder.name!r} takes those that it was built for: "
            "set encoder.name=sensors"
        )
    console = Console()
    series = {
        (one.name, way): Series(options.config, (*overrides, *_data(config, one.sets, one.name)), way)
        for one, way in product(pretrainings(options.sets), options.ways)
    }
    do(
        "training",
        [one.training(seed) for one in series.values() for seed in range(options.seeds)],
        options.jobs,
        console,
    )
    judging = Judging(tuple(name for name in options.protocols if name != SUPERVISED), options.seeds)
    jobs, places = [], dict[str, dict[tuple[str, str], Candidate]]()
    for target in options.sets:
        data = _data(config, (target,), f"on-{target}")
        on = load_config(options.config, [*overrides, *data])
        out = runs_root() / on.name
        arguments = ["--config", str(options.config.resolve()), "--out", str(out), *options.overrides, *data]
        judged = {(name, ""): baseline(on, name, judging, out) for name in ("features", "random")}
        judged |= {key: one.candidate(judging, out) for key, one in series.items()}
        jobs.append(judgement(on.name, list(judged.values()), judging, arguments))
        if SUPERVISED in options.protocols:
            by = Judging((SUPERVISED,), options.seeds)
            judged[SUPERVISED, ""] = baseline(on, SUPERVISED, by, out)
            jobs.append(judgement(f"{on.name}, {SUPERVISED}", [judged[SUPERVISED, ""]], by, arguments))
        places[target] = judged
    do("judging", jobs, options.jobs, console)
    reports = {target: {key: read_report(one.report) for key, one in found.items()} for target, found in places.items()}
    text = "\n\n".join([*(_table(target, found) for target, found in reports.items()), _unseen(reports, options.ways)])
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out / "transfer.md", text + "\n")
    write_atomic(options.out / "transfer.svg", _chart(reports))
    console.print(f"wrote {options.out / 'transfer.md'} and transfer.svg", highlight=False, soft_wrap=True)


def pretrainings(sets: Sequence[str]) -> list[Pretraining]:
    """Return what encoders are pre-trained on: each data set, all together, and all but each.

    All but one of two data sets is the other one, and not trained twice.
    """
    found = [Pretraining(name, (name,)) for name in sets] + [Pretraining("all", tuple(sets))]
    if len(sets) > 2:
        found += [Pretraining(unseen(name), tuple(other for other in sets if other != name)) for name in sets]
    return found


def unseen(target: str) -> str:
    """Return the name of the pre-training that leaves a data set out."""
    return f"all-but-{target}"


def _check(options: argparse.Namespace) -> None:
    for name in options.sets:
        choose("data set", DATASETS, name)
    if len(options.sets) < 2 or len(set(options.sets)) < len(options.sets):
        raise UserError(f"--sets must name two data sets or more, each once; found {' '.join(options.sets)}")
    if min(options.seeds, options.jobs) < 1:
        raise UserError("--seeds and --jobs must be at least 1")
    if "linear" not in options.protocols:
        raise UserError("--protocols must name linear: it judges what was not seen, and the figure shows it")


def _data(config: Config, sets: Sequence[str], name: str) -> list[str]:
    """Return overrides for runs of some data sets, with a name of their own; those held out are called ``watch/3``."""
    strangers = [person for person in config.data.holdout if person.partition("/")[0] not in DATASETS]
    if strangers:
        raise UserError(f"data.holdout: expected people of data sets, as watch/3; found {', '.join(strangers)}")
    held = [person for person in config.data.holdout if person.partition("/")[0] in sets]
    if len(sets) == 1:
        held = [person.partition("/")[2] for person in held]
    path = config.data.path if "folder" in sets else None
    return [
        f"name={config.name}-{name}",
        f"data.name={sets[0]}",
        f"data.sets=[{', '.join(sets if len(sets) > 1 else ())}]",
        f"data.path={'null' if path is None else path}",
        f"data.holdout=[{', '.join(repr(person) for person in held)}]",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transfer",
        description="Pre-train one encoder on each data set, on all, and on all but each, and judge it on every one. "
        "What is done already is not done again.",
        epilog="example: python -m benchmarks.transfer --sets uci_har watch --seeds 1 federation.rounds=3",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as centralized.epochs=3")
    parser.add_argument(
        "--config",
        type=Path,
        default=ROOT / "configs" / "transfer.yaml",
        help="YAML file (default: configs/transfer.yaml)",
    )
    parser.add_argument(
        "--sets",
        nargs="+",
        default=list(SETS),
        metavar="NAME",
        help="data sets; several together have the rate of the first of them (default: %(default)s)",
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: both")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (default: %(default)s)")
    parser.add_argument(
        "--protocols",
        nargs="+",
        choices=(*PROTOCOLS, SUPERVISED),
        default=list(PROTOCOLS),
        help=f"{SUPERVISED}: also the same network trained from scratch, which takes long (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side (default: one a core)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks", metavar="FOLDER", help="for transfer.md and transfer.svg"
    )
    return parser


def _table(target: str, reports: Reports) -> str:
    """Return what each encoder reaches on the test people of a data set, as Markdown."""
    rows = {key: scores_of(report) for key, report in reports.items()}
    measured = list(dict.fromkeys(key for scores in rows.values() for key in scores))
    lines = [["pre-trained on", "trained", *(f"{protocol}, {regime}" for protocol, regime in measured)]]
    for (name, way), scores in sorted(rows.items(), key=lambda row: bool(row[0][1])):
        lines.append([_words(name, target), way, *(percent(scores.get(key)) for key in measured)])
    report = next(iter(reports.values()))
    return f"### {target}: {len(report.test_people)} test people\n\n{as_table(lines)}"


def _words(name: str, target: str) -> str:
    return {target: f"{name} (in domain)", unseen(target): f"{name} (unseen)"}.get(name, name)


def _unseen(reports: Mapping[str, Reports], ways: Sequence[Way]) -> str:
    """Return what encoders that never saw a data set gain on it, in percentage points, as Markdown.

    Each cell is the mean over the test people, each counting once, and its 95 % bootstrap interval. Of two data sets,
    the best single other one is what has not seen the data set.
    """
    lines = [["unseen", "trained", "labels", "random", "best single other", "in domain", "features"]]
    for (target, found), way, regime in product(reports.items(), ways, REGIMES):
        others = [name for name in reports if name != target]
        best = max(others, key=lambda name: scores_of(found[name, way])["linear", regime][0])
        own = found.get((unseen(target), way), found[best, way])
        beside = (found["random", ""], found[best, way], found[target, way], found["features", ""])
        lines.append([target, way, regime, *(_points(own, other, regime) for other in beside)])
    words = "Linear probe of the encoder that never saw the data set, less that of others, in points (95 % interval)"
    return f"### What was not seen\n\n{words}:\n\n{as_table(lines)}"


def _points(first: ProbeReport, second: ProbeReport, regime: str) -> str:
    if first is second:
        return ""
    mean, low, high = (100 * value for value in paired_difference(first, second, regime))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def _chart(reports: Mapping[str, Reports]) -> str:
    """Draw the linear probe's accuracy on each data set, a row for what was pre-trained on, as SVG."""
    figure = Figure((9.0, 2.6 * len(reports)), layout="constrained")
    grid = figure.subplots(len(reports), len(REGIMES), squeeze=False, sharey="row")
    for row, (target, found) in enumerate(reports.items()):
        for axes, regime in zip(grid[row], REGIMES, strict=True):
            scores = {key: scores_of(report) for key, report in found.items()}
            shown = {key: one["linear", regime] for key, one in scores.items() if ("linear", regime) in one}
            trained = {(_words(name, target), way): score for (name, way), score in shown.items() if way}
            names = list(dict.fromkeys(name for name, _ in trained))[::-1]
            draw_scores(axes, names, trained, {name: score for (name, way), score in shown.items() if not way})
            axes.set(title=f"{target}, {regime} label{'s' * (regime != '1')}", xlabel="accuracy of a linear probe, %")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return as_svg(figure)


if __name__ == "__main__":
    run_command(main)
