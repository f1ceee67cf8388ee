"""Before the first round: who is there, do they measure the same, and what are the pooled channel statistics."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, cast

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from shared.config import FederationSettings
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Meta
from shared.errors import UserError
from shared.exchange import Manifest

LOG = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Member:
    """A client as it introduced itself: its Flower node, its partition and the id of its person."""

    node: int
    partition: int
    person: int


@dataclass(frozen=True)
class Federation:
    """The members, in the order of their partitions, and what they have in common.

    Args:
        members: Who takes part.
        statistics: Pooled over all members' windows.
        meta: Channels, units and rate of everybody's windows; class names stay with the clients.
        samples: T.
    """

    members: tuple[Member, ...]
    statistics: ChannelStatistics
    meta: Meta
    samples: int


def introduce_members(grid: Grid, settings: FederationSettings, manifest: Manifest) -> Federation:
    """Wait for the clients, ask each to introduce itself, and pool their channel statistics.

    A client that cannot answer, or that measures something else than the first one, is named in the log and left out.

    Raises:
        UserError: Fewer usable clients than ``federation.min_clients`` within ``federation.join_timeout`` seconds.
    """
    nodes = _wait_for_nodes(grid, settings.min_clients, settings.join_timeout)
    questions = [Message(RecordDict(), node, "query.introduce") for node in nodes]
    answers = grid.send_and_receive(questions, timeout=settings.join_timeout)
    sound, reasons = _sort_out(answers)
    if len(sound) < settings.min_clients:
        told = "; ".join(reasons) or f"the others did not answer within {settings.join_timeout:g} s"
        raise UserError(
            f"{len(sound)} of {settings.min_clients} clients (federation.min_clients) can take part: {told}"
        )
    for answer in sound:
        _count(answer, manifest)
    statistics = reduce(add, (_statistics(answer) for answer in sound))
    sensors = sound[0].content.config_records["sensors"]
    meta = Meta(
        name=str(sensors["data"]),
        channels=tuple(cast(list[str], sensors["channels"])),
        units=tuple(cast(list[str], sensors["units"])),
        rate=cast(float, sensors["rate"]),
        classes=(),
    )
    return Federation(tuple(map(_member, sound)), statistics, meta, cast(int, sensors["samples"]))


def _wait_for_nodes(grid: Grid, minimum: int, timeout: float) -> list[int]:
    deadline = time.monotonic() + timeout
    while len(nodes := list(grid.get_node_ids())) < minimum:
        if time.monotonic() > deadline:
            raise UserError(
                f"{len(nodes)} of {minimum} clients (federation.min_clients) joined within {timeout:g} s "
                "(federation.join_timeout)"
            )
        time.sleep(_POLL_SECONDS)
    return nodes


def _sort_out(answers: Iterable[Message]) -> tuple[list[Message], list[str]]:
    """Return the answers that fit together, by partition, and the reasons why others do not."""
    reasons = [answer.error.reason or "it failed" for answer in answers if answer.has_error()]
    sound = sorted((a for a in answers if a.has_content()), key=lambda answer: _member(answer).partition)
    fitting = [a for a in sound if _sensors(a) == _sensors(sound[0])]
    for answer in sound:
        if answer not in fitting:
            reasons.append(
                f"person {_member(answer).person} measures {_sensors(answer)}, the first one {_sensors(sound[0])}"
            )
    for reason in reasons:
        LOG.warning("a client is left out: %s", reason)
    return fitting, reasons


def _member(answer: Message) -> Member:
    metrics = answer.content.metric_records["metrics"]
    return Member(answer.metadata.src_node_id, cast(int, metrics["partition-id"]), cast(int, metrics["person"]))


def _sensors(answer: Message) -> dict[str, Any]:
    return dict(answer.content.config_records["sensors"])


def _statistics(answer: Message) -> ChannelStatistics:
    return ChannelStatistics.from_dict(answer.content.metric_records["metrics"])


def _count(answer: Message, manifest: Manifest) -> None:
    for kind, record in (("metric", answer.content.metric_records["metrics"]), ("sensor", _sensors(answer))):
        for name, value in record.items():
            length = len(value) if isinstance(value, list) else 1
            manifest.count("up", kind, name, (length,), 8 * length)
