"""The rounds of the federation: who is asked, whose reply counts, and what the next encoder is made of."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from numpy.typing import NDArray

from server.aggregation import Aggregator, find_outliers
from server.introduction import Member
from shared.compression import Arrays, decompress, wire_forms
from shared.config import AVERAGING, Config
from shared.errors import UserError
from shared.exchange import Manifest, arrays_of, mismatch
from shared.metrics import Row
from shared.privacy import Ledger, clip_update, private_mean, update_norm
from shared.seeding import derive_seed
from shared.tracking import Tracker
from shared.wire import Form, differing_names, quoted, read_arrays, readable

LOG = logging.getLogger(__name__)

_LARGEST = float(np.finfo(np.float32).max)
"""Of a metric: clients compute in float32, and a mean of such numbers is finite in float64."""


class PeopleStrategy(Strategy):
    """A Flower strategy with a reproducible cohort, checked replies and a fixed order of summation.

    Args:
        members: The clients that introduced themselves before the first round.
        newcomers: Called before each round: who has introduced itself since.
        save: Called with the number of each round that has ended, the arrays and the rows it gave.
        config: ``federation.fraction`` of the members, at least one, is drawn for each round, from ``seed``. Partition
            ids are drawn, because node ids differ from run to run.
        done: Rounds done before this start; Flower counts from one at every start.
        tracker: Gets a row for each client and round.
        manifest: Counts what crosses the wire.
        aggregator: Makes the next encoder of the replies.
        ledger: Counts each person's rounds where there is privacy to account for.

    Raises:
        UserError: A cohort too small for the aggregation.
    """

    def __init__(
        self,
        members: Sequence[Member],
        newcomers: Callable[[], Sequence[Member]],
        save: Callable[[int, ArrayRecord, list[Row]], None],
        config: Config,
        done: int,
        tracker: Tracker,
        manifest: Manifest,
        aggregator: Aggregator,
        ledger: Ledger,
    ) -> None:
        self.members = {member.partition: member for member in members}
        self.newcomers = newcomers
        self.save = save
        self.config = config
        self.done = done
        self.tracker = tracker
        self.manifest = manifest
        self.aggregator = aggregator
        self.ledger = ledger
        aggregator.check_count(self.cohort_size, "the cohort of a round")
        self._sent: dict[str, NDArray[Any]] = {}
        self._forms: dict[str, Form] = {}
        self._asked: list[tuple[Message, Member]] = []
        self._last = time.perf_counter()
        self._metric_names = ["partition-id", "num-examples", "loss", "seconds"]
        self._metric_names += [f"loss.{name}" for name in config.enabled_tasks]

    @property
    def cohort_size(self) -> int:
        """Number of clients in a round."""
        return max(1, round(self.config.federation.fraction * len(self.members)))

    def summary(self) -> None:
        """Flower asks for this; the run's ``config.yaml`` tells it all."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the encoder to this round's cohort."""
        true_round = self.done + server_round
        config["server-round"] = true_round
        record = RecordDict({"arrays": arrays, "config": config})
        self._sent = arrays_of(arrays)
        self._forms = wire_forms(self._sent, self.config.federation.upload)
        for member in self.newcomers():
            self.members[member.partition] = member
            LOG.info("round %d: person %s has joined", true_round, member.person)
        cohort = self.draw_cohort(true_round)
        self.ledger.count(member.person for member in cohort)
        for _ in cohort:
            self.manifest.count_arrays("down", self._sent)
            self.manifest.count_values("down", "config", config)
        self._asked = [(Message(record, member.node, MessageType.TRAIN), member) for member in cohort]
        return [message for message, _ in self._asked]

    def draw_cohort(self, true_round: int) -> list[Member]:
        """Draw the round's clients by partition id, in ascending order."""
        generator = np.random.default_rng(derive_seed(self.config.seed, "cohort", true_round))
        drawn = generator.choice(sorted(self.members), self.cohort_size, replace=False)
        return [self.members[partition] for partition in sorted(drawn.tolist())]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the sound replies, in the order of their partitions.

        Raises:
            UserError: No reply of the round can be used (the reasons are listed), or too few for the aggregation.
        """
        true_round = self.done + server_round
        sound, reasons = self._sort_out(replies)
        if not sound:
            raise UserError(f"round {true_round}: no client sent a usable reply; {'; '.join(reasons)}")
        reasons += self._limit_outliers(true_round, sound)
        for reason in reasons:
            LOG.warning("round %d: dropped %s", true_round, reason)
        used = [sound[partition] for partition in sorted(sound)]
        rows = [_row(true_round, self.members[partition], sound[partition]) for partition in sorted(sound)]
        losses = _average_losses([reply.content for reply in used], "num-examples")
        arrays = self.aggregator.step(true_round, self._sent, self._made_private(used))
        now = time.perf_counter()
        counts = {"clients": len(used), "dropped": len(reasons), "seconds": now - self._last}
        self._last = now
        rows.append({"kind": "round", "round": true_round} | dict(losses) | counts)
        self.save(true_round, arrays, rows)  # at once: what follows speaks to the SuperLink, which may be gone
        self.tracker.log(rows)
        return arrays, losses

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nobody: an encoder is judged by a probe, after the run."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nobody was asked."""
        return None

    def _limit_outliers(self, true_round: int, sound: dict[int, Message]) -> list[str]:
        """Drop or clip the replies that moved too far, and return the reasons of those dropped.

        Robust aggregations do this by themselves. Central privacy clips everybody, and a bound that depends on the
        others' data would break its guarantee.
        """
        settings = self.config.federation.aggregation
        if settings.outliers == "keep" or settings.name not in AVERAGING or self.config.privacy.name == "central":
            return []
        reasons = []
        updates = {partition: _arrays(reply) for partition, reply in sound.items()}
        for partition, allowed in find_outliers(settings, self._sent, updates).items():
            complaint = (
                f"the reply of person {self.members[partition].person}: its update has the norm "
                f"{update_norm(self._sent, updates[partition]):.3g}, over {allowed:.3g}, which is "
                f"{settings.outlier_factor:g} times the round's median (federation.aggregation.outlier_factor)"
            )
            if settings.outliers == "drop":
                del sound[partition]
                reasons.append(complaint)
            else:
                _put(sound[partition], clip_update(self._sent, updates[partition], allowed))
                LOG.warning("round %d: clipped %s", true_round, complaint)
        return reasons

    def _made_private(self, replies: list[Message]) -> list[Message]:
        """With privacy all people count the same; central: their noisy mean takes the place of all replies."""
        privacy = self.config.privacy
        if privacy.name == "none":
            return replies
        for reply in replies:
            reply.content.metric_records["metrics"]["num-examples"] = 1
        if privacy.name == "local":
            return replies
        _put(replies[0], private_mean(self._sent, [_arrays(reply) for reply in replies], privacy))
        return replies[:1]

    def _sort_out(self, replies: Iterable[Message]) -> tuple[dict[int, Message], list[str]]:
        """Return the usable replies by partition, and for everybody else of the cohort what was wrong."""
        sound: dict[int, Message] = {}
        reasons: list[str] = []
        # Flower numbers a message when it sends it. For a node that is gone it answers itself, as another node.
        silent = {message.metadata.message_id: member for message, member in self._asked}
        for reply in replies:
            member = silent.pop(reply.metadata.reply_to_message_id, None)
            who = f"person {member.person}" if member else f"node {reply.metadata.src_node_id}"
            try:
                if member is None:
                    raise UserError("it was not asked")
                _put(reply, self._read(reply, member))
                sound[member.partition] = reply
            except UserError as complaint:
                reasons.append(f"the reply of {who}: {complaint}")
        reasons += [f"person {member.person}, who did not answer in time" for member in silent.values()]
        return sound, reasons

    def _read(self, reply: Message, member: Member) -> dict[str, NDArray[Any]]:
        """Return the trained arrays of a reply, in the order that was sent: some strategies pair them by position.

        Raises:
            UserError: The reply cannot be used; says why.
        """
        if reply.has_error():
            raise UserError(readable(reply.error.reason or "it failed"))
        content = reply.content
        self.manifest.count_reply(content, {"arrays": self._forms, "metrics": dict.fromkeys(self._metric_names, ())})
        if set(content.array_records) != {"arrays"} or set(content.metric_records) != {"metrics"} or len(content) > 2:
            raise UserError(f"expected records 'arrays' and 'metrics', found {quoted(sorted(content))}")
        self._check_metrics(content.metric_records["metrics"], member)
        arrays = read_arrays(content.array_records["arrays"], self._forms)
        with np.errstate(over="ignore", invalid="ignore"):  # mismatch names it
            trained = decompress(self._sent, arrays, self.config.federation.upload)
        if complaint := mismatch(trained, self._sent):
            raise UserError(complaint)
        return trained

    def _check_metrics(self, metrics: MetricRecord, member: Member) -> None:
        if complaint := differing_names(metrics, self._metric_names, "metrics"):
            raise UserError(complaint)
        for name, value in metrics.items():
            if not isinstance(value, int | float) or not abs(value) <= _LARGEST:
                raise UserError(f"metric {name} is {quoted(value)}, expected a finite number")
        expected = self.config.train.windows_of(member.windows)
        if (found := metrics["num-examples"]) != expected:  # it weighs the reply
            raise UserError(
                f"num-examples is {found}, but the person introduced itself with {member.windows} windows, of which an "
                f"epoch takes {expected}"
            )
        if (found := metrics["partition-id"]) != member.partition:
            raise UserError(f"partition-id is {found}, but the person introduced itself with {member.partition}")


def _row(true_round: int, member: Member, reply: Message) -> Row:
    metrics = dict(reply.content.metric_records["metrics"])
    del metrics["partition-id"]
    return {"kind": "client", "round": true_round, "person": member.person} | metrics


def _average_losses(records: list[RecordDict], weight_key: str) -> MetricRecord:
    """Average what is a mean over windows; an average partition number or duration would mean nothing."""
    averaged = aggregate_metricrecords(records, weight_key)
    return MetricRecord({k: v for k, v in averaged.items() if k.startswith("loss")})


def _arrays(reply: Message) -> dict[str, NDArray[Any]]:
    return arrays_of(reply.content.array_records["arrays"])


def _put(reply: Message, arrays: Arrays) -> None:
    reply.content["arrays"] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
