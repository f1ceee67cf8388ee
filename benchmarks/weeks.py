"""A person who recorded for weeks: ``python -m benchmarks.weeks``.

Real recordings are repeated with changes, written as a Parquet file a day, imported and trained, each in a process of
its own. As many windows as an epoch takes, which lie in memory, are trained too. The two trainings take turns, and
their times are compared.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.scale import run_module, run_simulation
from shared.data import watch
from shared.data.folder import PersonFiles, write_folder
from shared.errors import UserError, run_command
from shared.files import write_atomic
from shared.large import blocks

Result = TypeVar("Result")

DAY = 86400
START = 1.7e9
"""Seconds from 1970 to the first sample."""
CHANNELS = watch.SPEC.channels
RATE = watch.SPEC.time.rate

SPEED, STRENGTH, NOISE = 0.1, 0.05, 0.02
"""What is changed at each repetition: speed and strength by up to this share, and noise of this standard deviation (g,
rad/s)."""

ROUNDS = 4
"""Of one training; the first warms up and is not timed."""

RECIPE = """name: weeks
person: "1"
time: time
time_unit: s
sensors:
  total_acc: {columns: "total_acc_{}", unit: g}
  gyro: {columns: "gyro_{}", unit: rad/s}
"""

SHORTEST = 0.1
"""Hours that make windows enough for a batch."""


@dataclass(frozen=True)
class Trained:
    """One training.

    ``memory`` is the most that the process held (bytes), ``start`` the time (s) before and after the rounds, ``window``
    the median time (s) that a window took in a round.
    """

    memory: int
    start: float
    window: float


def main(arguments: list[str]) -> None:
    """Make, import and train the person, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weeks",
        description="Measure memory and time of a person with more windows than memory should hold.",
    )
    parser.add_argument("--hours", type=float, default=168, help="of recordings (default: %(default)s, a week)")
    parser.add_argument("--windows", type=int, default=1024, help="of an epoch (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="trainings of each of the two (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.hours < SHORTEST or min(options.windows, options.turns) < 1:
        raise UserError(f"--hours must be at least {SHORTEST:g}, --windows and --turns at least 1")
    console = Console()
    with tempfile.TemporaryDirectory(prefix="fedhar-") as scratch, console.status("writing recordings") as status:
        place = Path(scratch)
        _apart(write_days, place / "recordings", options.hours)
        write_atomic(place / "recipe.yaml", RECIPE)
        status.update("importing")
        started = time.perf_counter()
        recipe = ["--recipe", str(place / "recipe.yaml"), "--out", str(place / "all")]
        memory = run_module(["shared.data", "import", str(place / "recordings"), *recipe], place)
        importing = time.perf_counter() - started
        sizes = _apart(write_few, place / "all", place / "few", options.windows)
        trained: dict[str, list[Trained]] = {"all": [], "few": []}
        for turn in range(options.turns):
            for data in trained:
                status.update(f"training, turn {turn + 1} of {options.turns}, {data}")
                trained[data].append(_train(place, data, turn, options.windows))
    table = Table(title=f"{options.hours:g} hours of one person at {RATE:g} Hz")
    for heading in ("", "windows", "MB of windows", "start, s", "a window, ms", "peak memory, MB"):
        table.add_column(heading, justify="right")
    table.add_row("import", *sizes["all"], f"{importing:.0f}", "", _mb(memory))
    for data, runs in trained.items():
        start, window = (statistics.median(getattr(run, field) for run in runs) for field in ("start", "window"))
        label = "train" if data == "all" else "train, in memory"
        peak = max(run.memory for run in runs)
        table.add_row(label, *sizes[data], f"{start:.0f}", f"{1e3 * window:.2f}", _mb(peak))
    console.print(table)
    ratios = [one.window / other.window for one, other in zip(trained["all"], trained["few"], strict=True)]
    console.print(f"time of a window, all / in memory, median of {options.turns}: {statistics.median(ratios):.2f}")


def _mb(memory: int) -> str:
    return f"{memory / 1e6:.0f}"


def _apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in another process: what this one holds would be counted as memory of those that it starts."""
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        return other.submit(function, *arguments).result()


def write_few(source: Path, out: Path, count: int) -> dict[str, tuple[str, str]]:
    """Write some windows of the person, and return how many there are of both, and how many MB they are."""
    everything = PersonFiles(source).read("1")
    few = everything[np.linspace(0, len(everything) - 1, count).astype(np.int64)]
    write_folder(out, few, few[:0])
    return {name: (str(len(x)), _mb(x.nbytes)) for name, x in (("all", everything.x), ("few", few.x))}


def write_days(folder: Path, hours: float) -> None:
    """Write real recordings, repeated with changes, as a Parquet file a day."""
    folder.mkdir(parents=True)
    signals = _repeated(np.random.default_rng(0))
    rest = np.zeros((0, len(CHANNELS)))
    for number, samples in enumerate(blocks(np.arange(round(hours * 3600 * RATE)), round(DAY * RATE))):
        parts = [rest]
        while sum(map(len, parts)) < len(samples):
            parts.append(next(signals))
        x = np.concatenate(parts)
        rest = x[len(samples) :]
        axes = x[: len(samples)].astype(np.float32).T
        columns = {"time": START + samples / RATE} | dict(zip(CHANNELS, axes, strict=True))
        pl.DataFrame(columns).write_parquet(folder / f"day_{number + 1}.parquet")


def _repeated(rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Yield the recordings (time, C) again and again, each time a little slower or faster, stronger or weaker."""
    while True:
        for signal in watch.recordings()["X"]:
            moments = np.arange(0, len(signal) - 1, rng.uniform(1 - SPEED, 1 + SPEED))
            warped = np.stack([np.interp(moments, np.arange(len(signal)), channel) for channel in signal.T], axis=1)
            yield warped * rng.uniform(1 - STRENGTH, 1 + STRENGTH) + rng.normal(0, NOISE, warped.shape)


def _train(place: Path, data: str, turn: int, windows: int) -> Trained:
    """Train a federation of the one person in a process of its own."""
    name = f"{data}-{turn}"
    settings = {
        "data.name": "folder",
        "data.path": place / data,
        "train.windows_per_epoch": windows,
        "train.sampling": "movement",
        "train.device": "cpu",
        "federation.rounds": ROUNDS,
        "federation.min_clients": 1,
        "federation.join_timeout": 3600,
        "federation.round_timeout": 3600,
    }
    memory, whole, found = run_simulation(name, settings, place)
    rows = [row for row in found if row["kind"] == "client"]
    seconds = [row["seconds"] for row in rows]
    return Trained(memory, whole - sum(seconds), statistics.median(seconds[1:]) / rows[0]["num-examples"])


if __name__ == "__main__":
    run_command(main)
