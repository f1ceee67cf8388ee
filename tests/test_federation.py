"""The real ServerApp and ClientApp together: what crosses the wire, who is dropped, and going on after a stop."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from deployed import PATIENCE
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from safetensors.torch import load_file

from centralized_baseline.__main__ import train_centralized
from client.app import app as client_app
from server.aggregation import Aggregator
from server.app import app as server_app
from server.introduction import Member
from server.strategy import PeopleStrategy
from shared.checkpoint import load_encoder
from shared.config import DEFAULTS, Config, load_config
from shared.data import DATASETS, DataSettings, load
from shared.data.partition import by_person
from shared.data.parts import TEN_ALIKE
from shared.data.split import split_people
from shared.data.statistics import ChannelStatistics
from shared.errors import UserError
from shared.exchange import Manifest, arrays_of, outgoing
from shared.metrics import Row, read_metrics
from shared.model import build_initial_encoder
from shared.privacy import Ledger
from shared.tracking import Tracker
from simulation.inprocess import InProcessGrid, run_in_process

pytestmark = pytest.mark.slow

SMALL = [
    "data.name=synthetic",
    "encoder.width=8",
    "federation.rounds=3",
    "train.batch_size=48",
    "federation.min_clients=2",
]
PEOPLE = 4


def configure(*overrides: str) -> Config:
    return load_config(DEFAULTS, [*SMALL, *overrides])


def federate(folder: Path, config: Config, app: ClientApp = client_app, clients: int = PEOPLE) -> None:
    config_file = folder.parent / f"{folder.name}.yaml"
    config_file.write_text(config.to_yaml())
    run_config = {"config": str(config_file), "method": "", "overrides": "", "run-dir": str(folder)}
    run_in_process(server_app, app, clients, run_config, parallel=2)


def encoder_bytes(folder: Path) -> bytes:
    return (folder / "encoder.safetensors").read_bytes()


Handler = Callable[[Message, Context], Message]


def intercepted(change: Callable[[Message, Message, Context], Message | None], kind: str = "train") -> ClientApp:
    """The real client behind a mod that may change its replies to messages of one kind."""

    def mod(message: Message, context: Context, call_next: Handler) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type != kind:
            return reply
        return change(message, reply, context) or reply

    app = ClientApp(mods=[mod])
    app.query("introduce")(lambda message, context: client_app(message, context))
    app.train()(lambda message, context: client_app(message, context))
    return app


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation") / "unbroken"
    federate(folder, configure())
    return folder


def test_a_run_folder_holds_what_the_design_says(unbroken: Path) -> None:
    names = {path.name for path in unbroken.iterdir()}
    assert {
        "config.yaml",
        "metrics.jsonl",
        "encoder.safetensors",
        "encoder.json",
        "checkpoint",
        "exchange.json",
        "tensorboard",
    } <= names
    assert any((unbroken / "tensorboard").iterdir())
    rows = list(read_metrics(unbroken / "metrics.jsonl"))
    train, _ = load(configure().data)
    assert [row["round"] for row in rows if row["kind"] == "round"] == [1, 2, 3]
    assert {row["person"] for row in rows if row["kind"] == "client"} == set(train.people)


def test_the_federation_learns(unbroken: Path) -> None:
    rounds = [row for row in read_metrics(unbroken / "metrics.jsonl") if row["kind"] == "round"]
    assert rounds[-1]["loss"] < rounds[0]["loss"]


def test_the_encoder_is_standardised_by_all_training_people(unbroken: Path) -> None:
    train, _ = load(configure().data)
    _, card = load_encoder(unbroken)
    np.testing.assert_allclose(card.mean, train.x.mean(axis=(0, 2), dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(card.std, train.x.std(axis=(0, 2), dtype=np.float64), rtol=1e-9)
    assert card.fit(train) is train


@pytest.mark.parametrize("tasks", [(), ("byol", "moco", "swav")], ids=["default", "with_teacher_and_queue"])
def test_nothing_but_encoder_arrays_counts_and_scalars_leaves_a_client(tasks: tuple[str, ...], tmp_path: Path) -> None:
    seen: list[RecordDict] = []
    config = configure(*[f"tasks.{name}.enabled=true" for name in tasks])
    federate(tmp_path / "run", config, intercepted(lambda m, reply, c: seen.append(reply.content)))
    train, _ = load(config.data)
    expected = set(outgoing(build_initial_encoder(config, train.meta.spec), "average"))
    assert len(seen) == PEOPLE * 3
    for content in seen:
        assert set(content) == {"arrays", "metrics"}
        assert set(content.array_records["arrays"]) == expected
        assert all(name.startswith("encoder.") for name in content.array_records["arrays"])
        assert all(np.ndim(value) == 0 for value in content.metric_records["metrics"].values())
        assert not any("weight." in name for name in content.metric_records["metrics"])
    report = json.loads((tmp_path / "run" / "exchange.json").read_text())
    up = [row for row in report["crossed_the_wire"] if row["direction"] == "up"]
    assert {row["name"] for row in up if row["kind"] == "array"} == expected
    assert {row["times"] for row in up if row["kind"] == "array"} == {PEOPLE * 3}
    assert {row["kind"] for row in up} == {"array", "metric", "sensor"}


def test_an_introduction_tells_sums_and_sensors_and_nothing_else(tmp_path: Path) -> None:
    seen: list[RecordDict] = []
    app = intercepted(lambda m, reply, c: seen.append(reply.content), "query.introduce")
    federate(tmp_path / "run", configure("federation.rounds=1"), app)
    assert len(seen) == PEOPLE
    channels = load(configure().data)[0].x.shape[1]
    for content in seen:
        assert set(content) == {"metrics", "sensors"}
        metrics = content.metric_records["metrics"]
        assert set(metrics) == {"partition-id", "num-examples", "count", "total", "squares"}
        assert {len(metrics[name]) for name in ("total", "squares")} == {channels}
        assert set(content.config_records["sensors"]) == {"person", "data", "channels", "units", "size", "rate"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"total": [float("nan")] * 6}, "total.0: Input should be a finite number"),
        ({"squares": [1.0]}, "total has 6 values, squares has 1"),
        ({"total": [1.0], "squares": [1.0]}, "total has 1 values for 6 channels"),
        ({"num-examples": 0}, "num-examples: Input should be greater than 0"),
        ({"secret": 1.0}, "secret: Extra inputs are not permitted"),
        ({"partition-id": 0}, "has the partition of another client"),
        ({"person": "1"}, "has the person of another client"),
        ({"person": "Anna B.\n"}, "person: Value error, a person's id has 1 to 100 printable characters"),
        ({"person": "x" * 101}, "person: Value error, a person's id has 1 to 100 printable characters"),
        ({"person": 2.5}, "person: Input should be a valid string"),
        (None, "expected records 'metrics' and 'sensors', found ['sensors']"),
    ],
)
def test_a_bad_introduction_is_left_out_and_named(change: dict[str, object] | None, words: str, tmp_path: Path) -> None:
    def spoil(message: Message, reply: Message, context: Context) -> Message | None:
        if context.node_config["partition-id"] != 2:
            return None
        content = dict(reply.content)
        if change is None:
            del content["metrics"]
        elif "person" in change:
            content["sensors"] = ConfigRecord(dict(reply.content.config_records["sensors"]) | change)
        else:
            content["metrics"] = MetricRecord(dict(reply.content.metric_records["metrics"]) | change)
        return Message(RecordDict(content), reply_to=message)

    folder = tmp_path / "run"
    federate(folder, configure("federation.rounds=1"), intercepted(spoil, "query.introduce"))
    assert words in (folder / "server.log").read_text()
    assert list(read_metrics(folder / "metrics.jsonl"))[-1]["clients"] == PEOPLE - 1


def test_each_client_trains_on_one_person_only(unbroken: Path) -> None:
    train, _ = load(configure().data)
    counts = {part.people[0]: len(part) for part in by_person(train)}
    for row in read_metrics(unbroken / "metrics.jsonl"):
        if row["kind"] == "client":
            assert row["num-examples"] == counts[row["person"]]
    private = unbroken / "clients"
    assert sorted(path.name for path in private.iterdir()) == [f"person_{p}" for p in train.people]


@pytest.mark.parametrize("name", DATASETS)
def test_each_client_holds_its_own_persons_windows(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sums that a client tells are those of one person's windows, to the last bit."""
    if name in ("uci_har", "motionsense", "dsads"):
        monkeypatch.setenv(f"FEDHAR_{name.upper()}", str(request.getfixturevalue(f"{name}_zip")))
    config = configure(f"data.name={name}")
    if name == "folder":
        split_people(
            DataSettings(name="watch", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE),
            tmp_path / "people",
        )
        config = configure("data.name=folder", f"data.path={tmp_path / 'people'}")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    people = by_person(load(config.data)[0])
    run_config = {
        "config": str(tmp_path / "config.yaml"),
        "method": "",
        "overrides": "",
        "run-dir": str(tmp_path / "run"),
    }
    grid = InProcessGrid(client_app, len(people), run_config, parallel=1)
    questions = [Message(RecordDict(), node, "query.introduce") for node in grid.get_node_ids()]
    told = [answer.content for answer in grid.send_and_receive(questions)]
    grid.close()
    assert len(told) == len(people)
    for content, windows in zip(told, people, strict=True):
        metrics = content.metric_records["metrics"]
        assert set(windows.person.tolist()) == {content.config_records["sensors"]["person"]}
        assert dict(metrics) | ChannelStatistics.of(windows).to_dict() == dict(metrics)
        assert metrics["num-examples"] == len(windows)


