"""Run a federation on this machine: ``python -m simulation --config configs/uci_har.yaml``."""

import argparse
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shared.config import Config, load_config
from shared.data import load
from shared.errors import UserError, run_command
from shared.runs import open_run, run_folder, run_parser
from shared.tracking import METRICS, RunProgress, read_metrics

_WATCH_SECONDS = 0.5


def main(arguments: list[str]) -> None:
    """Parse the command line, run the federation and tell what it did."""
    options = _parse(arguments)
    config = load_config(options.config, options.overrides)
    folder = run_folder(options, config)
    simulate(config, folder, options.engine, resume=options.resume, force=options.force)


def simulate(config: Config, folder: Path, engine: str, *, resume: bool = False, force: bool = False) -> None:
    """Run a federation with one client for each training person of the data set.

    Args:
        config: The configuration.
        folder: The run folder to make, or to continue.
        engine: "ray" (Flower's simulation runtime) or "inprocess".
        resume: Continue the run in the folder after its last complete round.
        force: Replace a run that is in the folder.

    Raises:
        UserError: Bad data, a folder that cannot be used, or a run that failed; the reason is told.
    """
    people = len(load(config.data)[0].people)
    open_run(folder, config, resume=resume, force=force)
    console = Console(stderr=True)
    with RunProgress(folder.name, config.federation.rounds, console) as progress:
        watcher = _Watcher(folder, progress)
        try:
            _run(config, folder, engine, people, watcher)
        except UserError:
            failure = folder / "failure.txt"
            if failure.is_file():
                raise UserError(failure.read_text(encoding="utf-8").strip()) from None
            raise
    _tell(folder, Console())


def _run(config: Config, folder: Path, engine: str, people: int, watcher: "_Watcher") -> None:
    run_config = {"config": str(folder / "config.yaml"), "overrides": "", "run-dir": str(folder)}
    if engine == "ray":
        from simulation.flower_runtime import run_with_ray

        run_with_ray(run_config, people, config.train.threads, folder / "flower.log", watcher.look)
        return
    from client.app import app as client_app
    from server.app import app as server_app
    from simulation.inprocess import run_in_process

    parallel = max(1, (os.cpu_count() or 1) // config.train.threads)
    with _flower_logs_to(folder / "flower.log"), ThreadPoolExecutor(1, thread_name_prefix="server") as pool:
        done = pool.submit(run_in_process, server_app, client_app, people, run_config, parallel)
        while not wait([done], _WATCH_SECONDS).done:
            watcher.look()
        watcher.look()
        done.result()


@contextmanager
def _flower_logs_to(path: Path) -> Iterator[None]:
    """Keep Flower's own log out of the way of the progress bar, in a file."""
    logger = logging.getLogger("flwr")
    kept, file = logger.handlers[:], logging.FileHandler(path)
    logger.handlers = [file]
    try:
        yield
    finally:
        logger.handlers = kept
        file.close()


class _Watcher:
    """Shows the newest round of ``metrics.jsonl``, with the mean of the clients' own task weights."""

    def __init__(self, folder: Path, progress: RunProgress) -> None:
        self._folder = folder
        self._progress = progress
        self._shown = 0

    def look(self) -> bool:
        """Show the rounds that have ended since the last look, and tell whether the run looks as if it had ended."""
        for row in read_metrics(self._folder / METRICS):
            if row["kind"] == "round" and row["round"] > self._shown:
                self._shown = row["round"]
                self._progress.show(row | self._weights(row["round"]))
        return any((self._folder / name).is_file() for name in ("encoder.json", "failure.txt"))

    def _weights(self, round_number: int) -> dict[str, float]:
        """On one machine the clients' own logs can be read; the server itself never learns the weights."""
        logs = (self._folder / "clients").glob(f"*/{METRICS}")
        rows = [row for path in logs for row in read_metrics(path) if row["round"] == round_number]
        keys = [key for key in (rows[0] if rows else {}) if key.startswith("weight.")]
        return {key: sum(row[key] for row in rows) / len(rows) for key in keys}


def _tell(folder: Path, console: Console) -> None:
    rounds = [row for row in read_metrics(folder / METRICS) if row["kind"] == "round"]
    exchange: dict[str, Any] = json.loads((folder / "exchange.json").read_text(encoding="utf-8"))
    clients = sum(row["clients"] for row in rounds)
    table = Table(title=f"{folder.name}: {len(rounds)} rounds", show_header=False)
    table.add_row("loss, first and last round", f"{rounds[0]['loss']:.4f} → {rounds[-1]['loss']:.4f}")
    table.add_row("clients a round", f"{clients / len(rounds):.1f}")
    table.add_row("replies dropped", str(sum(row["dropped"] for row in rounds)))
    table.add_row("sent up, a client and round", f"{exchange['bytes_up'] / clients / 1e6:.3f} MB")
    table.add_row("sent down, a client and round", f"{exchange['bytes_down'] / clients / 1e6:.3f} MB")
    table.add_row("encoder", str(folder / "encoder.safetensors"))
    console.print(table)
    console.print(f"probe it: python -m centralized_baseline.probe --encoder {os.path.relpath(folder)}")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = run_parser(
        "simulation",
        suffix="federated",
        description="Train one encoder on many people: each training person of the data set is a client.",
    )
    parser.add_argument(
        "--engine",
        choices=["ray", "inprocess"],
        default="ray",
        help="ray: Flower's simulation runtime, in processes (default); inprocess: the same apps in threads",
    )
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    run_command(main)
