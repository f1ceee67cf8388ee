"""Run a federation on this machine: ``python -m simulation --config configs/uci_har.yaml``."""

import argparse
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from shared.config import Config, load_config
from shared.cpu import keep_memory
from shared.data import training_people
from shared.data.spec import InputSpec
from shared.errors import UserError, run_command
from shared.metrics import METRICS, read_metrics
from shared.progress import RunProgress, RunWatcher
from shared.runs import EXCHANGE, FAILURE, opened_run, run_folder, run_parser
from shared.train import check_trainable, collapse_warnings, warn_of_lone_windows
from simulation.flower_runtime import check_threads, run_with_ray


def main(arguments: list[str]) -> None:
    """Parse the command line, run the federation and tell what it did."""
    options = _parse(arguments)
    config = load_config(options.config, options.overrides, options.method)
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
        UserError: Bad data, a folder that cannot be used, or a run that failed, with its reason.
    """
    keep_memory()
    if engine == "ray":
        check_threads(config.train.threads)
    clients = training_people(config.data, config.any_sensors)
    people = len(clients)
    if not people:
        raise UserError(f"the data set {config.data.title!r} has no training people")
    if config.federation.min_clients > people:
        raise UserError(
            f"federation.min_clients is {config.federation.min_clients}, but the data set {config.data.title!r} has "
            f"{people} training people: set federation.min_clients={people} or fewer"
        )
    console = Console(stderr=True)
    persons = track(clients.ids, "checking the data", console=console, transient=True)
    windows, kinds = [], dict[InputSpec, str]()
    for person in persons:
        own = clients.read(person)
        windows.append(config.train.windows_of(len(own)))
        kinds.setdefault(own.meta.spec, person)
    check_trainable(config, *map(clients.read, kinds.values()))
    warn_of_lone_windows(config, windows, "train")
    with opened_run(folder, config, "federated", resume=resume, force=force) as lock:
        failure = folder / FAILURE
        failure.unlink(missing_ok=True)  # of an earlier start
        with RunProgress(folder.name, config.federation.rounds, console) as progress:
            watcher = RunWatcher(folder, progress)
            try:
                _run(config, folder, engine, people, lock, watcher)
            except UserError:
                if failure.is_file():
                    raise UserError(failure.read_text(encoding="utf-8").strip()) from None
                raise
    _tell(config, folder, Console())


def _run(config: Config, folder: Path, engine: str, people: int, lock: int, watcher: RunWatcher) -> None:
    run_config = {"config": str(folder / "config.yaml"), "method": "", "overrides": "", "run-dir": str(folder)}
    if engine == "ray":
        run_with_ray(run_config, people, config.train.threads, folder / "flower.log", lock, watcher.look)
        return
    from client.app import app as client_app
    from server.app import app as server_app
    from simulation.inprocess import run_in_process

    # One more than the cores can compute for, so that they are busy while a client reads or writes its state.
    parallel = max(1, (os.cpu_count() or 1) // config.train.threads) + 1
    # The server has the main thread, because that is where Ctrl-C arrives.
    with _flower_logs_to(folder / "flower.log"), watcher.in_background():
        run_in_process(server_app, client_app, people, run_config, parallel)


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


def _tell(config: Config, folder: Path, console: Console) -> None:
    rounds = [row for row in read_metrics(folder / METRICS) if row["kind"] == "round"]
    exchange: dict[str, Any] = json.loads((folder / EXCHANGE).read_text(encoding="utf-8"))
    clients = sum(row["clients"] for row in rounds)
    table = Table(title=f"{folder.name}: {len(rounds)} rounds", show_header=False)
    table.add_row("loss, first and last round", f"{rounds[0]['loss']:.4f} → {rounds[-1]['loss']:.4f}")
    table.add_row("clients a round", f"{clients / len(rounds):.1f}")
    table.add_row("replies dropped", f"{sum(row['dropped'] for row in rounds)} (server.log says why)")
    table.add_row("sent up, a client and round", f"{exchange['bytes_up'] / clients / 1e6:.3f} MB")
    table.add_row("sent down, a client and round", f"{exchange['bytes_down'] / clients / 1e6:.3f} MB")
    if (path := folder / "privacy.json").is_file():
        privacy: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        table.add_row(
            f"privacy of a person ({privacy['mechanism']})",
            f"ε {privacy['epsilon']:.4g} at δ {privacy['delta']:g} (privacy.json)",
        )
        noise, bound = privacy["noise_multiplier"], privacy["clipping_norm"]
        table.add_row("noise multiplier, clipping norm", f"{noise:g}, {bound:g}")
    table.add_row("encoder", os.path.relpath(folder / "encoder.safetensors"))
    console.print(table)
    logs = [row for path in folder.glob(f"clients/*/{METRICS}") for row in read_metrics(path)]
    for warning in collapse_warnings([row for row in logs if row["epoch"] == max(log["epoch"] for log in logs)]):
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    one = f" data.sets=[] data.name={config.data.names[0]}" if config.any_sensors and config.data.sets else ""
    console.print(f"probe it: python -m centralized_baseline.probe --encoder {os.path.relpath(folder)}{one}")


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
