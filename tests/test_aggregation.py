"""Every aggregation in a real federation: against arithmetic written out here, after a stop, and under attack."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from test_federation import PEOPLE, StoppedError, configure, encoder_bytes, federate, intercepted, replaced

from server.aggregation import STRATEGIES, find_outliers
from server.strategy import PeopleStrategy
from shared.checkpoint import load_encoder
from shared.config import AVERAGING, ROBUST, AggregationSettings, Config
from shared.errors import UserError
from shared.exchange import arrays_of, outgoing
from shared.metrics import read_metrics

pytestmark = pytest.mark.numerics

Arrays = dict[str, np.ndarray]
Round = tuple[Arrays, list[tuple[int, Arrays]]]
"""What was sent, and the replies in the order of their partitions with their numbers of windows."""

SETUP = ["federation.aggregation.trimmed=0.25"]
SETUP += [f"tasks.{task}.enabled=false" for task in ("transformation", "contrastive", "features")]
"""A share that trims four replies, and one cheap task: what trains is not the point here."""


def aggregating(name: str, *overrides: str) -> Config:
    """A run with an aggregation; krum needs more people than the synthetic four."""
    people = ["data.name=watch"] if name == "krum" else []
    return configure(f"federation.aggregation.name={name}", *SETUP, *people, *overrides)


def people_of(config: Config) -> int:
    return 7 if config.data.name == "watch" else PEOPLE


class Wire:
    """The real client behind a mod that remembers what crossed the wire, and may change the replies of partition 2."""

    def __init__(self, spoil: Callable[[Arrays], Arrays] | None = None) -> None:
        self._seen: dict[int, tuple[Arrays, dict[int, tuple[int, Arrays]]]] = {}
        self._spoil = spoil
        self.app = intercepted(self._change)

    def _change(self, message: Message, reply: Message, context: Context) -> Message | None:
        partition = int(context.node_config["partition-id"])
        sent = arrays_of(message.content.array_records["arrays"])
        arrays = arrays_of(reply.content.array_records["arrays"])
        spoiled = partition == 2 and self._spoil is not None
        if spoiled:
            arrays = self._spoil(arrays)
        count = reply.content.metric_records["metrics"]["num-examples"]
        server_round = message.content.config_records["config"]["server-round"]
        self._seen.setdefault(server_round, (sent, {}))[1][partition] = (count, arrays)
        return replaced(message, reply, arrays) if spoiled else None

    @property
    def rounds(self) -> list[Round]:
        seen = [self._seen[server_round] for server_round in sorted(self._seen)]
        return [(sent, [replies[partition] for partition in sorted(replies)]) for sent, replies in seen]


def final(folder: Path) -> Arrays:
    return outgoing(load_encoder(folder)[0], "average")


def is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var"))


def mean(replies: list[tuple[int, Arrays]], name: str) -> np.ndarray:
    total = sum(count for count, _ in replies)
    return sum(count / total * arrays[name].astype(np.float64) for count, arrays in replies)


def krum_choice(replies: list[tuple[int, Arrays]], byzantine: int) -> Arrays:
    flat = [np.concatenate([value.ravel() for value in arrays.values()]).astype(np.float64) for _, arrays in replies]
    apart = np.array([[np.square(a - b).sum() for b in flat] for a in flat])
    scores = np.sort(apart, axis=1)[:, 1 : len(flat) - byzantine - 1].sum(axis=1)
    return replies[int(scores.argmin())][1]


def expected_arrays(settings: AggregationSettings, rounds: list[Round]) -> list[Arrays]:
    """The encoder after each round, in float64, from the papers' formulas."""
    first: Arrays = {}
    second: Arrays = {}
    results = []
    for number, (sent, replies) in enumerate(rounds, start=1):
        result: Arrays = {}
        for name, old in sent.items():
            stacked = np.stack([arrays[name] for _, arrays in replies]).astype(np.float64)
            update = mean(replies, name) - old
            if settings.name == "fedmedian":
                result[name] = np.median(stacked, axis=0)
            elif settings.name == "fedtrimmedavg":
                cut = int(settings.trimmed * len(replies))
                result[name] = np.sort(stacked, axis=0)[cut : len(replies) - cut].mean(axis=0)
            elif settings.name == "krum":
                result[name] = krum_choice(replies, settings.byzantine)[name]
            elif settings.name in ("fedavg", "fedprox") or is_statistic(name):
                result[name] = old + update
            elif settings.name == "fedavgm":
                first[name] = settings.momentum * first.get(name, 0) + update
                result[name] = old + settings.learning_rate * first[name]
            else:
                beta, gamma, before = settings.momentum, settings.second_moment, second.get(name, np.zeros_like(update))
                first[name] = beta * first.get(name, 0) + (1 - beta) * update
                squared, rate = np.square(update), settings.adaptive_rate
                if settings.name == "fedadam":
                    second[name] = gamma * before + (1 - gamma) * squared
                    rate *= math.sqrt(1 - gamma ** (number + 1)) / (1 - beta ** (number + 1))
                else:
                    second[name] = before - (1 - gamma) * squared * np.sign(before - squared)
                result[name] = old + rate * first[name] / (np.sqrt(second[name]) + settings.adaptivity)
        results.append(result)
    return results


