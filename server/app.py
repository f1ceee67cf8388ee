"""The Flower ServerApp: asks the clients who they are, averages their encoders, and saves the run.

Reads ``config``, ``overrides`` and ``run-dir`` from the run's configuration (see ``pyproject.toml``).
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from secrets import token_hex

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from server.aggregation import Aggregator
from server.introduction import Introductions
from server.strategy import PeopleStrategy
from shared.checkpoint import EncoderCard, Snapshot, load_snapshot, save_encoder, save_snapshot
from shared.config import Config
from shared.cpu import set_up_process
from shared.data.statistics import ChannelStatistics
from shared.errors import UserError, refusals_named
from shared.exchange import PREFIX, Manifest, arrays_of, incoming, outgoing, shared_names
from shared.files import write_atomic
from shared.metrics import Row
from shared.model import build_initial_encoder, own_statistics
from shared.privacy import Ledger
from shared.runs import EXCHANGE, FAILURE, from_run_config, locked, open_run
from shared.tracking import Tracker

LOG = logging.getLogger(__name__)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation into its run folder; a folder that holds a checkpoint of the same run is continued.

    Raises:
        UserError: Too few clients, no usable reply in a round, or a folder of another run; the message is also left in
            the run folder as ``failure.txt``.
    """
    config, folder = from_run_config(context.run_config, context.run_id)
    with locked(folder, "server"):
        open_run(folder, config, "federated", resume=(folder / "config.yaml").is_file(), force=False)
        with _log_to(folder / "server.log"), _reason_kept(folder / FAILURE), refusals_named():
            _federate(grid, config, folder)


@contextmanager
def _reason_kept(failure: Path) -> Iterator[None]:
    """Leave the reason of a failed run where its user finds it."""
    failure.unlink(missing_ok=True)
    try:
        yield
    except UserError as error:
        LOG.error("%s", error)
        with suppress(UserError):  # a disk that is full has no room for this either
            write_atomic(failure, f"{error}\n")
        raise


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Keep what the server notices in the run folder: Flower keeps the output of a ServerApp from its user."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("server", "shared")]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _federate(grid: Grid, config: Config, folder: Path) -> None:
    set_up_process(config.train.threads)
    snapshot = load_snapshot(folder / "checkpoint")
    done = snapshot.step if snapshot else 0
    run = snapshot.meta["run"] if snapshot else token_hex(8)
    manifest = Manifest(snapshot.meta["exchange"] if snapshot else None)
    takes = partial(build_initial_encoder, config)
    introductions = Introductions(grid, config.federation, manifest, config.any_sensors, takes)
    federation = introductions.wait_for_members()
    statistics = ChannelStatistics.from_dict(snapshot.meta["statistics"]) if snapshot else federation.statistics
    policy = config.federation.norm_statistics
    encoder = build_initial_encoder(config, federation.meta.spec)
    trainable = frozenset(PREFIX + name for name, _ in encoder.named_parameters())
    aggregator = Aggregator(config.federation.aggregation, trainable)
    if snapshot:
        saved = {name: value.numpy() for name, value in snapshot.tensors.items()}
        incoming(encoder, {name: value for name, value in saved.items() if name.startswith(PREFIX)}, policy)
        aggregator.restore(saved)
    ledger = Ledger(config.privacy, snapshot.meta["privacy"] if snapshot else None)

    def save(true_round: int, arrays: ArrayRecord, rows: list[Row]) -> None:
        incoming(encoder, arrays_of(arrays), policy)
        state = outgoing(encoder, policy) | aggregator.state()
        tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        meta = {
            "run": run,
            "rows": rows,
            "statistics": statistics.to_dict(),
            "exchange": manifest.state(),
            "privacy": ledger.state(),
        }
        save_snapshot(folder / "checkpoint", Snapshot(true_round, tensors, meta))
        write_atomic(folder / EXCHANGE, json.dumps(manifest.report(), indent=2) + "\n")
        if config.privacy.name != "none":
            write_atomic(folder / "privacy.json", json.dumps(ledger.report(), indent=2) + "\n")

    initial = ArrayRecord({name: Array(value) for name, value in outgoing(encoder, policy).items()})
    rows = snapshot.meta["rows"] if snapshot else []
    save(done, initial, rows)
    with Tracker(folder, done, rows) as tracker:
        strategy = PeopleStrategy(
            federation.members, introductions.newcomers, save, config, done, tracker, manifest, aggregator, ledger
        )
        strategy.start(
            grid=grid,
            initial_arrays=initial,
            num_rounds=config.federation.rounds - done,
            timeout=config.federation.round_timeout,
            train_config=ConfigRecord({"run": run} | statistics.to_dict()),
        )
    missing = len(shared_names(encoder, policy)) < len(shared_names(encoder, "average"))
    meta = introductions.meta
    card = EncoderCard.describe(
        encoder,
        meta,
        own_statistics(config, statistics, meta.spec),
        config.digest("federated"),
        "missing" if missing else "included",
    )
    save_encoder(folder, encoder, card)
