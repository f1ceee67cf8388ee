"""Who is there, do they measure the same, and what are the pooled channel statistics of the first of them."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from math import prod
from operator import add
from typing import Self

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from pydantic import Field, model_validator

from shared.body import in_common, pooled_by_kind
from shared.config import FederationSettings
from shared.data.person import Person
from shared.data.spec import InputSpec, Name
from shared.data.statistics import ChannelStatistics, warn_of_constant
from shared.data.windows import Meta
from shared.errors import UserError
from shared.exchange import Manifest, shape_of
from shared.wire import Sums, quoted, read_record, readable

LOG = logging.getLogger(__name__)

_POLL_SECONDS = 0.2

_HINT = "; with encoder.name=sensors people with different sensors train one encoder"


@dataclass(frozen=True)
class Member:
    """A client as it introduced itself: its Flower node, its partition, the id and the windows of its person."""

    node: int
    partition: int
    person: str
    windows: int


@dataclass(frozen=True)
class Federation:
    """The members, in the order of their partitions, and what they have in common.

    Args:
        members: Who takes part.
        statistics: Pooled over all members' windows; by kind of sensor where sensors may differ.
        meta: See ``Introductions.meta``.
    """

    members: tuple[Member, ...]
    statistics: ChannelStatistics
    meta: Meta


class Introduction(Sums):
    """A client's answer to "who are you": the sums are over the samples of its windows, one for each channel.

    What it measures, ``sensors`` and the name of the data set, is the same for all members. If the encoder takes any
    sensors, only the rate is.
    """

    partition: int = Field(alias="partition-id", ge=0, lt=2**63)
    person: Person
    windows: int = Field(alias="num-examples", gt=0, le=1_000_000_000)
    data: Name
    sensors: InputSpec

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Self:
        if (found := len(self.total)) != (expected := len(self.sensors.channels)):
            raise ValueError(f"total has {found} values for {expected} channels")
        if self.count > (samples := self.windows * prod(self.sensors.size)):
            raise ValueError(f"count is {self.count}, the windows have {samples} samples")
        return self

    @property
    def meta(self) -> Meta:
        """What the windows are."""
        return Meta(self.data, self.sensors, classes=())


class Introductions:
    """Asks clients who they are: all that are there before the first round, and who comes later as the rounds go on.

    A client that cannot answer, or that does not fit to those before it, is named in the log and left out; it is asked
    again before each round.

    Args:
        grid: Of the run.
        settings: ``min_clients`` and ``join_timeout``.
        manifest: Counts what the answers tell.
        any_sensors: Whether members may have different sensors, and different data sets.
        takes: Raises a ``UserError`` where the encoder cannot take such windows.
    """

    def __init__(
        self,
        grid: Grid,
        settings: FederationSettings,
        manifest: Manifest,
        any_sensors: bool,
        takes: Callable[[InputSpec], object],
    ) -> None:
        self._grid = grid
        self._settings = settings
        self._manifest = manifest
        self._any_sensors = any_sensors
        self._takes = takes
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
        known = [one for _, one in self._known]
        return Federation(
            members=tuple(_member(node, one) for node, one in self._known),
            statistics=pooled_by_kind([(one.sensors, one.statistics) for one in known])
            if self._any_sensors
            else reduce(add, (one.statistics for one in known)),
            meta=self.meta,
        )

    @property
    def meta(self) -> Meta:
        """What everybody's windows are, without class names, which stay with the clients.

        Where sensors may differ, it has every sensor, and the names of all data sets.
        """
        known = [one for _, one in self._known]
        if not self._any_sensors:
            return known[0].meta
        common = in_common([one.meta for one in known])
        return replace(common, name=readable(common.name))

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
            try:
                introduced.append((answer.metadata.src_node_id, self._read(answer)))
            except UserError as error:
                reasons.append(str(error))
        # The first member tells what all must measure: it is one of those with whom the most agree.
        votes = Counter(self._shared(one) for _, one in introduced)
        for node, one in sorted(
            introduced, key=lambda pair: (-votes[self._shared(pair[1])], pair[1].partition, pair[0])
        ):
            if complaint := _conflict(one, [other for _, other in self._known], self._any_sensors, self._takes):
                reasons.append(f"person {one.person} {complaint}")
            else:
                self._known.append((node, one))
        new = [one for _, one in self._known[before:]]
        for channels in dict.fromkeys(one.sensors.channels for one in new):
            warn_of_constant({one.person: one.statistics for one in new if one.sensors.channels == channels}, channels)
        for reason in reasons:
            if reason not in self._logged:
                LOG.warning("a client is left out: %s", reason)
        self._logged.update(reasons)
        return reasons

    def _shared(self, one: Introduction) -> object:
        """What must be the same for all members."""
        return one.sensors.rate if self._any_sensors else one.meta

    def _read(self, answer: Message) -> Introduction:
        """Return what a client tells of itself, and count what it sent, usable or not.

        Raises:
            UserError: It cannot be used; says why.
        """
        if answer.has_error():
            raise UserError(readable(answer.error.reason or "it failed"))
        content, expected = answer.content, {}
        try:
            if set(content.metric_records) != {"metrics"} or set(content.config_records) != {"sensors"}:
                raise UserError(f"expected records 'metrics' and 'sensors', found {quoted(sorted(content))}")
            if content.array_records:
                raise UserError(f"expected no arrays, found {quoted(sorted(content.array_records))}")
            sensors = dict(content["sensors"])
            texts = {name: sensors.pop(name, None) for name in ("person", "data")}
            values = dict(content["metrics"]) | texts | {"sensors": sensors}
            introduction = read_record(Introduction, values)
            expected = {place: {name: shape_of(value) for name, value in content[place].items()} for place in content}
        except UserError as error:
            raise UserError(f"node {answer.metadata.src_node_id} introduced itself badly: {error}") from None
        finally:
            self._manifest.count_reply(content, expected)
        return introduction


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


def _conflict(
    one: Introduction, others: list[Introduction], any_sensors: bool, takes: Callable[[InputSpec], object]
) -> str:
    """Say why a client cannot be a member beside the others; "" if it can."""
    if any_sensors or not others:
        try:
            takes(one.sensors)
        except UserError as error:
            return f"has what the encoder cannot take: {readable(str(error))}"
    if any_sensors:
        if others and (difference := others[0].sensors.rate_difference(one.sensors)):
            return f"does not measure as the others do: {difference}"
    elif others and one.data != others[0].data:
        return f"has the data set {quoted(one.data)}, the others {quoted(others[0].data)}"
    elif others and (difference := others[0].sensors.difference(one.sensors)):
        hint = "" if others[0].sensors.rate_difference(one.sensors) else _HINT
        return f"does not measure what the others do: {readable(difference)}{hint}"
    for name in ("partition", "person"):
        if getattr(one, name) in {getattr(other, name) for other in others}:
            return f"has the {name} of another client"
    return ""
