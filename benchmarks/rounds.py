"""A round of Flower, beside the same local steps in a bare loop with the same parallelism."""

import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import psutil

from benchmarks.steps import Measurement
from shared.config import Config, load_config
from shared.cpu import set_up_process
from shared.data import load, training_people
from shared.data.partition import by_person
from shared.data.statistics import ChannelStatistics
from shared.metrics import METRICS, read_metrics
from shared.model import prepare
from shared.runs import EXCHANGE
from shared.train import Training
from simulation.__main__ import simulate

_AIMS = {"ray": "≤ 1.25", "inprocess": "≤ 1.10"}


def measure_rounds(config: Config) -> list[Measurement]:
    """Time rounds of both engines against bare loops in as many processes or threads."""
    people = len(training_people(config.data, config.any_sensors))
    workers = max(1, (os.cpu_count() or 1) // config.train.threads)
    work = f"local_epochs={config.federation.local_epochs}, precision={config.train.precision}"
    rows: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="fedhar-") as scratch:
        for engine, executor in (("ray", _processes), ("inprocess", _threads)):
            folder = Path(scratch) / engine
            peak = _first_round_memory(partial(simulate, config, folder, engine), folder / METRICS)
            flower = _later_rounds(row["seconds"] for row in read_metrics(folder / METRICS) if row["kind"] == "round")
            with executor(workers, folder, people) as pool:
                bare = _later_rounds(
                    _bare_round(pool, folder, number, people) for number in range(config.federation.rounds)
                )
            rows += [
                (f"round of {people} clients, {engine} ({work})", f"{flower:.2f} s", ""),
                (
                    f"Flower round ({engine}) / bare loop in {workers} {executor_name(engine)}",
                    f"{flower / bare:.2f}",
                    _AIMS[engine],
                ),
                (f"peak memory of the first round, {engine}, all processes", f"{peak / 1e6:.0f} MB", ""),
            ]
        rows += _bytes(folder, people * config.federation.rounds)
    return rows


def executor_name(engine: str) -> str:
    """What the bare loop's workers are."""
    return "processes" if engine == "ray" else "threads"


def _processes(workers: int, folder: Path, people: int) -> Executor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_prepare_everybody, initargs=(str(folder), people))


def _threads(workers: int, folder: Path, people: int) -> Executor:
    return ThreadPoolExecutor(workers, initializer=_prepare_everybody, initargs=(str(folder), people))


def _prepare_everybody(folder: str, people: int) -> None:
    """Every worker may play every client, and none should load or compute features while the clock runs."""
    for partition in range(people):
        _bare_client(folder, partition)


def _later_rounds(seconds: Iterable[float]) -> float:
    """The median without the first round, which loads data and warms up."""
    return statistics.median(list(seconds)[1:])


def _bare_round(pool: Executor, folder: Path, number: int, people: int) -> float:
    started = time.perf_counter()
    list(pool.map(_train_bare, [str(folder)] * people, range(people), [number] * people))
    return time.perf_counter() - started


def _train_bare(folder: str, partition: int, number: int) -> None:
    """The local steps of one client and round, on a model that is already there."""
    config, training = _bare_client(folder, partition)
    set_up_process(config.train.threads)
    epochs = config.federation.local_epochs
    for _ in training.run(range(number * epochs, (number + 1) * epochs)):
        pass


@cache
def _bare_client(folder: str, partition: int) -> tuple[Config, Training]:
    config = load_config(Path(folder) / "config.yaml")
    set_up_process(config.train.threads)
    train, _ = load(config.data)
    data = prepare(config, by_person(train)[partition])
    return config, Training.federated(config, data, ChannelStatistics.of(train))


def _first_round_memory(run: Callable[[], None], metrics: Path) -> int:
    """Run a federation and return the most memory (bytes) that this process and its children held in its first round.

    Looking takes time of the processes looked at: it ends with the first round, which is not timed.
    """
    done, peak = threading.Event(), 0

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.2) and not any(row["kind"] == "round" for row in read_metrics(metrics)):
            family = [psutil.Process(), *psutil.Process().children(recursive=True)]
            peak = max(peak, sum(map(_memory, family)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        run()
    finally:
        done.set()
        sampler.join()
    return peak


def _memory(process: psutil.Process) -> int:
    """Memory that is the process's own, or its share of what is shared, where the system tells."""
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(getattr(memory, "pss", memory.uss))


def _bytes(folder: Path, client_rounds: int) -> list[Measurement]:
    exchange = json.loads((folder / EXCHANGE).read_text(encoding="utf-8"))
    return [
        (f"bytes {side}, a client and round", f"{exchange[f'bytes_{side}'] / client_rounds / 1e3:.0f} kB", "")
        for side in ("up", "down")
    ]