def test_the_configuration_knows_the_names_of_the_registry() -> None:
    assert tuple(STRATEGIES) == AVERAGING + ROBUST
    with pytest.raises(UserError, match=r"unknown aggregation 'fedavgn'.*did you mean 'fedavg.*fedyogi.*krum"):
        configure("federation.aggregation.name=fedavgn")


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_rounds_are_what_the_papers_say(name: str, tmp_path: Path) -> None:
    config = aggregating(name, "federation.rounds=2")
    wire = Wire()
    federate(tmp_path / "run", config, wire.app, people_of(config))
    after = [wire.rounds[1][0], final(tmp_path / "run")]
    for found, expected in zip(after, expected_arrays(config.federation.aggregation, wire.rounds), strict=True):
        assert set(found) == set(expected)
        for key, value in expected.items():
            assert found[key].dtype == np.float32
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_stopped_and_resumed_run_equals_an_unbroken_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = aggregating(name)
    federate(tmp_path / "unbroken", config, clients=people_of(config))
    configure_train = PeopleStrategy.configure_train

    def stop_before(self: PeopleStrategy, server_round: int, *rest: object) -> object:
        if self.done + server_round == 3:
            raise StoppedError
        return configure_train(self, server_round, *rest)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(PeopleStrategy, "configure_train", stop_before)
        federate(tmp_path / "stopped", config, clients=people_of(config))
    federate(tmp_path / "stopped", config, clients=people_of(config))
    assert encoder_bytes(tmp_path / "stopped") == encoder_bytes(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavgm", "krum"])
def test_the_order_of_the_arrays_in_a_reply_does_not_matter(name: str, tmp_path: Path) -> None:
    def reverse(message: Message, reply: Message, context: Context) -> Message:
        if context.node_config["partition-id"] % 2:
            record = reply.content.array_records["arrays"]
            reply.content["arrays"] = ArrayRecord(dict(reversed(record.items())))
        return reply

    config = aggregating(name, "federation.rounds=2")
    federate(tmp_path / "straight", config, clients=people_of(config))
    federate(tmp_path / "reversed", config, intercepted(reverse), people_of(config))
    assert encoder_bytes(tmp_path / "reversed") == encoder_bytes(tmp_path / "straight")


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_no_variance_is_pushed_below_zero(name: str, tmp_path: Path) -> None:
    """A large server step moves weights only."""
    large = ["federation.aggregation.learning_rate=10", "federation.aggregation.adaptive_rate=10"]
    wire = Wire()
    federate(tmp_path / "run", aggregating(name, *large, "federation.rounds=1"), wire.app)
    found, (sent, replies) = final(tmp_path / "run"), wire.rounds[0]
    for key in filter(is_statistic, sent):
        np.testing.assert_allclose(found[key], mean(replies, key), rtol=1e-5, atol=1e-6)


def update_norms(folder: Path, config: Config) -> list[float]:
    wire = Wire()
    federate(folder, config, wire.app)
    sent, replies = wire.rounds[0]
    weights = [name for name in sent if not is_statistic(name)]
    return [math.sqrt(sum(np.square(arrays[n] - sent[n]).sum() for n in weights)) for _, arrays in replies]


@pytest.mark.slow
def test_fedprox_pulls_towards_the_received_weights_and_with_mu_0_is_fedavg(tmp_path: Path) -> None:
    few = ["federation.rounds=1", "federation.local_epochs=3", "train.warmup=0"]
    norms = []
    for mu in (0, 1, 10):
        config = aggregating("fedprox", f"federation.aggregation.proximal_mu={mu}", *few)
        norms.append(update_norms(tmp_path / f"mu-{mu}", config))
    for none, some, much in zip(*norms, strict=True):
        assert none > some > much
    federate(tmp_path / "fedavg", aggregating("fedavg", *few))
    assert encoder_bytes(tmp_path / "fedavg") == encoder_bytes(tmp_path / "mu-0")
    assert encoder_bytes(tmp_path / "fedavg") != encoder_bytes(tmp_path / "mu-1")


@pytest.mark.parametrize("name", ROBUST)
def test_a_robust_aggregation_stays_among_the_honest_replies(name: str, tmp_path: Path) -> None:
    wire = Wire(lambda arrays: {key: -1000 * value for key, value in arrays.items()})
    config = aggregating(name, "federation.rounds=1")
    federate(tmp_path / "run", config, wire.app, people_of(config))
    _, replies = wire.rounds[0]
    honest = [arrays for index, (_, arrays) in enumerate(replies) if index != 2]
    for key, value in final(tmp_path / "run").items():
        stacked = np.stack([arrays[key] for arrays in honest])
        assert (value >= stacked.min(axis=0) - 1e-6).all()
        assert (value <= stacked.max(axis=0) + 1e-6).all()


@pytest.mark.parametrize("what", ["drop", "clip", "keep"])
def test_weights_a_thousand_times_too_large(what: str, tmp_path: Path) -> None:
    wire = Wire(lambda arrays: {key: 1000 * value for key, value in arrays.items()})
    folder = tmp_path / "run"
    config = configure("federation.rounds=1", f"federation.aggregation.outliers={what}")
    federate(folder, config, wire.app)
    sent, replies = wire.rounds[0]
    log, row = (folder / "server.log").read_text(), list(read_metrics(folder / "metrics.jsonl"))[-1]
    norms = [math.sqrt(sum(np.square(arrays[n] - sent[n]).sum() for n in sent)) for _, arrays in replies]
    allowed = config.federation.aggregation.outlier_factor * np.median(norms)
    assert norms[2] > allowed
    assert (row["clients"], row["dropped"]) == ((PEOPLE - 1, 1) if what == "drop" else (PEOPLE, 0))
    if what == "keep":
        used = replies
    elif what == "drop":
        used = [reply for index, reply in enumerate(replies) if index != 2]
        assert "dropped the reply of person 3: its update has the norm" in log
    else:
        count, arrays = replies[2]
        shrunk = {n: sent[n] + allowed / norms[2] * (arrays[n] - sent[n]) for n in sent}
        used = [*replies[:2], (count, shrunk), *replies[3:]]
        assert "clipped the reply of person 3" in log
    for key, value in final(folder).items():
        np.testing.assert_allclose(value, mean(used, key), rtol=1e-4, atol=1e-4)


@given(st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=2), st.floats(2.001, 100))
def test_of_one_or_two_replies_none_is_an_outlier(values: list[float], factor: float) -> None:
    settings = configure().federation.aggregation.model_copy(update={"outlier_factor": factor})
    replies = {index: {"w": np.array([value])} for index, value in enumerate(values)}
    assert find_outliers(settings, {"w": np.zeros(1)}, replies) == {}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["federation.aggregation.name=krum"], r"the cohort.*name=krum needs 5 usable .*byzantine=1\), found 4"),
        (["federation.aggregation.name=fedtrimmedavg"], r"name=fedtrimmedavg needs 5 .*trimmed=0.2.*found 4"),
        (["federation.aggregation.name=fedmedian", "federation.fraction=0.5"], r"name=fedmedian needs 3.*found 2"),
    ],
)
def test_a_cohort_too_small_for_the_aggregation_is_refused_before_training(
    overrides: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        federate(tmp_path / "run", configure(*overrides))
    assert not (tmp_path / "run" / "clients").exists()


def test_too_few_replies_for_the_aggregation_end_the_run_in_words(tmp_path: Path) -> None:
    def fail(message: Message, reply: Message, context: Context) -> None:
        if context.node_config["partition-id"] in (1, 2):
            raise RuntimeError("the sensor is on fire")

    with pytest.raises(UserError, match=r"round 1: .*fedmedian needs 3 usable replies .*found 2"):
        federate(tmp_path / "run", aggregating("fedmedian"), intercepted(fail))


def test_a_reply_in_double_precision_is_dropped_and_the_encoder_keeps_its_type(tmp_path: Path) -> None:
    def widen(message: Message, reply: Message, context: Context) -> Message | None:
        if context.node_config["partition-id"]:
            return None
        arrays = arrays_of(reply.content.array_records["arrays"])
        record = ArrayRecord({name: Array(value.astype(np.float64)) for name, value in arrays.items()})
        metrics = reply.content.metric_records["metrics"]
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)

    federate(tmp_path / "run", configure("federation.rounds=1"), intercepted(widen))
    assert re.search("dropped the reply of person 1: .*float64", (tmp_path / "run" / "server.log").read_text())
    assert {value.dtype for value in final(tmp_path / "run").values()} == {np.dtype(np.float32)}
