"""Judge encoders by what a linear probe, or another protocol, gets out of them.

``python -m centralized_baseline.probe`` stores each encoder's report as ``probe.json`` and shows all of them side by
side, each with its difference to the first.
"""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.checkpoint import load_encoder, read_card
from shared.config import Config, add_method_option, differences, load_config
from shared.cpu import keep_memory
from shared.data import load
from shared.data.windows import Windows
from shared.encoders import Encoder
from shared.errors import UserError, nearest, run_command
from shared.evaluate import (
    BASELINES,
    PROTOCOLS,
    REGIMES,
    ProbeReport,
    Representation,
    applicable,
    encoded,
    encoded_by_seed,
    estimate_norm_statistics,
    print_table,
    probe,
    with_turned_copies,
)
from shared.files import write_atomic
from shared.runs import EXCHANGE, runs_root
from shared.settings import Way

REPORT = "probe.json"
SEED = "{seed}"
"""Stands for the number of the seed in the name of run folders: one configuration, trained once for each."""

Split = tuple[Windows, Windows]


@dataclass(frozen=True)
class Candidate:
    """An encoder to probe: its name on the command line, its run folders and its configuration.

    A baseline has no run folder; a series, which is one configuration trained once for each seed, has one a seed.
    """

    name: str
    runs: tuple[Path, ...]
    config: Config

    @property
    def series(self) -> bool:
        """Whether each seed has a training of its own."""
        return SEED in self.name


