"""The Flower ClientApp: one person, two kinds of message.

``query.introduce``: who I am, what I measure, and the sums of my channels. ``train``: load the shared encoder, train it
with my own heads for some epochs, keep the heads, send the encoder back.
"""

import logging
import re
import threading
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from client.state import PrivateState
from shared.compression import FULL, Arrays, compress, wire_forms
from shared.config import Config
from shared.cpu import set_up_process
from shared.data import DataSettings, People, training_people, with_channels
from shared.data.folder import load_own
from shared.data.person import file_name
from shared.data.statistics import ChannelStatistics, warn_of_constant
from shared.data.windows import Windows
from shared.errors import UserError
from shared.exchange import incoming, outgoing
from shared.model import TrainingData, own_statistics, prepare
from shared.privacy import private_update
from shared.runs import from_run_config
from shared.train import Training, collapse_warnings, time_to_warn
from shared.wire import Sums, quoted, read_arrays, read_record

LOG = logging.getLogger(__name__)

app = ClientApp()

_LOADING = threading.Lock()
"""Clients that share a process load a data set once, not side by side."""

_CACHED_PEOPLE = 64
"""Prepared people kept in a process that plays several clients in turn."""


class Order(Sums):
    """What a server tells beside the encoder: the round, the run's name, and sums of channels or of kinds of sensor."""

    server_round: PositiveInt = Field(alias="server-round")
    run: str


@app.query("introduce")
def introduce(message: Message, context: Context) -> Message:
    """Reply with person, windows, sensors, and the count, sum and sum of squares of each channel.

    With privacy the sums are those of mean 0 and variance 1, whatever the windows, because no noise covers them.
    """
    config, _ = from_run_config(context.run_config, context.run_id)
    windows = _windows_of(config, _partition(context), _own_data(context))
    statistics = ChannelStatistics.of(windows)
    if _own_data(context) or config.privacy.name != "none":  # else the server can tell it from the sums
        warn_of_constant({windows.people[0]: statistics}, windows.meta.spec.channels)
    if config.privacy.name != "none":
        channels = len(windows.meta.spec.channels)
        statistics = ChannelStatistics(1, np.zeros(channels), np.ones(channels))
    metrics = MetricRecord(
        {
            "partition-id": _partition(context),
            "num-examples": len(windows),
        }
        | statistics.to_dict()
    )
    spec = windows.meta.spec.model_dump(mode="json", exclude_none=True)
    sensors = ConfigRecord({"person": windows.people[0], "data": windows.meta.name} | spec)
    return Message(RecordDict({"metrics": metrics, "sensors": sensors}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received encoder on this person's windows; reply with encoder arrays, counts and losses."""
    config, run_folder = from_run_config(context.run_config, context.run_id)
    order = _order_of(message)
    server_round = order.server_round
    set_up_process(config.train.threads)
    data = _prepared(config, _partition(context), _own_data(context))
    try:
        statistics = own_statistics(config, order.statistics, data.windows.meta.spec)
    except UserError as error:
        raise UserError(f"the server's sums do not fit this client's windows: {error}") from None
    training = Training.federated(config, data, statistics)
    model = training.model
    policy = config.federation.norm_statistics
    state = PrivateState(
        _state_root(context, run_folder, order.run) / file_name(data.person),
        config.digest("federated"),
        policy,
    )
    restored = state.restore(training, before=server_round)
    received = _encoder_of(message, outgoing(model.encoder, policy))
    incoming(model.encoder, received, policy)
    model.after_new_encoder(first=restored is None)
    residual = restored or {}

    epochs = config.federation.local_epochs
    own_epochs = range((server_round - 1) * epochs, server_round * epochs)
    logs = list(training.run(own_epochs, config.federation.aggregation.local_pull))
    if broken := [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]:
        raise UserError(f"round {server_round}: {broken[0]} is not finite after training; the state before it is kept")
    trained = outgoing(model.encoder, policy)
    if config.privacy.name == "local":
        trained = private_update(received, trained, config.privacy)
    if config.federation.upload != FULL:
        trained, residual = compress(received, trained, residual, config.federation.upload)
    rows = [log.row() for log in logs]
    state.save(training, server_round, residual, rows)
    if _own_data(context) and time_to_warn(server_round, config.federation.rounds):  # else whoever simulates is told
        for warning in collapse_warnings(rows[-1:]):
            LOG.warning("round %d: %s", server_round, warning)
    last = logs[-1]
    metrics: dict[str, int | float | list[int] | list[float]] = {
        "partition-id": _partition(context),
        "num-examples": last.windows,
        "loss": last.loss,
        "seconds": sum(log.seconds for log in logs),
    }
    metrics |= {f"loss.{name}": value for name, value in last.losses.items()}
    arrays = ArrayRecord({name: Array(value) for name, value in trained.items()})
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord(metrics)}), reply_to=message)


def _order_of(message: Message) -> Order:
    records = message.content.config_records
    if "config" not in records:
        raise UserError(f"the server sent no record 'config', found {quoted(sorted(message.content))}")
    try:
        return read_record(Order, dict(records["config"]))
    except UserError as error:
        raise UserError(f"the server's record 'config' cannot be used: {error}") from None


def _encoder_of(message: Message, expected: Arrays) -> dict[str, NDArray[np.float32]]:
    try:
        return read_arrays(message.content.array_records.get("arrays", {}), wire_forms(expected, FULL))
    except UserError as error:
        raise UserError(f"the received encoder does not fit this model: {error}") from None


def _state_root(context: Context, run_folder: Path, run: str) -> Path:
    """The folder of private states: a device that takes part in several runs has one for each of them."""
    named = context.node_config.get("state-dir")
    if not named:
        return run_folder / "clients"
    if not re.fullmatch(r"[0-9a-f]{16}", run):  # it becomes a folder's name on this device
        raise UserError(f"the server calls its run {quoted(run)}, expected 16 hexadecimal digits")
    return Path(str(named)) / run


def _partition(context: Context) -> int:
    return int(cast(int, context.node_config["partition-id"]))


def _own_data(context: Context) -> Path | None:
    """The folder with this client's own person; None: the run's data set is at hand, and the partition tells who."""
    own = context.node_config.get("data")
    return Path(str(own)) if own else None


def _windows_of(config: Config, partition: int, own: Path | None) -> Windows:
    if own:
        return with_channels(_own_windows(own), config.data.channels)
    with _LOADING:
        people = _people(config.data, config.any_sensors)
    if partition >= len(people):
        raise UserError(
            f"partition-id {partition} has no person: data set {config.data.title!r} has {len(people)} training people"
        )
    return people[partition]


@lru_cache(maxsize=_CACHED_PEOPLE)
def _own_windows(folder: Path) -> Windows:
    return load_own(folder)


@lru_cache(maxsize=1)
def _people(settings: DataSettings, apart: bool) -> People:
    return training_people(settings, apart)


@lru_cache(maxsize=_CACHED_PEOPLE)
def _prepared(config: Config, partition: int, own: Path | None) -> TrainingData:
    return prepare(config, _windows_of(config, partition, own))
