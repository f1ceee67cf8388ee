"""Federated averaging of encoders (McMahan et al. 2017) over people, with every reply checked before it counts."""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from numpy.typing import NDArray

from server.introduction import Member
from shared.config import Config
from shared.errors import UserError
from shared.exchange import Manifest, arrays_of, mismatch
from shared.seeding import derive_seed
from shared.tracking import Tracker

LOG = logging.getLogger(__name__)


class PeopleFedAvg(FedAvg):
    """Flower's FedAvg with a reproducible cohort, checked replies and a fixed order of summation.

    Args:
        members: The clients that introduced themselves.
        config: ``federation.fraction`` of the members, at least one, is drawn for each round, from ``seed``. Partition
            ids are drawn, because node ids differ from run to run.
        done: Rounds done before this start; Flower counts from one at every start.
        tracker: Gets a row for each client and round.
        manifest: Counts what crosses the wire.
    """

    def __init__(
        self,
        members: Sequence[Member],
        config: Config,
        done: int,
        tracker: Tracker,
        manifest: Manifest,
    ) -> None:
        super().__init__(
            fraction_train=config.federation.fraction,
            fraction_evaluate=0.0,
            min_train_nodes=1,
            min_available_nodes=1,
            train_metrics_aggr_fn=_average_losses,
        )
        self.members = {member.partition: member for member in members}
        self.seed = config.seed
        self.done = done
        self.tracker = tracker
        self.manifest = manifest
        self._sent: dict[str, NDArray[Any]] = {}
        self._cohort: list[Member] = []
        self._last = time.perf_counter()
        self._metric_names = {"partition-id", "num-examples", "loss", "seconds"} | {
            f"loss.{name}" for name in config.enabled_tasks
        }

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the encoder to this round's cohort."""
        true_round = self.done + server_round
        config["server-round"] = true_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        self._sent = arrays_of(arrays)
        self._cohort = self.draw_cohort(true_round)
        for _ in self._cohort:
            self.manifest.count_arrays("down", self._sent)
            self.manifest.count_values("down", "config", config)
        return self._construct_messages(record, [member.node for member in self._cohort], MessageType.TRAIN)

    def draw_cohort(self, true_round: int) -> list[Member]:
        """Draw the round's clients by partition id, in ascending order."""
        partitions = sorted(self.members)
        size = max(1, round(self.fraction_train * len(partitions)))
        generator = np.random.default_rng(derive_seed(self.seed, "cohort", true_round))
        return [self.members[p] for p in sorted(generator.choice(partitions, size, replace=False).tolist())]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the sound replies, in the order of their partitions, weighted by windows.

        Raises:
            UserError: No reply of the round can be used; the reasons are listed.
        """
        true_round = self.done + server_round
        sound, reasons = self._sort_out(replies)
        for reason in reasons:
            LOG.warning("round %d: dropped %s", true_round, reason)
        if not sound:
            raise UserError(f"round {true_round}: no client sent a usable reply; {'; '.join(reasons)}")
        for partition in sorted(sound):
            self._take_note(true_round, self.members[partition], sound[partition])
        arrays, metrics = super().aggregate_train(server_round, [sound[p] for p in sorted(sound)])
        now = time.perf_counter()
        counts = {"clients": len(sound), "dropped": len(reasons), "seconds": now - self._last}
        self._last = now
        self.tracker.log("round", true_round, dict(metrics or {}) | counts)
        return arrays, metrics

    def _sort_out(self, replies: Iterable[Message]) -> tuple[dict[int, Message], list[str]]:
        """Return the usable replies by partition, and for everybody else of the cohort what was wrong."""
        sound: dict[int, Message] = {}
        reasons: list[str] = []
        silent = {member.node: member for member in self._cohort}
        for reply in replies:
            if reply.has_content():
                self._count(reply)
            member = silent.pop(reply.metadata.src_node_id, None)
            if member is None:  # Flower itself answers for a node that is gone
                told = reply.error.reason if reply.has_error() else "it was not asked"
                reasons.append(f"a reply of node {reply.metadata.src_node_id}: {told}")
            elif complaint := self._complaint(reply):
                reasons.append(f"the reply of person {member.person}: {complaint}")
            else:
                sound[member.partition] = reply
        reasons += [f"person {member.person}, who did not answer in time" for member in silent.values()]
        return sound, reasons

    def _complaint(self, reply: Message) -> str:
        """Say why a reply cannot be used; "" if it can."""
        if reply.has_error():
            return reply.error.reason or "it failed"
        content = reply.content
        if set(content.array_records) != {"arrays"} or set(content.metric_records) != {"metrics"}:
            return f"expected records 'arrays' and 'metrics', found {sorted(content)}"
        metrics = content.metric_records["metrics"]
        examples = metrics.get("num-examples")
        if not isinstance(examples, int) or examples < 1:
            return f"num-examples must be a positive count, found {examples!r}"
        if set(metrics) != self._metric_names:
            return f"expected metrics {sorted(self._metric_names)}, found {sorted(metrics)}"
        if broken := [k for k, v in metrics.items() if not np.isfinite(v).all()]:
            return f"metric {broken[0]} is not finite"
        return mismatch(arrays_of(content.array_records["arrays"]), self._sent)

    def _count(self, reply: Message) -> None:
        """Count all that came, usable or not: it has left the device."""
        for arrays in reply.content.array_records.values():
            self.manifest.count_arrays("up", arrays_of(arrays))
        for metrics in reply.content.metric_records.values():
            self.manifest.count_values("up", "metric", metrics)

    def _take_note(self, true_round: int, member: Member, reply: Message) -> None:
        metrics = dict(reply.content.metric_records["metrics"])
        del metrics["partition-id"]
        self.tracker.log("client", true_round, {"person": member.person} | metrics)


def _average_losses(records: list[RecordDict], weight_key: str) -> MetricRecord:
    """Average what is a mean over windows; an average partition number or duration would mean nothing."""
    averaged = aggregate_metricrecords(records, weight_key)
    return MetricRecord({k: v for k, v in averaged.items() if k.startswith("loss")})
