"""Judge encoders by what a linear probe, or another protocol, gets out of them.

``python -m centralized_baseline.probe`` stores each encoder's report as ``probe.json`` and shows all of them side by
side, each with its difference to the first.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.checkpoint import load_encoder
from shared.config import Config, load_config
from shared.data import DataSettings, load
from shared.data.windows import Windows
from shared.errors import UserError, nearest, run_command
from shared.evaluate import (
    BASELINES,
    PROTOCOLS,
    REGIMES,
    ProbeReport,
    Representation,
    applicable,
    encoded,
    estimate_norm_statistics,
    print_table,
    probe,
)
from shared.files import write_atomic
from shared.processor import keep_memory
from shared.runs import runs_root

REPORT = "probe.json"

Split = tuple[Windows, Windows]


@dataclass(frozen=True)
class Candidate:
    """An encoder to probe: what it was called, its run folder (None for a baseline) and its configuration."""

    name: str
    run: Path | None
    config: Config


def main(arguments: list[str]) -> None:
    """Probe the encoders that the command line names, store their reports and print them as tables.

    Raises:
        UserError: An encoder that is not there or does not fit its data, or a bad configuration, regime or protocol.
    """
    overrides = [argument for argument in arguments if re.match(r"[A-Za-z_][\w.]*=", argument)]
    options = _parser().parse_args([argument for argument in arguments if argument not in overrides])
    if options.seeds < 1:
        raise UserError(f"--seeds must be at least 1, found {options.seeds}")
    keep_memory()
    candidates = [_find(name, options.config, overrides) for name in dict.fromkeys(options.encoder)]
    splits = {data: load(data) for data in {candidate.config.data for candidate in candidates}}
    prepared = [(candidate, _represent(candidate, splits[candidate.config.data])) for candidate in candidates]
    paths = {candidate.name: _report_path(candidate, options.out) for candidate in candidates}
    if len(set(paths.values())) < len(paths):
        raise UserError(f"reports of different encoders would overwrite each other: {', '.join(paths)}")
    console, reports = Console(), dict[str, ProbeReport]()
    for candidate, representation in prepared:
        _tell_left_out(candidate, representation, options.protocols, console)
    for candidate, representation in prepared:
        report = _probe(candidate, representation, splits, options, console)
        write_atomic(paths[candidate.name], report.to_json())
        console.print(f"{candidate.name}: wrote {paths[candidate.name]}", highlight=False, markup=False, soft_wrap=True)
        reports[candidate.name] = report
    print_table(reports, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m centralized_baseline.probe",
        usage="%(prog)s --encoder X [X ...] [--config FILE] [key=value ...] [--seeds N] [--regimes R [R ...]] "
        "[--protocols P [P ...]] [--out FOLDER]",
        description="Judge encoders with few and many labels on people who were never trained on, by linear probes on "
        "frozen embeddings or by other protocols. key=value lays over the configuration, as in "
        "data.path=uci-har.zip.",
    )
    parser.add_argument(
        "--encoder",
        nargs="+",
        required=True,
        metavar="X",
        help=f"run folders, or baselines without training: {', '.join(BASELINES)}",
    )
    parser.add_argument("--config", type=Path, help="configuration of the baselines; a run folder has one of its own")
    parser.add_argument("--seeds", type=int, default=5, help="draws of labels (default: %(default)s)")
    parser.add_argument(
        "--regimes",
        nargs="+",
        default=REGIMES,
        metavar="R",
        help=f"labels per person and class, a percentage of the windows, or all (default: {' '.join(REGIMES)})",
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
        help=f"write FOLDER/NAME/{REPORT} (default: into the run folder; for a baseline, among the runs)",
    )
    return parser


def _find(name: str, config: Path | None, overrides: Sequence[str]) -> Candidate:
    """Return what ``--encoder name`` stands for."""
    if name in BASELINES:
        if config is None:
            raise UserError(f"encoder {name!r} needs --config FILE, which names its data")
        return Candidate(name, None, load_config(config, overrides))
    run = Path(name).expanduser()
    if not run.is_dir():
        raise UserError(
            f"unknown encoder {name!r}{nearest(name, BASELINES)}; expected a run folder or one of: "
            f"{', '.join(BASELINES)}"
        )
    return Candidate(name, run.resolve(), load_config(run / "config.yaml", overrides))


def _report_path(candidate: Candidate, out: Path | None) -> Path:
    """Return where the report belongs: in the run's folder, for a baseline in one called CONFIG-BASELINE."""
    folder = candidate.run or runs_root() / f"{candidate.config.name}-{candidate.name}"
    return (out / folder.name if out else folder) / REPORT


def _represent(candidate: Candidate, split: Split) -> Representation:
    """Return the candidate's embeddings-to-be of the windows, after checking that it fits them."""
    train, test = split
    if candidate.run is None:
        return BASELINES[candidate.name](candidate.config.encoder, train, test)
    encoder, card = load_encoder(candidate.run)
    card.check_fits(train)
    card.check_fits(test)
    if card.norm_statistics == "missing":
        estimate_norm_statistics(encoder, train.x)
    return encoded(encoder, train, test)


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
    splits: Mapping[DataSettings, Split],
    options: argparse.Namespace,
    console: Console,
) -> ProbeReport:
    """Probe one encoder behind a progress bar."""
    train, test = splits[candidate.config.data]
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
        )


if __name__ == "__main__":
    run_command(main)
