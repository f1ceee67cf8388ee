"""Command line of the data sets: show what is in one, download one, split one into a file per person, or make one.

``python -m shared.data info NAME [--path P]`` loads a data set, which checks all of it, and prints a summary.
``python -m shared.data download uci_har`` fetches UCI HAR into the cache folder.
``python -m shared.data split NAME... [--path P] --out DIR`` writes one file per training person, for their clients.
``python -m shared.data import FILES... --out DIR`` makes a data set of recordings; see ``docs/data.md``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.data import DATASETS, IMAGE_SETS, SOURCES, DataSettings, load
from shared.data.download import INNER_SHA256, OUTER_SHA256, URL, download_uci_har
from shared.data.partition import each_person
from shared.data.parts import TEN_ALIKE
from shared.data.person import person_id
from shared.data.split import split_people
from shared.data.statistics import ChannelStatistics
from shared.data.uci_har import SOURCE as UCI_HAR
from shared.data.windows import UNLABELLED, Windows
from shared.errors import run_command

_SIDE_BY_SIDE = 8
"""Classes that have room beside each other."""

_LISTED = 50
"""People whose ids are listed one by one."""


def main(arguments: list[str]) -> None:
    """Run one of the commands.

    Raises:
        UserError: Bad data, or a download that failed.
    """
    options = _parser().parse_args(arguments)
    console = Console()
    if options.command == "info":
        info(_settings(options), console)
    elif options.command == "import":
        _import(options, console)
    elif options.command == "split":
        people = split_people(_settings(options), options.out, options.virtual)
        ids = ", ".join(people) if len(people) <= _LISTED else f"{people[0]} to {people[-1]}"
        words = f"{options.out}: one file each for {len(people)} people: {ids}"
        console.print(words, markup=False, soft_wrap=True)
    else:
        download_uci_har(UCI_HAR.target, options.url, options.outer_sha256, options.inner_sha256)
        console.print(f"UCI HAR is at {UCI_HAR.target}, both checksums are right", soft_wrap=True)


def _import(options: argparse.Namespace, console: Console) -> None:
    # Here, because a client's container has neither what reads recordings nor what draws the page.
    from shared.data.importing.command import import_recordings, write_proposal

    if options.propose is not None:
        write_proposal(options.files, options.propose, console)
    else:
        import_recordings(options.files, options.out, options.recipe, console)


def _settings(options: argparse.Namespace) -> DataSettings:
    first, *others = options.names
    sets, holdout = tuple(options.names) if others else (), tuple(options.holdout)
    return DataSettings(name=first, sets=sets, path=options.path, channels=(), holdout=holdout, parts=TEN_ALIKE)


def info(settings: DataSettings, console: Console) -> None:
    """Load a data set and print who did what, how it was recorded and what was checked."""
    train, test = load(settings)
    meta = train.meta
    shipped = f", {len(meta.feature_names)} features shipped" if meta.feature_names else ""
    console.print(f"[bold]{meta.name}[/]: {len(train)} training and {len(test)} test windows")
    console.print(f"{len(meta.spec.channels)} channels of {meta.spec.extent}{shipped}")
    wide = len(meta.classes) > _SIDE_BY_SIDE
    console.print(_people_table(train, test, () if wide else meta.classes))
    if wide:
        console.print(_class_table(train, test))
    console.print(_channel_table(train, test))
    if (source := SOURCES.get(meta.name)) is not None:
        console.print(f"cite: {source.citation}", f"terms: {source.terms}", sep="\n", soft_wrap=True, highlight=False)
    console.print(
        "checked: nobody is in both parts; all labels are among the classes; all values are finite; all windows "
        "have the same channels and length"
    )


def _people_table(train: Windows, test: Windows, classes: Sequence[str]) -> Table:
    """Count the windows of each person (rows) and class (columns), and those that have a label and that have none.

    Args:
        train: Windows of the training people.
        test: Windows of the test people.
        classes: Those that get a column: all or none.
    """
    table = Table("part", "person", title="windows", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for name in classes:
        table.add_column(name.replace("_", " "), justify="right")  # long names wrap at spaces
    for name in ("labelled", "not labelled"):
        table.add_column(name, justify="right")
    for part, windows in (("train", train), ("test", test)):
        for own in each_person(windows):
            counts = np.bincount(own.y - UNLABELLED, minlength=len(train.meta.classes) + 1).tolist()
            shown = counts[1:] if classes else []
            table.add_row(part, escape(own.people[0]), *map(str, (*shown, sum(counts[1:]), counts[0])))
        table.add_section()
    return table


def _class_table(train: Windows, test: Windows) -> Table:
    """Count the windows of each class (rows) in both parts, where classes are too many to stand side by side."""
    table = Table("class", title="labelled windows", box=SIMPLE)
    for part in ("train", "test"):
        table.add_column(part, justify="right")
    for label, name in enumerate(train.meta.classes):
        table.add_row(escape(name), *(str(int((part.y == label).sum())) for part in (train, test)))
    return table


def _channel_table(train: Windows, test: Windows) -> Table:
    """Show the mean and standard deviation of each channel, in its unit, for both parts."""
    table = Table("channel", "unit", title="channels", box=SIMPLE)
    for part in ("train", "test"):
        table.add_column(f"{part} mean", justify="right")
        table.add_column(f"{part} std", justify="right")
    parts = [ChannelStatistics.of(windows) if len(windows) else None for windows in (train, test)]
    for channel, (name, unit) in enumerate(zip(train.meta.spec.channels, train.meta.spec.units, strict=True)):
        cells: list[str] = []
        for sums in parts:
            cells += ["-", "-"] if sums is None else [f"{sums.mean[channel]:+.4f}", f"{sums.std[channel]:.4f}"]
        table.add_row(name, unit, *cells)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared.data", description="Show, download, split or make data sets."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("info", help="load a data set, check all of it and print a summary")
    split = commands.add_parser("split", help="write one file per training person, for the clients of a deployment")
    known = ", ".join(DATASETS | IMAGE_SETS)
    show.add_argument("names", nargs=1, metavar="name", help=f"one of: {known}")
    split.add_argument(
        "names",
        nargs="+",
        metavar="name",
        help=f"one of: {known}; or several: their people have ids like watch/3, a folder each, and the first's rate",
    )
    for command in (show, split):
        command.add_argument("--path", type=Path, help="folder or zip of the data set (default: its usual place)")
        command.add_argument(
            "--holdout",
            type=person_id,
            nargs="+",
            default=[],
            metavar="PERSON",
            help="training people to test on in place of the data set's own test people",
        )
    split.add_argument("--out", type=Path, required=True, help="new folder; dataset.json and person_<id>.npz")
    split.add_argument(
        "--virtual",
        type=int,
        nargs=2,
        metavar=("PEOPLE", "WINDOWS"),
        help="cut the people into this many virtual ones of this many windows, to try how a federation grows",
    )
    make = commands.add_parser("import", help="make a data set of recordings of any make; see docs/data.md")
    make.add_argument("files", type=Path, nargs="+", metavar="FILE", help="recordings: files, zips or folders")
    result = make.add_mutually_exclusive_group(required=True)
    result.add_argument("--out", type=Path, metavar="DIR", help="new folder for the windows, recipe and quality page")
    result.add_argument(
        "--propose", type=Path, metavar="FILE", help="only write the recipe that is guessed, to correct"
    )
    make.add_argument("--recipe", type=Path, metavar="FILE", help="what the columns mean (default: it is guessed)")
    fetch = commands.add_parser("download", help="fetch a data set into the cache folder (FEDHAR_CACHE)")
    fetch.add_argument("name", choices=["uci_har"], help="61 MB; not for commercial use, cite its paper")
    fetch.add_argument("--url", default=URL, help="a mirror of the official zip (default: %(default)s)")
    fetch.add_argument("--outer-sha256", default=OUTER_SHA256, help="checksum of that zip")
    fetch.add_argument("--inner-sha256", default=INNER_SHA256, help="checksum of the zip within it")
    return parser


if __name__ == "__main__":
    run_command(main)