def test_clients_keep_their_own_task_weights(unbroken: Path) -> None:
    logs = [list(read_metrics(path)) for path in sorted(unbroken.glob("clients/*/metrics.jsonl"))]
    assert len(logs) == PEOPLE
    assert len({rows[-1]["weight.reconstruction"] for rows in logs}) == PEOPLE


def test_after_three_rounds_task_weights_are_where_each_persons_own_losses_put_them(tmp_path: Path) -> None:
    """On real recordings: the objective of "uncertainty" is smallest at 1 / (2 L)."""
    config = configure("data.name=watch", "train.batch_size=64")
    federate(tmp_path / "run", config, clients=7)
    last = {
        path.parent.name: list(read_metrics(path))[-1] for path in (tmp_path / "run").glob("clients/*/metrics.jsonl")
    }
    assert len(last) == 7
    for row in last.values():
        for task in config.enabled_tasks:
            assert row[f"weight.{task}"] == pytest.approx(1 / (2 * row[f"loss.{task}"]), rel=0.2), (row["round"], task)
    reconstruction = [row["weight.reconstruction"] for row in last.values()]
    assert max(reconstruction) > 1.5 * min(reconstruction), "people move differently, and their weights show it"


def test_threads_that_somebody_else_has_set_change_nothing(unbroken: Path, tmp_path: Path) -> None:
    """A process plays many parts in turn: each sets its own number of threads before it sums up anything."""
    small = configure("centralized.epochs=1", "centralized.threads=1")
    train_centralized(small, tmp_path / "one")
    torch.set_num_threads(2)
    try:
        federate(tmp_path / "run", configure())
        torch.set_num_threads(2)
        train_centralized(small, tmp_path / "two")
    finally:
        torch.set_num_threads(1)
    assert encoder_bytes(tmp_path / "run") == encoder_bytes(unbroken)
    assert encoder_bytes(tmp_path / "two") == encoder_bytes(tmp_path / "one")


