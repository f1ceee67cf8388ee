"""Train on pooled people: ``python -m centralized_baseline --config configs/uci_har.yaml``."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from shared.body import in_common, pooled_by_kind
from shared.checkpoint import EncoderCard, Snapshot, load_snapshot, save_encoder, save_snapshot
from shared.config import Config, load_config
from shared.cpu import set_up_process
from shared.data import load, load_apart
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Meta, Windows
from shared.errors import run_command
from shared.metrics import Row
from shared.model import own_statistics, prepare
from shared.progress import RunProgress
from shared.runs import opened_run, run_folder, run_parser
from shared.sampling import windows_an_epoch
from shared.tracking import Tracker
from shared.train import Together, Training, check_trainable, collapse_warnings, time_to_warn, warn_of_lone_windows

LOG = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Parse the command line, train the baseline and tell what it did."""
    parser = run_parser(
        "centralized_baseline",
        suffix="centralized",
        description="Train the same model on the pooled windows of all training people, for comparison.",
    )
    options = parser.parse_intermixed_args(arguments)
    config = load_config(options.config, options.overrides, options.method)
    folder = run_folder(options, config)
    train_centralized(config, folder, resume=options.resume, force=options.force)


def train_centralized(config: Config, folder: Path, *, resume: bool = False, force: bool = False) -> None:
    """Train the configuration's model on the windows of all training people, with a checkpoint each epoch.

    Args:
        config: The configuration; ``centralized`` holds the epochs and the batch size.
        folder: The run folder to make, or to continue.
        resume: Continue the run in the folder after its last complete epoch.
        force: Replace a run that is in the folder.

    Raises:
        UserError: Bad data, or a folder that cannot be used.
    """
    splits = load_apart(config.data) if config.any_sensors else [load(config.data)]
    parts = [train for train, _ in splits if len(train)] or [splits[0][0]]
    check_trainable(config, *parts)
    warn_of_lone_windows(config, [windows_an_epoch(config.train, part) for part in parts], "centralized")
    with opened_run(folder, config, "centralized", resume=resume, force=force):
        _train(config, folder, parts)


def _train(config: Config, folder: Path, parts: Sequence[Windows]) -> None:
    set_up_process(config.centralized.threads)
    training, meta, statistics = start(config, parts)
    done, rows = _restore(folder, training)
    started = time.perf_counter()
    epochs = config.centralized.epochs
    with (
        Tracker(folder, done, rows) as tracker,
        RunProgress(folder.name, epochs, Console(stderr=True)) as progress,
    ):
        for log in training.run(range(done, epochs)):
            row: Row = {"kind": "epoch", "round": log.epoch} | log.row()
            save_snapshot(folder / "checkpoint", Snapshot(log.epoch, training.state(), {"rows": [row]}))
            tracker.log([row])
            progress.show(row)
            if time_to_warn(log.epoch, epochs):
                for warning in collapse_warnings([row]):
                    LOG.warning("epoch %d: %s", log.epoch, warning)
    card = EncoderCard.describe(training.encoder, meta, statistics, config.digest("centralized"))
    save_encoder(folder, training.encoder, card)
    table = Table(title=f"{folder.name}: {epochs} epochs", show_header=False)
    table.add_row("people, windows", f"{sum(len(one.people) for one in parts)}, {sum(map(len, parts))}")
    table.add_row("time", f"{time.perf_counter() - started:.0f} s")
    table.add_row("encoder", str(folder / "encoder.safetensors"))
    Console().print(table)


def start(config: Config, parts: Sequence[Windows]) -> tuple[Training | Together, Meta, ChannelStatistics]:
    """Return the training of windows of one or several kinds, and what the card of its encoder says of all of them.

    Args:
        config: The configuration.
        parts: Windows of the training people, of each kind.
    """
    sums = [ChannelStatistics.of(part) for part in parts]
    if len(parts) == 1:
        return Training.centralized(config, prepare(config, parts[0]), sums[0]), parts[0].meta, sums[0]
    meta = in_common([part.meta for part in parts])
    pooled = pooled_by_kind([(part.meta.spec, own) for part, own in zip(parts, sums, strict=True)])
    trainings = [
        Training.centralized(
            config,
            replace(prepare(config, part), person=part.meta.name),  # so that each kind has views of its own
            own_statistics(config, pooled, part.meta.spec),
        )
        for part in parts
    ]
    return Together(trainings), meta, own_statistics(config, pooled, meta.spec)


def _restore(folder: Path, training: Training | Together) -> tuple[int, list[Row]]:
    """Load the last complete epoch, if there is one, and return its number and its rows."""
    snapshot = load_snapshot(folder / "checkpoint")
    if snapshot is None:
        return 0, []
    training.load(snapshot.tensors)
    return snapshot.step, snapshot.meta["rows"]


if __name__ == "__main__":
    run_command(main)
