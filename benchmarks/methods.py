"""The table of methods: ``python -m benchmarks.methods --config configs/uci_har.yaml``.

Trains every method of ``configs/methods`` centralized and federated, with one budget and several seeds, and judges all
of them alike, beside encoders that were never trained, expert features and networks trained from scratch. What is done
already, is not done again: a benchmark that was stopped goes on.
"""

import argparse
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.jobs import ROOT, Job, do_jobs, training
from benchmarks.steps import step_times
from shared.config import METHODS, Config, load_config
from shared.data import training_people
from shared.errors import UserError, choose, run_command
from shared.evaluate import ProbeReport
from shared.files import write_atomic
from shared.runs import EXCHANGE, runs_root
from shared.settings import Way

WAYS: tuple[Way, ...] = ("centralized", "federated")
PROTOCOLS = ("linear", "knn", "finetune")
REGIMES = ("1", "all")
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
    scores: Mapping[tuple[str, str], tuple[float, float]]
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
        "centralized.threads=1",
        "train.threads=1",
        *options.overrides,
    ]
    configs = {name: load_config(options.config, budget, name) for name in options.methods}
    people = len(training_people(next(iter(configs.values())).data).ids)
    least = min(people, next(iter(configs.values())).federation.min_clients)
    budget.append(f"federation.min_clients={least}")  # fewer where people are held out
    configs = {name: load_config(options.config, budget, name) for name in options.methods}
    console = Console()
    trainings = [
        _training(options.config, budget, name, way, seed)
        for name, way, seed in product(options.methods, options.ways, range(options.seeds))
    ]
    do_jobs("training", trainings, options.jobs, console)
    beside = [(n, b) for n, b in _distinct_baselines(configs) if _protocols_of(b, options.protocols)]
    judgements = [_judgement(configs[name], way, options) for name, way in product(options.methods, options.ways)]
    baselines = [_baseline(options, budget, name, configs[name], baseline) for name, baseline in beside]
    do_jobs("judging", judgements + baselines, options.jobs, console)
    rows = [
        _read(name, way, _series(configs[name], way), configs[name])
        for name, way in product(options.methods, options.ways)
    ]
    rows += [
        _read(_baseline_name(baseline, configs[name]), None, runs_root() / f"{configs[name].name}-{baseline}", None)
        for name, baseline in beside
    ]
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


def _training(path: Path, budget: Sequence[str], name: str, way: Way, seed: int) -> Job:
    overrides = [*budget, f"seed={seed}"]
    return training(path, overrides, name, way, _run(load_config(path, overrides, name), way, seed))


def _judgement(method: Config, way: Way, options: argparse.Namespace) -> Job:
    series = _series(method, way)
    pattern = str(_run(method, way, 0)).removesuffix("0") + "{seed}"
    command = ["centralized_baseline.probe", "--encoder", pattern, "--protocols", *options.protocols]
    runs = [_run(method, way, seed) for seed in range(options.seeds)]
    done = _is_judged(series, options.protocols, options.seeds, [run / "encoder.json" for run in runs])
    return Job(series.name, (*command, *_judging(options.seeds)), done)


def _baseline(options: argparse.Namespace, budget: Sequence[str], name: str, method: Config, baseline: str) -> Job:
    folder = runs_root() / f"{method.name}-{baseline}"
    protocols = _protocols_of(baseline, options.protocols)
    settings = folder / "settings.yaml"  # a baseline's report does not say with what it was made
    content = yaml.safe_dump([block.model_dump(mode="json") for block in (method.data, method.encoder)])
    if folder.is_dir() and (not settings.is_file() or settings.read_text(encoding="utf-8") != content):
        raise UserError(f"{folder} was made with other settings: set name=OTHER for runs of their own, or remove it")
    write_atomic(settings, content)
    command = ["centralized_baseline.probe", "--config", str(options.config.resolve()), "--method", name]
    command += ["--encoder", baseline, "--protocols", *protocols, *_judging(options.seeds), *budget]
    return Job(folder.name, tuple(command), _is_judged(folder, protocols, options.seeds, []))


def _protocols_of(baseline: str, protocols: Sequence[str]) -> list[str]:
    """Return how a baseline is judged; a network from scratch stands beside those that are fine-tuned."""
    if baseline == "supervised":
        return ["supervised"] if "finetune" in protocols else []
    return [name for name in protocols if name != "finetune"]


def _judging(seeds: int) -> list[str]:
    return ["--regimes", *REGIMES, "--seeds", str(seeds)]