def main(arguments: list[str]) -> None:
    """Probe the encoders that the command line names, store their reports and print them as tables.

    Raises:
        UserError: An encoder that is not there or does not fit its data, or a bad configuration, regime or protocol.
    """
    overrides = [argument for argument in arguments if re.match(r"[A-Za-z_][\w.]*=", argument)]
    options = _parser().parse_args([argument for argument in arguments if argument not in overrides])
    if options.seeds < 1:
        raise UserError(f"--seeds must be at least 1, found {options.seeds}")
    if options.method is not None and not set(options.encoder) & set(BASELINES):
        raise UserError(f"--method {options.method} is for baselines; a run folder has a method of its own")
    keep_memory()
    candidates = [_find(name, options, overrides) for name in dict.fromkeys(options.encoder)]
    splits = {data: load(data) for data in {candidate.config.data for candidate in candidates}}
    prepared = [(candidate, *_represent(candidate, splits[candidate.config.data])) for candidate in candidates]
    paths = {candidate.name: _report_path(candidate, options.out) for candidate in candidates}
    if len(set(paths.values())) < len(paths):
        raise UserError(f"reports of different encoders would overwrite each other: {', '.join(paths)}")
    console, reports = Console(), dict[str, ProbeReport]()
    for candidate, representation, _ in prepared:
        _tell_left_out(candidate, representation, options.protocols, console)
    for candidate, representation, split in prepared:
        report = _probe(candidate, representation, split, options, console)
        path = paths[candidate.name]
        if candidate.series:
            trainings = [os.path.relpath(run, path.parent) for run in candidate.runs]
            report = report.model_copy(update={"trainings": trainings})
        write_atomic(path, report.to_json())
        console.print(f"{candidate.name}: wrote {path}", highlight=False, markup=False, soft_wrap=True)
        reports[candidate.name] = report
    print_table(reports, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m centralized_baseline.probe",
        usage="%(prog)s --encoder X [X ...] [--config FILE] [--method NAME] [key=value ...] [--seeds N] "
        "[--regimes R [R ...]] [--protocols P [P ...]] [--out FOLDER]",
        description="Judge encoders with few and many labels on people who were never trained on, by linear probes on "
        "frozen embeddings or by other protocols. key=value lays over the configuration, as in "
        "data.path=uci-har.zip.",
    )
    parser.add_argument(
        "--encoder",
        nargs="+",
        required=True,
        metavar="X",
        help=f"run folders, or baselines without training: {', '.join(BASELINES)}; {SEED} in the name of a run folder "
        "stands for 0, 1, ...: trainings that differ by their seed, one for each draw of labels",
    )
    parser.add_argument("--config", type=Path, help="configuration of the baselines; a run folder has one of its own")
    add_method_option(parser)
    parser.add_argument("--seeds", type=int, default=5, help="draws of labels (default: %(default)s)")
    parser.add_argument(
        "--regimes",
        nargs="+",
        default=REGIMES,
        metavar="R",
        help=f"labels per person and class, a percentage of all labels, or all (default: {' '.join(REGIMES)})",
    )
    parser.add_argument(
        "--protocols",
        nargs="+",
        default=["linear"],
        metavar="P",
        help=f"{', '.join(PROTOCOLS)} (default: linear)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"write FOLDER/NAME/{REPORT} (default: into the run folder; for a baseline, among the runs; "
        "for trainings that differ by their seed, beside them, called NAME-seeds)",
    )
    return parser


def _find(name: str, options: argparse.Namespace, overrides: Sequence[str]) -> Candidate:
    """Return what ``--encoder name`` stands for."""
    if name in BASELINES:
        if options.config is None:
            raise UserError(f"encoder {name!r} needs --config FILE, which names its data")
        return Candidate(name, (), load_config(options.config, overrides, options.method))
    if SEED in name:
        return _find_series(name, options.seeds, overrides)
    run = Path(name).expanduser()
    if not run.is_dir():
        raise UserError(
            f"unknown encoder {name!r}{nearest(name, BASELINES)}; expected a run folder or one of: "
            f"{', '.join(BASELINES)}"
        )
    return Candidate(name, (run.resolve(),), load_config(run / "config.yaml", overrides))


def _find_series(name: str, seeds: int, overrides: Sequence[str]) -> Candidate:
    """Return one configuration's trainings, after checking that they differ by their seeds and by nothing else."""
    pattern = Path(name).expanduser().resolve()
    if SEED not in pattern.name:
        raise UserError(f"{SEED} must be in the last part of a path, found {name!r}")
    runs = tuple(pattern.with_name(pattern.name.replace(SEED, str(seed))) for seed in range(seeds))
    if missing := [run.name for run in runs if not run.is_dir()]:
        raise UserError(
            f"encoder {name!r} stands for {seeds} run folders, one for each of --seeds {seeds}; found none called "
            f"{', '.join(missing)}"
        )
    stored = {run: load_config(run / "config.yaml") for run in runs}
    first, *others = runs
    way = _way_of(first)
    for number, run in enumerate(others, 1):
        if _way_of(run) != way:
            raise UserError(f"{first} and {run} must be trained alike; found one federated and one centralized")
        unseeded = stored[run].model_copy(update={"seed": stored[first].seed})
        if changed := differences(stored[first], unseeded, way):
            raise UserError(f"{first} and {run} must differ by their seeds alone; found {'; '.join(changed)}")
        if same := [other for other in runs[:number] if stored[other].seed == stored[run].seed]:
            raise UserError(f"{same[0]} and {run} must differ by their seeds; found {stored[run].seed} in both")
    return Candidate(name, runs, load_config(first / "config.yaml", overrides))


def _way_of(run: Path) -> Way:
    return "federated" if (run / EXCHANGE).is_file() else "centralized"


def _report_path(candidate: Candidate, out: Path | None) -> Path:
    """Return where the report belongs: in the run's folder, or for a series and a baseline in a folder of its own."""
    if candidate.runs:
        folder = Path(candidate.name.replace(SEED, "seeds")).expanduser().resolve()
    else:
        folder = runs_root() / f"{candidate.config.name}-{candidate.name}"
    path = (out / folder.name if out else folder) / REPORT
    if candidate.series and path.with_name("config.yaml").exists():
        raise UserError(f"the report of {candidate.name!r} would be {path}, in the folder of another run; rename that")
    return path


def _represent(candidate: Candidate, split: Split) -> tuple[Representation, Split]:
    """Return the candidate's embeddings-to-be of the windows, and the windows as its encoder takes them."""
    copies = candidate.config.probe.turned_copies
    if not candidate.runs:
        split = (with_turned_copies(split[0], copies), split[1])
        return BASELINES[candidate.name](candidate.config.encoder, *split), split
    card = read_card(candidate.runs[0])  # those of the others take the same windows
    train, test = card.fit(split[0]), card.fit(split[1])
    encoders = [_load(run, train) for run in candidate.runs]
    train = with_turned_copies(train, copies)
    if candidate.series:
        return encoded_by_seed(encoders.__getitem__, train, test), (train, test)
    return encoded(encoders[0], train, test), (train, test)


def _load(run: Path, train: Windows) -> Encoder:
    """Return a run's encoder, ready for windows like these."""
    encoder, card = load_encoder(run, train.meta.spec)
    if card.norm_statistics == "missing":
        estimate_norm_statistics(encoder, train.x)
    return encoder


def _tell_left_out(
    candidate: Candidate, representation: Representation, protocols: Sequence[str], console: Console
) -> None:
    """Say which protocols do not apply to a candidate, and refuse where none does."""
    try:
        names = applicable(representation, protocols)
    except UserError as error:
        raise UserError(f"encoder {candidate.name!r}: {error}") from None
    if left_out := [name for name in protocols if name not in names]:
        console.print(
            f"{candidate.name}: {', '.join(left_out)} left out, judged by {', '.join(names)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _probe(
    candidate: Candidate,
    representation: Representation,
    split: Split,
    options: argparse.Namespace,
    console: Console,
) -> ProbeReport:
    """Probe one encoder behind a progress bar."""
    train, test = split
    steps = options.seeds * len(options.regimes) * len(applicable(representation, options.protocols))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(f"probing {escape(candidate.name)}", total=steps)
        return probe(
            representation,
            train,
            test,
            seeds=range(options.seeds),
            regimes=options.regimes,
            protocols=options.protocols,
            advance=lambda: progress.advance(bar),
            copies=candidate.config.probe.turned_copies,
        )


if __name__ == "__main__":
    run_command(main)
