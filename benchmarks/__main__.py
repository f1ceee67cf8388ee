"""Speed, memory and bytes of everything that a run does: ``python -m benchmarks``.

All ratios are of two things measured in turn in this one run on this one machine; nothing is compared with a figure
from another day. Medians over repetitions are printed.
"""

import argparse
import os
import platform
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.rounds import measure_rounds
from benchmarks.steps import measure_steps
from shared.config import add_method_option, load_config
from shared.errors import UserError, run_command


def main(arguments: list[str]) -> None:
    """Parse the command line, measure and print one table.

    Raises:
        UserError: Settings that do not fit, or too few rounds.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure a training step, a Flower round, memory and bytes, as ratios taken side by side.",
        epilog="example: python -m benchmarks --config configs/uci_har.yaml",
    )
    parser.add_argument(
        "--config", type=Path, default=Path("configs/demo.yaml"), help="YAML file (default: %(default)s)"
    )
    add_method_option(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as encoder.name=resnet1d")
    parser.add_argument(
        "--rounds", type=int, default=6, help="Flower rounds, at least 2: the first warms up (default: %(default)s)"
    )
    options = parser.parse_intermixed_args(arguments)
    if options.rounds < 2:
        raise UserError(f"--rounds must be at least 2, because the first one warms up; found {options.rounds}")
    config = load_config(options.config, [*options.overrides, f"federation.rounds={options.rounds}"], options.method)
    console = Console()
    console.print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    table = Table(title=f"benchmarks of {options.config}")
    for heading in ("measured", "figure", "aim"):
        table.add_column(heading, overflow="fold")
    with console.status("training steps"):
        rows = measure_steps(config)
    with console.status("rounds of Flower and of a bare loop"):
        rows += measure_rounds(config)
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    run_command(main)