def _distinct_baselines(configs: Mapping[str, Config]) -> Iterator[tuple[str, str]]:
    """Yield each baseline, once for each encoder that the methods have, with a method that has it."""
    seen = set()
    for name, config in configs.items():
        for baseline in BASELINES:
            key = (baseline, None if baseline == "features" else config.encoder)
            if key not in seen:
                seen.add(key)
                yield name, baseline


def _baseline_name(baseline: str, config: Config) -> str:
    if baseline == "features":
        return baseline
    hidden = "" if config.encoder.hidden is None else f" with hidden={config.encoder.hidden}"
    return f"{baseline}, {config.encoder.name}{hidden}"


def _run(config: Config, way: Way, seed: int) -> Path:
    return runs_root() / f"{config.name}-{way}-{seed}"


def _series(config: Config, way: Way) -> Path:
    return runs_root() / f"{config.name}-{way}-seeds"


def _is_judged(folder: Path, protocols: Sequence[str], seeds: int, judged: Sequence[Path]) -> bool:
    """Whether a report has all that is asked for, and is of what is there now."""
    path = folder / "probe.json"
    if not path.is_file() or any(one.is_file() and one.stat().st_mtime > path.stat().st_mtime for one in judged):
        return False
    results = ProbeReport.model_validate_json(path.read_bytes()).results
    # With all labels, what is not random is judged once.
    drawn = {(one.protocol, one.seed) for one in results if one.regime == REGIMES[0]}
    return set(product(protocols, range(seeds))) <= drawn


def _read(name: str, way: Way | None, folder: Path, config: Config | None) -> Judged:
    report = ProbeReport.model_validate_json((folder / "probe.json").read_bytes())
    scores = {
        (protocol, regime): (score["accuracy"]["mean"], score["accuracy"]["std"])
        for protocol, regimes in report.summary().items()
        for regime, score in regimes.items()
    }
    sent = None
    if config is not None and way == "federated":
        exchange: dict[str, Any] = json.loads((_run(config, way, 0) / EXCHANGE).read_text(encoding="utf-8"))
        arrays = [row for row in exchange["crossed_the_wire"] if row["direction"] == "up" and row["kind"] == "array"]
        sent = sum(row["bytes"] / row["times"] for row in arrays)
    rank = report.embeddings.effective_rank if report.embeddings else None
    return Judged(name, way or "", scores, rank, report.dim, sent)


def _table(rows: Sequence[Judged], times: Mapping[str, float]) -> str:
    """Return the table as Markdown."""
    measured = list(dict.fromkeys(key for row in rows for key in row.scores))
    heading = ["method", "trained", *(f"{protocol}, {regime}" for protocol, regime in measured)]
    first = "simclr" if "simclr" in times else next(iter(times))
    reference = times[first]
    heading += ["effective rank", f"step / {first}", "kB up"]
    lines = [heading, ["---"] * len(heading)]
    for row in rows:
        scores = [_percent(row.scores.get(key)) for key in measured]
        rank = f"{row.rank:.0f} of {row.dim}" if row.rank is not None else ""
        step = f"{times[row.name] / reference:.2f}" if row.name in times and row.way else ""
        lines.append([row.name, row.way, *scores, rank, step, f"{row.sent / 1e3:.0f}" if row.sent else ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(score: tuple[float, float] | None) -> str:
    return "" if score is None else f"{100 * score[0]:.1f} ± {100 * score[1]:.1f}"


def _chart(rows: Sequence[Judged]) -> str:
    """Draw the linear probe's accuracy with all labels, as SVG: a line a method, from federated to centralized."""
    shown = [row for row in rows if ("linear", "all") in row.scores]
    methods = list(dict.fromkeys(row.name for row in shown if row.way))
    best = {name: max(row.scores["linear", "all"][0] for row in shown if row.name == name) for name in methods}
    methods.sort(key=lambda name: best[name])
    figure = Figure((7.5, 1.2 + 0.26 * len(methods)), layout="constrained")
    axes = figure.subplots()
    for colour, way in enumerate(WAYS):
        own = [row for row in shown if row.way == way]
        mean, std = ([100 * row.scores["linear", "all"][part] for row in own] for part in range(2))
        places = [methods.index(row.name) for row in own]
        axes.errorbar(mean, places, xerr=std, fmt="o", ms=5, color=f"C{colour}", label=way, capsize=2)
    for style, row in zip(cycle(("--", ":", "-.", (0, (1, 4)))), [row for row in shown if not row.way], strict=False):
        axes.axvline(100 * row.scores["linear", "all"][0], color="0.4", ls=style, lw=1, label=row.name)
    axes.set(yticks=range(len(methods)), yticklabels=methods, xlabel="accuracy of a linear probe, all labels, %")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


if __name__ == "__main__":
    run_command(main)
