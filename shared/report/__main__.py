"""Make the report page of one or more runs: ``python -m shared.report runs/A runs/B --out report.html``."""

import argparse
from pathlib import Path

from rich.console import Console

from shared.errors import UserError, run_command
from shared.files import write_atomic
from shared.report.page import MARKER, render
from shared.report.reading import read_runs

SAMPLE = 800
"""Test windows in a map: enough to see the groups, few enough for seconds."""


def main(arguments: list[str]) -> None:
    """Read the folders that the command line names, write the page and print its path.

    Raises:
        UserError: A folder that is no run, a damaged file, or a page that would replace something else.
    """
    options = _parser().parse_args(arguments)
    if not 0 <= options.sample <= 1000:
        raise UserError(f"--sample must be from 0 to 1000 windows, found {options.sample}")
    out = options.out or options.runs[0] / "report.html"
    _check_replaceable(out, options.force)
    console = Console(stderr=True)
    with console.status("reading the runs and drawing"):
        page = render(read_runs(options.runs), options.sample)
    write_atomic(out, page)
    Console().print(f"report: {out} ({len(page.encode()) / 1e6:.1f} MB)", highlight=False, markup=False, soft_wrap=True)


def _check_replaceable(out: Path, force: bool) -> None:
    """Refuse to replace anything but a report, unless it is forced."""
    if not out.exists():
        return
    if not out.is_file():
        raise UserError(f"--out must be a file, found the folder {out}")
    if not force and MARKER.encode() not in out.read_bytes()[:2000]:
        raise UserError(f"{out} exists and is not a report of fedhar: choose another --out, or replace it with --force")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared.report",
        description="Write one self-contained HTML page about runs and baselines on one data set: scores, training, "
        "people, confusions, maps, what left the devices, time, configurations.",
        epilog="example: python -m shared.report runs/demo-federated runs/demo-centralized --out report.html",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders, and folders of probed baselines or series"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the first folder)")
    parser.add_argument("--force", action="store_true", help="replace a file that is not a report")
    parser.add_argument(
        "--sample",
        type=int,
        default=SAMPLE,
        metavar="N",
        help="most test windows in the t-SNE maps, up to 1000; 0 leaves the maps out (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    run_command(main)
