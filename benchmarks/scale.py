"""How a federation grows: ``python -m benchmarks.scale``.

Virtual people are cut from a data set's people, each with a file of its own, and train in one process. Shown are memory
as the number of people grows and the cohort of a round stays, and the time of a round as the cohort grows.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from shared.config import DEFAULTS
from shared.errors import UserError, run_command
from shared.files import write_atomic
from shared.metrics import METRICS, Row, read_metrics

ROOT = DEFAULTS.parents[1]
WINDOWS = 16
"""Of each virtual person: one training step a round."""
ROUNDS = 5
WIDTH = 16
"""Of the encoder: what is measured is what surrounds the training."""


@dataclass(frozen=True)
class Growth:
    """One federation: how many people, how many of them a round, and what it took.

    ``start`` is the time (s) before and after the rounds, in which everybody's windows are checked and everybody
    introduces itself; ``round`` the median time of a round; ``memory`` the most that the process held (bytes).
    """

    data: str
    people: int
    cohort: int
    start: float
    round: float
    memory: int


def main(arguments: list[str]) -> None:
    """Run the federations, print a table and draw the chart."""
    options = _parser().parse_args(arguments)
    middle = sorted(options.people)[len(options.people) // 2]
    if max(options.cohorts) > min(options.people):
        raise UserError(f"--cohorts: {max(options.cohorts)} clients cannot be drawn from {min(options.people)} people")
    sizes = [(people, min(options.cohorts)) for people in options.people]
    sizes += [(middle, cohort) for cohort in options.cohorts if cohort > min(options.cohorts)]
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fedhar-") as scratch:
        place = Path(scratch)
        for data, people in track(list(product(options.data, options.people)), "splitting", console=console):
            virtual = ["--virtual", str(people), str(WINDOWS)]
            run_module(["shared.data", "split", data, *virtual, "--out", str(_folder(place, data, people))], place)
        federations = [(data, *size) for data, size in product(options.data, sizes)]
        found = [_measure(place, *one) for one in track(federations, "training", console=console)]
    console.print(_table(found))
    write_atomic(options.out, _chart(found, middle, min(options.cohorts)))
    console.print(f"wrote {options.out}", highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description="Measure memory and time as the number of people and the cohort of a round grow.",
    )
    parser.add_argument("--data", nargs="+", default=["synthetic", "uci_har"], help="data sets to cut up")
    parser.add_argument("--people", type=int, nargs="+", default=[100, 1000, 10000], help="virtual people")
    parser.add_argument("--cohorts", type=int, nargs="+", default=[10, 20, 40, 80], help="clients of a round")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "scale.svg", help="the chart")
    return parser


def _folder(scratch: Path, data: str, people: int) -> Path:
    return scratch / f"{data}-{people}"


def _measure(scratch: Path, data: str, people: int, cohort: int) -> Growth:
    """Run a federation in a process of its own."""
    name = f"{data}-{people}-{cohort}"
    settings = {
        "data.name": "folder",
        "data.path": _folder(scratch, data, people),
        "encoder.width": WIDTH,
        "federation.rounds": ROUNDS,
        "federation.fraction": cohort / people,
        "federation.join_timeout": 600,
    }
    memory, whole, rows = run_simulation(name, settings, scratch)
    seconds = [row["seconds"] for row in rows if row["kind"] == "round"]
    return Growth(data, people, cohort, whole - sum(seconds), statistics.median(seconds[1:]), memory)


def run_simulation(name: str, settings: Mapping[str, object], runs: Path) -> tuple[int, float, list[Row]]:
    """Run a federation in a process of its own; return the most memory (bytes) that it held, its seconds and its rows.

    Raises:
        UserError: It failed; says why.
    """
    changes = [f"{key}={value}" for key, value in settings.items()]
    started = time.perf_counter()
    memory = run_module(
        ["simulation", "--config", str(DEFAULTS), "--engine", "inprocess", "--name", name, *changes], runs
    )
    return memory, time.perf_counter() - started, list(read_metrics(runs / name / METRICS))


def run_module(module: Sequence[str], runs: Path) -> int:
    """Run one of this project's commands and return the most memory (bytes) that it held.

    The system counts for it, too, what this process held when it started the other; so this one stays small.

    Raises:
        UserError: It failed; says why.
    """
    with tempfile.TemporaryFile("w+") as output:
        environment = os.environ | {"FEDHAR_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", *module], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if status:
            output.seek(0)
            raise UserError(f"python -m {' '.join(module)} failed: {output.read()[-1000:].strip()}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _table(found: Sequence[Growth]) -> Table:
    table = Table(title=f"federations in one process, {WINDOWS} windows a person, {ROUNDS} rounds")
    for heading in ("data", "people", "cohort", "start, s", "round, s", "a client, ms", "peak memory, MB"):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            one.data,
            str(one.people),
            str(one.cohort),
            f"{one.start:.1f}",
            f"{one.round:.2f}",
            f"{1e3 * one.round / one.cohort:.0f}",
            f"{one.memory / 1e6:.0f}",
        )
    return table


def _chart(found: Sequence[Growth], people: int, cohort: int) -> str:
    """Draw memory by people and seconds a round by cohort, as SVG."""
    figure = Figure((9, 3.4), layout="constrained")
    memory, seconds = figure.subplots(1, 2)
    for data in dict.fromkeys(one.data for one in found):
        grown = [one for one in found if one.data == data and one.cohort == cohort]
        memory.plot([one.people for one in grown], [one.memory / 1e6 for one in grown], "o-", label=data)
        wider = sorted((one for one in found if one.data == data and one.people == people), key=lambda one: one.cohort)
        seconds.plot([one.cohort for one in wider], [one.round for one in wider], "o-", label=data)
    memory.set(
        xscale="log", ylim=0, xlabel=f"people, of whom {cohort} train in a round", ylabel="peak memory of all, MB"
    )
    seconds.set(xlim=0, ylim=0, xlabel=f"clients of a round, of {people} people", ylabel="seconds a round")
    for axes in (memory, seconds):
        axes.grid(alpha=0.3)
        axes.legend()
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


if __name__ == "__main__":
    run_command(main)
