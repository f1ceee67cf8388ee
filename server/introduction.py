"""Who is there, do they measure the same, and what are the pooled channel statistics of the first of them."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Self

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from shared.config import FederationSettings
from shared.data.statistics import ChannelStatistics, warn_of_constant
from shared.data.windows import Meta
from shared.errors import UserError
from shared.exchange import Manifest
from shared.settings import Settings

LOG = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Member:
    """A client as it introduced itself: its Flower node, its partition, the id and the windows of its person."""

    node: int
    partition: int
    person: int
    windows: int


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


class Sensors(Settings):
    """What a client measures; the same for all members."""

    data: str
    channels: tuple[str, ...] = Field(min_length=1)
    units: tuple[str, ...]
    rate: PositiveFloat
    samples: PositiveInt


class Introduction(Settings):
    """A client's answer to "who are you": the sums are over the samples of its windows, one for each channel."""

    partition: int = Field(alias="partition-id", ge=0)
    person: int
    windows: PositiveInt = Field(alias="num-examples")
    count: PositiveInt
    total: tuple[float, ...]
    squares: tuple[float, ...]
    sensors: Sensors

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        for name in ("total", "squares"):
            if (found := len(getattr(self, name))) != (expected := len(self.sensors.channels)):
                raise ValueError(f"{name} has {found} values for {expected} channels")
        return self

    @property
    def statistics(self) -> ChannelStatistics:
        """The channel statistics of this client's windows."""
        return ChannelStatistics.from_dict(self.model_dump())


class Introductions:
    """Asks clients who they are: all that are there before the first round, and who comes later as the rounds go on.

    A client that cannot answer, or that does not fit to those before it, is named in the log and left out; it is asked
    again before each round.

    Args:
        grid: Of the run.
        settings: ``min_clients`` and ``join_timeout``.
        manifest: Counts what the answers tell.
    """

    def __init__(self, grid: Grid, settings: FederationSettings, manifest: Manifest) -> None:
        self._grid = grid
        self._settings = settings
        self._manifest = manifest
        self._known: list[tuple[int, Introduction]] = []
        self._asked: dict[str, int] = {}
        self._logged: set[str] = set()

    def wait_for_members(self) -> Federation:
        """Wait for the clients, ask each to introduce itself, and pool their channel statistics.

        Raises:
            UserError: Fewer usable clients than ``federation.min_clients`` within ``federation.join_timeout`` seconds.
        """
        settings = self._settings
        nodes = _wait_for_nodes(self._grid, settings.min_clients, settings.join_timeout)
        answers = self._grid.send_and_receive(_questions(nodes), timeout=settings.join_timeout)
        reasons = self._take_in(answers)
        if len(self._known) < settings.min_clients:
            why = "; ".join(reasons) or f"the others did not answer within {settings.join_timeout:g} s"
            raise UserError(
                f"{len(self._known)} of {settings.min_clients} clients (federation.min_clients) can take part: {why}"
            )
        sensors = self._known[0][1].sensors
        return Federation(
            members=tuple(_member(node, one) for node, one in self._known),
            statistics=reduce(add, (one.statistics for _, one in self._known)),
            meta=Meta(sensors.data, sensors.channels, sensors.units, sensors.rate, classes=()),
            samples=sensors.samples,
        )

    def newcomers(self) -> list[Member]:
        """Return who has introduced itself since the last call, and ask those who are there and no members.

        Nobody waits for the answers: they are read by the next call, one round later.
        """
        known = len(self._known)
        answers = list(self._grid.pull_messages(list(self._asked))) if self._asked else []
        for answer in answers:
            del self._asked[answer.metadata.reply_to_message_id]
        self._take_in(answers)
        strangers = set(self._grid.get_node_ids()) - {node for node, _ in self._known} - set(self._asked.values())
        for node in sorted(strangers):
            self._asked |= {sent: node for sent in self._grid.push_messages(_questions([node])) if sent}
        return [_member(node, one) for node, one in self._known[known:]]

    def _take_in(self, answers: Iterable[Message]) -> list[str]:
        """Add those whose introductions fit, by partition, and return the reasons why others do not."""
        introduced: list[tuple[int, Introduction]] = []
        reasons: list[str] = []
        before = len(self._known)
        for answer in answers:
            _count(answer, self._manifest)
            try:
                introduced.append((answer.metadata.src_node_id, _read(answer)))
            except UserError as error:
                reasons.append(str(error))
        for node, one in sorted(introduced, key=lambda pair: (pair[1].partition, pair[0])):
            if complaint := _conflict(one, [other for _, other in self._known]):
                reasons.append(f"person {one.person} {complaint}")
            else:
                self._known.append((node, one))
        if new := [one for _, one in self._known[before:]]:
            warn_of_constant({one.person: one.statistics for one in new}, new[0].sensors.channels)
        for reason in reasons:
            if reason not in self._logged:
                LOG.warning("a client is left out: %s", reason)
        self._logged.update(reasons)
        return reasons


def _questions(nodes: Iterable[int]) -> list[Message]:
    return [Message(RecordDict(), node, "query.introduce") for node in nodes]


def _member(node: int, one: Introduction) -> Member:
    return Member(node, one.partition, one.person, one.windows)


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


def _read(answer: Message) -> Introduction:
    if answer.has_error():
        raise UserError(answer.error.reason or "it failed")
    content = answer.content
    values = dict(content.metric_records.get("metrics", {}))
    sensors = dict(content.config_records.get("sensors", {}))
    try:
        return Introduction.model_validate(values | {"sensors": sensors})
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "it"
        raise UserError(
            f"node {answer.metadata.src_node_id} introduced itself badly: {place}: {problem['msg']}"
        ) from None


def _conflict(one: Introduction, others: list[Introduction]) -> str:
    """Say why a client cannot be a member beside the others; "" if it can."""
    if others and one.sensors != others[0].sensors:
        return f"measures {one.sensors}, the first one {others[0].sensors}"
    for name in ("partition", "person"):
        if getattr(one, name) in {getattr(other, name) for other in others}:
            return f"has the {name} of another client"
    return ""


def _count(answer: Message, manifest: Manifest) -> None:
    if answer.has_content():
        records: dict[str, Any] = {"metric": answer.content.metric_records, "sensor": answer.content.config_records}
        for kind, found in records.items():
            for values in found.values():
                manifest.count_values("up", kind, values)