def test_a_federation_of_one_person_trains_what_the_baseline_trains_on_that_person(tmp_path: Path) -> None:
    """Both sides see the same statistics, the same targets and the same steps, to the last bit."""
    config = configure(
        "data.holdout=[1,3,4]",
        "federation.min_clients=1",
        "centralized.epochs=3",
        "centralized.batch_size=48",
        "centralized.threads=1",
    )
    federate(tmp_path / "federated", config, clients=1)
    train_centralized(config, tmp_path / "centralized")
    ours, theirs = (load_encoder(tmp_path / name)[0] for name in ("federated", "centralized"))
    arrays = outgoing(theirs, "average")  # all but integer counters
    assert {name: value.tobytes() for name, value in outgoing(ours, "average").items()} == {
        name: value.tobytes() for name, value in arrays.items()
    }
    assert all(np.array_equal(a, b) for a, b in ((ours.mean, theirs.mean), (ours.std, theirs.std)))


def test_the_order_in_which_clients_answer_does_not_matter(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_order, orders = InProcessGrid.send_and_receive, []

    def shuffled(self: InProcessGrid, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = list(in_order(self, messages, timeout=timeout))[::-1]
        orders.append([reply.metadata.src_node_id for reply in replies])
        return replies

    monkeypatch.setattr(InProcessGrid, "send_and_receive", shuffled)
    federate(tmp_path / "shuffled", configure())
    assert all(order == sorted(order, reverse=True) for order in orders)
    assert encoder_bytes(tmp_path / "shuffled") == encoder_bytes(unbroken)


def test_a_client_that_is_late_is_dropped_named_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = Event()

    def sleep(message: Message, reply: Message, context: Context) -> None:
        late = context.node_config["partition-id"] == 1
        if late and message.content.config_records["config"]["server-round"] == 1:
            assert over.wait(PATIENCE)

    aggregate = PeopleStrategy.aggregate_train

    def end_of_round(self: PeopleStrategy, *arguments: Any) -> Any:
        over.set()
        return aggregate(self, *arguments)

    monkeypatch.setattr(PeopleStrategy, "aggregate_train", end_of_round)
    folder = tmp_path / "run"
    federate(folder, configure("federation.round_timeout=12"), intercepted(sleep))
    rounds = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "round"]
    assert [(row["clients"], row["dropped"]) for row in rounds] == [(PEOPLE - 1, 1), (PEOPLE, 0), (PEOPLE, 0)]
    person = load(configure().data)[0].people[1]
    assert f"round 1: dropped person {person}, who did not answer in time" in (folder / "server.log").read_text()


def test_a_device_keeps_the_private_states_of_two_runs_apart(tmp_path: Path) -> None:
    def handle(message: Message, context: Context) -> Message:
        context.node_config["state-dir"] = str(tmp_path / "device")
        return client_app(message, context)

    app = ClientApp()
    app.query("introduce")(handle)
    app.train()(handle)
    for name in ("one", "other"):
        federate(tmp_path / name, configure("federation.rounds=1"), app)
        assert not (tmp_path / name / "clients").exists()
    assert encoder_bytes(tmp_path / "one") == encoder_bytes(tmp_path / "other")
    assert [len(list(run.iterdir())) for run in (tmp_path / "device").iterdir()] == [PEOPLE, PEOPLE]


class StoppedError(Exception):
    pass


def stop_in_round_3(folder: Path, config: Config, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Run a federation whose server stops in a method of its strategy."""
    real = getattr(PeopleStrategy, method)

    def stop(self: PeopleStrategy, server_round: int, *rest: object) -> object:
        if self.done + server_round == 3:
            raise StoppedError
        return real(self, server_round, *rest)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(PeopleStrategy, method, stop)
        federate(folder, config)


@pytest.mark.parametrize("clients_ran_ahead", [False, True])
def test_a_stopped_and_resumed_run_equals_an_unbroken_one(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients_ran_ahead: bool
) -> None:
    """The server stops after round 2; in one case after its clients have already trained round 3."""
    folder = tmp_path / "stopped"
    stop_in_round_3(folder, configure(), monkeypatch, "aggregate_train" if clients_ran_ahead else "configure_train")
    assert not (folder / "encoder.safetensors").exists()
    federate(folder, configure())
    assert encoder_bytes(folder) == encoder_bytes(unbroken)
    rows = list(read_metrics(folder / "metrics.jsonl"))
    assert [row["round"] for row in rows if row["kind"] == "round"] == [1, 2, 3]
    for path in (unbroken / "clients").glob("*/step-000003.safetensors"):
        assert (folder / "clients" / path.parent.name / path.name).read_bytes() == path.read_bytes()


def test_codes_that_are_made_again_each_round_survive_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client clusters its own windows by the tokens of the encoder that it received."""
    off = [f"tasks.{name}.enabled=false" for name in configure().enabled_tasks]
    config = configure(*off, "tasks.codes.enabled=true", "tasks.codes.refresh=1", "encoder.name=transformer")
    federate(tmp_path / "whole", config)
    stop_in_round_3(tmp_path / "stopped", config, monkeypatch, "aggregate_train")
    federate(tmp_path / "stopped", config)
    assert encoder_bytes(tmp_path / "stopped") == encoder_bytes(tmp_path / "whole")
    states = [
        {path.parent.name: load_file(path) for path in (tmp_path / name / "clients").glob("*/step-000003.safetensors")}
        for name in ("stopped", "whole")
    ]
    assert len(states[1]) == PEOPLE
    assert states[0].keys() == states[1].keys()
    for person, state in states[1].items():
        assert torch.equal(states[0][person]["extra.codes"], state["extra.codes"])


def test_a_run_goes_on_with_other_timeouts_and_is_none_the_other_for_it(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server waits as long as it is told now, and bytes, heads and digest are those of the unbroken run."""
    folder = tmp_path / "stopped"
    stop_in_round_3(folder, configure("federation.min_clients=4"), monkeypatch, "configure_train")
    config = configure("federation.round_timeout=99", "federation.join_timeout=77", "centralized.epochs=7", "name=new")
    patient, timeouts = InProcessGrid.send_and_receive, []

    def watched(self: InProcessGrid, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        timeouts.append(timeout)
        return list(patient(self, messages, timeout=timeout))

    monkeypatch.setattr(InProcessGrid, "send_and_receive", watched)
    federate(folder, config)
    assert set(timeouts) == {77, 99}
    assert load_config(folder / "config.yaml") == config
    assert encoder_bytes(folder) == encoder_bytes(unbroken)
    assert load_encoder(folder)[1] == load_encoder(unbroken)[1]
    assert load_encoder(folder)[1].config_digest == config.digest("federated")
    for path in (unbroken / "clients").glob("*/step-000003.safetensors"):
        assert (folder / "clients" / path.parent.name / path.name).read_bytes() == path.read_bytes()


def test_a_resumed_run_may_use_other_threads_and_its_clients_keep_their_heads(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More threads add the same numbers in another order: the encoder is the same up to rounding."""
    folder = tmp_path / "stopped"
    stop_in_round_3(folder, configure(), monkeypatch, "configure_train")
    threads = torch.get_num_threads()
    try:
        federate(folder, configure("train.threads=2"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    found, expected = (load_file(run / "encoder.safetensors") for run in (folder, unbroken))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    for path in (unbroken / "clients").glob("*/step-000003.safetensors"):
        found, expected = load_file(folder / "clients" / path.parent.name / path.name), load_file(path)
        assert {name for name in found if name.startswith("optimizer.")}
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def test_a_told_round_is_safe_and_a_stop_before_it_is_told_loses_no_row(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops between the checkpoint of round 2 and its rows."""
    folder = tmp_path / "stopped"
    tell = Tracker.log

    def stop(self: Tracker, rows: Sequence[Row]) -> None:
        if any(row["round"] == 2 for row in rows):
            raise StoppedError
        tell(self, rows)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(Tracker, "log", stop)
        federate(folder, configure())
    assert (folder / "checkpoint" / "step-000002.safetensors").is_file()
    assert {row["round"] for row in read_metrics(folder / "metrics.jsonl")} == {1}
    federate(folder, configure())
    found, expected = ([without_time(row) for row in read_metrics(run / "metrics.jsonl")] for run in (folder, unbroken))
    assert found == expected


def without_time(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "seconds"}


def test_another_configuration_does_not_continue_a_run(unbroken: Path) -> None:
    with pytest.raises(UserError, match=r"another configuration: seed: 0 -> 1"):
        federate(unbroken, configure("seed=1"))


def replaced(message: Message, reply: Message, arrays: dict[str, np.ndarray]) -> Message:
    record = ArrayRecord({name: Array(value) for name, value in arrays.items()})
    return Message(RecordDict({"arrays": record, "metrics": reply.content.metric_records["metrics"]}), reply_to=message)


def broken_arrays(kind: str) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    def change(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        first = next(iter(arrays))
        if kind == "nan":
            return arrays | {first: np.full_like(arrays[first], np.nan)}
        if kind == "shape":
            return arrays | {first: arrays[first][..., :1]}
        if kind == "missing":
            return {name: value for name, value in arrays.items() if name != first}
        return arrays | {"heads.contrastive.weight": arrays[first]}

    return change


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "NaN"),
        ("shape", "shape"),
        ("missing", "missing"),
        ("extra", "unknown arrays"),
        ("error", "on fire"),
        ("metrics", "metrics are missing, the first is partition-id"),
        ("count", "num-examples is 1000000, but the person introduced itself with"),
        ("list", "metric loss is [1.0, 2.0], expected a finite number"),
    ],
)
def test_a_broken_reply_is_dropped_named_and_the_round_goes_on(
    kind: str, words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(message: Message, reply: Message, context: Context) -> Message | None:
        if context.node_config["partition-id"] != 2:
            return None
        if kind == "error":
            raise RuntimeError("the sensor is on fire")
        metrics = dict(reply.content.metric_records["metrics"])
        changed = {
            "metrics": {"num-examples": 0},
            "count": metrics | {"num-examples": 1_000_000},
            "list": metrics | {"loss": [1.0, 2.0]},
        }
        if kind in changed:
            return Message(RecordDict(dict(reply.content) | {"metrics": MetricRecord(changed[kind])}), reply_to=message)
        return replaced(message, reply, broken_arrays(kind)(arrays_of(reply.content.array_records["arrays"])))

    folder = tmp_path / "run"
    federate(folder, configure("federation.rounds=1"), intercepted(change))
    rows = list(read_metrics(folder / "metrics.jsonl"))
    train, _ = load(configure().data)
    person = train.people[2]
    assert (rows[-1]["clients"], rows[-1]["dropped"]) == (PEOPLE - 1, 1)
    assert person not in {row["person"] for row in rows if row["kind"] == "client"}
    assert f"dropped the reply of person {person}" in caplog.text
    assert f"dropped the reply of person {person}" in (folder / "server.log").read_text()
    assert words in caplog.text
    load_encoder(folder)


def test_when_all_replies_are_broken_the_run_stops_and_says_why(tmp_path: Path) -> None:
    def change(message: Message, reply: Message, context: Context) -> Message:
        return replaced(message, reply, broken_arrays("nan")(arrays_of(reply.content.array_records["arrays"])))

    folder = tmp_path / "run"
    with pytest.raises(UserError, match=r"round 1: no client sent a usable reply.*NaN"):
        federate(folder, configure(), intercepted(change))
    assert "no client sent a usable reply" in (folder / "failure.txt").read_text()
    assert not (folder / "encoder.safetensors").exists()


def test_too_few_clients_is_a_clear_failure(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"4 of 5 clients \(federation.min_clients\) joined within 0.5 s"):
        federate(tmp_path / "run", configure("federation.min_clients=5", "federation.join_timeout=0.5"))


def test_a_node_without_a_person_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    federate(tmp_path / "run", configure("federation.rounds=1"), clients=PEOPLE + 1)
    assert "partition-id 4 has no person" in caplog.text
    rows = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert rows[-1]["clients"] == PEOPLE


@pytest.mark.parametrize(("upload", "share"), [("bfloat16", 0.53), ("int8", 0.30), ("int4", 0.18)])
def test_rounded_updates_save_bytes_and_a_resumed_run_keeps_what_rounding_took_away(
    upload: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(f"federation.upload={upload}", "encoder.width=16")
    federate(tmp_path / "whole", config)
    rows = json.loads((tmp_path / "whole" / "exchange.json").read_text())["crossed_the_wire"]
    up, down = (sum(r["bytes"] for r in rows if (r["direction"], r["kind"]) == (d, "array")) for d in ("up", "down"))
    assert up < share * down
    stop_in_round_3(tmp_path / "stopped", config, monkeypatch, "aggregate_train")
    federate(tmp_path / "stopped", config)
    assert encoder_bytes(tmp_path / "stopped") == encoder_bytes(tmp_path / "whole")


def test_a_reply_that_is_rounded_otherwise_is_dropped(tmp_path: Path) -> None:
    def change(message: Message, reply: Message, context: Context) -> Message | None:
        whole = {name: np.zeros(7, np.uint8) for name in reply.content.array_records["arrays"]}
        return replaced(message, reply, whole) if context.node_config["partition-id"] == 1 else None

    folder = tmp_path / "run"
    federate(folder, configure("federation.rounds=1", "federation.upload=int8"), intercepted(change))
    assert "came as uint8 of shape (7,), expected" in (folder / "server.log").read_text()
    assert list(read_metrics(folder / "metrics.jsonl"))[-1]["dropped"] == 1


def test_local_norm_statistics_never_leave_and_the_card_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    federate(folder, configure("federation.norm_statistics=local", "federation.rounds=2"))
    assert "running_mean" not in (folder / "exchange.json").read_text()
    _, card = load_encoder(folder)
    assert card.norm_statistics == "missing"
    assert "estimate them on your own windows" in caplog.text


def strategy(tmp_path: Path, fraction: float, nodes: list[int]) -> PeopleStrategy:
    members = [Member(node, partition, partition + 1, 10) for partition, node in enumerate(nodes)]
    config = configure(f"federation.fraction={fraction}")
    aggregator, ledger = Aggregator(config.federation.aggregation, frozenset()), Ledger(config.privacy)
    with Tracker(tmp_path) as tracker:
        return PeopleStrategy(members, list, lambda *_: None, config, 0, tracker, Manifest(), aggregator, ledger)


def test_the_cohort_depends_on_the_seed_and_the_round_and_not_on_node_ids(tmp_path: Path) -> None:
    one, other = strategy(tmp_path, 0.5, [11, 12, 13, 14]), strategy(tmp_path, 0.5, [94, 93, 92, 91])
    for server_round in range(1, 20):
        first = [member.partition for member in one.draw_cohort(server_round)]
        assert first == [member.partition for member in other.draw_cohort(server_round)]
        assert first == sorted(set(first))
        assert len(first) == 2
    drawn = {member.partition for r in range(1, 20) for member in one.draw_cohort(r)}
    assert drawn == {0, 1, 2, 3}
    assert len(strategy(tmp_path, 0.01, [1, 2, 3]).draw_cohort(1)) == 1


def test_the_average_is_weighted_by_windows(tmp_path: Path) -> None:
    """One round by hand: FedAvg over the replies, weighted by their counts."""
    replies: dict[int, tuple[int, dict[str, np.ndarray]]] = {}

    def change(message: Message, reply: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        arrays = {name: value + partition for name, value in arrays_of(reply.content.array_records["arrays"]).items()}
        replies[partition] = (int(reply.content.metric_records["metrics"]["num-examples"]), arrays)
        return replaced(message, reply, arrays)

    config = configure("federation.rounds=1", "data.name=watch", "data.holdout=[3,4,5,6,7]", "train.batch_size=512")
    federate(tmp_path / "run", config, intercepted(change), clients=2)
    assert len({count for count, _ in replies.values()}) == 2
    encoder, _ = load_encoder(tmp_path / "run")
    total = sum(count for count, _ in replies.values())
    for name, value in outgoing(encoder, "average").items():
        expected = sum(count * arrays[name].astype(np.float64) for count, arrays in replies.values()) / total
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_statistics_in_a_federation_equal_the_pooled_ones() -> None:
    train, _ = load(configure().data)
    pooled = ChannelStatistics.of(train)
    added = sum((ChannelStatistics.of(p) for p in by_person(train)[1:]), ChannelStatistics.of(by_person(train)[0]))
    np.testing.assert_allclose(added.mean, pooled.mean, rtol=1e-12)
    np.testing.assert_allclose(added.std, pooled.std, rtol=1e-12)
