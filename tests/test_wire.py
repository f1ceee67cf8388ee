"""What another machine sends ends nothing: its bytes, numbers, names and texts are dropped, named and counted."""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st
from test_federation import PEOPLE, configure, federate, intercepted
from wire import EACH, KINDS, KINDS_OF_CODES, described, full_of, receive, row_of, saved, try_all, with_header, zipped

from client.app import app as client_app
from server.aggregation import Aggregator
from server.introduction import Introductions, Member
from server.strategy import PeopleStrategy
from shared.config import Config
from shared.data import load
from shared.errors import UserError
from shared.exchange import UNEXPECTED, Manifest, arrays_of, outgoing
from shared.metrics import read_metrics
from shared.model import build_initial_encoder
from shared.privacy import Ledger
from shared.tracking import Tracker
from shared.wire import LONGEST, Form, Sums, read_arrays, read_record
from simulation.inprocess import InProcessGrid

ROOT = Path(__file__).resolve().parents[1]
LOGGED = LONGEST + 300
"""Characters of a line of ``server.log`` at most: a quotation and the words around it."""


@pytest.mark.parametrize("kind", KINDS | KINDS_OF_CODES)
def test_bytes_of_any_kind_are_read_as_numpy_reads_them_or_dropped_in_words_as_docs_tell(kind: str) -> None:
    def look(data: bytes, array: np.ndarray) -> None:
        assert (array.dtype, array.shape) == (np.float32, (4, 3, 5))
        assert np.isfinite(array).all()
        if kind in KINDS:
            np.testing.assert_array_equal(array, np.load(io.BytesIO(data)))

    became = try_all(kind, look)
    told = re.search(rf"^\| {re.escape(kind)} \| .*$", (ROOT / "docs" / "wire.md").read_text(), re.MULTILINE)
    assert told, row_of(kind, became)
    # Which examples hypothesis takes depends on its version: compared is what does not.
    told_cells, cells = (row.split(" | ")[1:4] for row in (told[0], row_of(kind, became)))
    assert [cell != "0" for cell in cells] == [cell != "0" for cell in told_cells]
    assert became.total() <= EACH


def test_the_table_has_two_thousand_strings() -> None:
    rows = re.findall(r"^\| .* \| (\d+) \| (\d+) \| (\d+) \|", (ROOT / "docs" / "wire.md").read_text(), re.MULTILINE)
    assert len(rows) == len(KINDS | KINDS_OF_CODES)
    assert all(int(tried) == int(accepted) + int(dropped) for tried, accepted, dropped in rows)
    assert sum(int(tried) for tried, _, _ in rows) >= 2000


def test_an_array_is_read_whatever_numpys_padding_and_its_form_is_exact() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    text = described("<f4", (2, 3)).encode()
    for spaces in (0, 3, 60, 500):
        header = text + b" " * spaces + b"\n"
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + values.tobytes()
        wire = {"a": Array("float32", (2, 3), "numpy.ndarray", data)}
        np.testing.assert_array_equal(read_arrays(wire, {"a": Form((2, 3), np.dtype(np.float32))})["a"], values)
    for shape, dtype in [((), np.float32), ((0, 3), np.float32), ((7,), np.uint8), ((2, 1), np.float64)]:
        array = np.ones(shape, dtype)
        read = read_arrays({"a": Array(array)}, {"a": Form(shape, np.dtype(dtype))})["a"]
        assert (read.dtype, read.shape) == (dtype, shape)
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "float64"}, "a came as float64 of shape (2, 3), expected float32 of shape (2, 3)"),
        ({"dtype": "x" * 10**6}, "[1000000 characters] xxx"),
        ({"shape": (3, 2)}, "a came as float32 of shape (3, 2), expected"),
        ({"shape": (10**18,) * 1000}, "..."),
        ({"stype": "torch"}, "a came as 'torch', expected 'numpy.ndarray'"),
        ({"data": b""}, "a came with 0 bytes, expected 24 behind the header of an .npy file"),
    ],
)
def test_what_an_array_declares_is_checked_before_its_bytes(change: dict[str, object], words: str) -> None:
    whole = {"dtype": "float32", "shape": (2, 3), "stype": "numpy.ndarray", "data": saved(np.ones((2, 3), np.float32))}
    with pytest.raises(UserError) as error:
        read_arrays({"a": Array(**whole | change)}, {"a": Form((2, 3), np.dtype(np.float32))})
    assert words in str(error.value)
    assert len(str(error.value)) < LOGGED


PAYLOADS = {
    "a cut header": (lambda a: with_header(described("<f4", a.shape)[:-6], a.tobytes()), "came with the header"),
    "a zip": (lambda a: zipped(kernel=a), "bytes, expected"),
    "a broken zip": (lambda a: zipped(kernel=a)[:-30], "bytes, expected"),
    "4e12 values": (lambda a: with_header(described("<f4", (4 * 10**12,)), a.tobytes()), "came with the header"),
    "no array": (lambda a: b"no array", "came with 8 bytes, expected"),
    "objects": (lambda a: saved(full_of("pickled"), allow_pickle=True), "bytes, expected"),
    "big-endian": (lambda a: saved(a.astype(">f4")), "came with the header"),
}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_bytes_that_are_no_array_cost_their_own_reply(payload: str, tmp_path: Path) -> None:
    make, words = PAYLOADS[payload]

    def change(message: Message, reply: Message, context: Context) -> Message | None:
        if context.node_config["partition-id"] == 2:
            arrays = reply.content.array_records["arrays"]
            name = next(iter(arrays))
            old = arrays[name]
            arrays[name] = Array(old.dtype, old.shape, old.stype, make(old.numpy()))
        return None

    folder = tmp_path / "run"
    federate(folder, configure("federation.rounds=1"), intercepted(change))
    last = list(read_metrics(folder / "metrics.jsonl"))[-1]
    assert (last["clients"], last["dropped"]) == (PEOPLE - 1, 1)
    (line,) = [one for one in (folder / "server.log").read_text().splitlines() if "dropped" in one]
    assert words in line
    assert len(line) < LOGGED


NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats()
METRICS = NUMBERS | st.lists(st.integers(-(2**63), 2**63 - 1)) | st.lists(st.floats())
LONG = st.text(min_size=1).map(lambda text: text * 10**5)
CONFIGS = METRICS | st.text() | LONG | st.binary() | st.booleans() | st.lists(st.text()) | st.lists(st.binary())
NAMES = st.text(st.characters(codec="utf-8")) | LONG


def records(honest: dict[str, MetricRecord | ConfigRecord | ArrayRecord]) -> st.SearchStrategy[RecordDict]:
    """An honest message in which values, names and whole records are replaced, left out or added."""
    changed = {}
    for place, record in honest.items():
        values = {MetricRecord: METRICS, ConfigRecord: CONFIGS, ArrayRecord: st.nothing()}[type(record)]
        names = st.sampled_from(sorted(record)) | NAMES
        more = st.dictionaries(names, values, max_size=3) if type(record) is not ArrayRecord else st.just({})
        less = st.lists(st.sampled_from(sorted(record)), max_size=1)
        changed[place] = st.builds(
            lambda more, less, record=record: type(record)(
                {name: value for name, value in (dict(record) | more).items() if name not in less}
            ),
            more,
            less,
        )
    other = st.dictionaries(NAMES, st.dictionaries(NAMES, CONFIGS, max_size=2).map(ConfigRecord), max_size=1)
    gone = st.lists(st.sampled_from(sorted(honest)), max_size=1)
    return st.builds(
        lambda content, other, gone: RecordDict({k: v for k, v in (other | content).items() if k not in gone}),
        st.fixed_dictionaries(changed),
        other,
        gone,
    )


ARRAYS = ArrayRecord({"encoder.k": Array(np.ones((4, 3), np.float32)), "encoder.v": Array(np.ones(4, np.float32))})
LOSSES = {f"loss.{name}": 1.0 for name in configure().enabled_tasks}


def reply_of(partition: int) -> dict[str, MetricRecord | ArrayRecord]:
    metrics = {"partition-id": partition, "num-examples": 10, "loss": 1.0, "seconds": 1.0} | LOSSES
    return {"metrics": MetricRecord(metrics), "arrays": ARRAYS}


Introduced = dict[str, MetricRecord | ConfigRecord]


def introduction_of(partition: int, channels: tuple[str, ...] = ("x", "y", "z")) -> Introduced:
    sums = {"count": 1280, "total": [0.0, 1.0, 2.0], "squares": [1280.0, 1280.0, 1280.0]}
    metrics = {"partition-id": partition, "num-examples": 10} | sums
    sensors = {
        "person": str(partition + 1),
        "data": "watch",
        "channels": list(channels),
        "units": ["g"] * 3,
        "size": [128],
        "rate": 50.0,
    }
    return {"metrics": MetricRecord(metrics), "sensors": ConfigRecord(sensors)}


class Answers:
    """Clients that answer what they are told to."""

    def __init__(self) -> None:
        self.hostile: RecordDict | Error = RecordDict()
        self.introduction_of = introduction_of
        app = ClientApp()
        app.query("introduce")(lambda message, context: self._answer(message, context, self.introduction_of))
        app.train()(lambda message, context: self._answer(message, context, reply_of))
        self.grid = InProcessGrid(app, 3, {}, parallel=1)

    def _answer(self, message: Message, context: Context, honest: object) -> Message:
        partition = context.node_config["partition-id"]
        content = self.hostile if partition == 0 else RecordDict(honest(partition))
        return Message(content, reply_to=message)


@pytest.fixture
def answers() -> Iterator[Answers]:
    clients = Answers()
    yield clients
    clients.grid.close()


class Lines(logging.Handler):
    """What goes to ``server.log``."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def log() -> Iterator[Lines]:
    handler = Lines()
    logging.getLogger("server").addHandler(handler)
    yield handler
    logging.getLogger("server").removeHandler(handler)


def check_log_and_manifest(log: Lines, manifest: Manifest, expected: int) -> None:
    assert all(len(line) < LOGGED and line.isprintable() for line in log.lines), log.lines
    rows = [row for row in manifest.report()["crossed_the_wire"] if row["direction"] == "up"]
    assert len([row for row in rows if row["name"] != UNEXPECTED]) <= expected
    assert len([row for row in rows if row["name"] == UNEXPECTED]) <= 3
    assert len(json.dumps(rows)) < 10_000


ERRORS = (st.text() | LONG).map(lambda reason: Error(1, reason))


def test_a_reply_of_any_records_costs_its_own_reply(answers: Answers, log: Lines, tmp_path: Path) -> None:
    config, manifest = configure(), Manifest()
    members = [Member(node, node - 2, str(node - 1), 10) for node in answers.grid.get_node_ids()]
    aggregator, ledger = Aggregator(config.federation.aggregation, frozenset(ARRAYS)), Ledger(config.privacy)
    expected = len(ARRAYS) + len(reply_of(0)["metrics"])
    with Tracker(tmp_path) as tracker:
        strategy = PeopleStrategy(
            members, list, lambda *_: None, config, 0, tracker, manifest, aggregator, ledger
        )  # fmt: skip

        @settings(max_examples=150)
        @given(records(reply_of(0)) | ERRORS)
        def try_one(content: RecordDict | Error) -> None:
            answers.hostile = content
            log.lines.clear()
            questions = strategy.configure_train(1, ARRAYS, ConfigRecord(), answers.grid)
            arrays, losses = strategy.aggregate_train(1, answers.grid.send_and_receive(questions))
            assert arrays is not None
            assert all(np.isfinite(value).all() for value in arrays_of(arrays).values())
            assert losses is not None
            assert all(np.isfinite(value) for value in losses.values())
            honest = dict(content) == reply_of(0) if isinstance(content, RecordDict) else False
            assert honest or len(log.lines) <= 1
            check_log_and_manifest(log, manifest, expected)

        try_one()


def worn(partition: int) -> Introduced:
    """People with an accelerometer each, at places of their own."""
    return introduction_of(
        partition, tuple(f"{('', 'wrist_', 'left_pocket_')[partition]}total_acc_{axis}" for axis in "xyz")
    )


def introductions(answers: Answers, config: Config, manifest: Manifest | None = None) -> Introductions:
    takes = partial(build_initial_encoder, config)
    return Introductions(answers.grid, config.federation, manifest or Manifest(), config.any_sensors, takes)


@pytest.mark.parametrize(("introduced", "any_sensors"), [(introduction_of, False), (worn, True)])
def test_an_introduction_of_any_records_leaves_the_honest_ones(
    introduced: Callable[[int], Introduced], any_sensors: bool, answers: Answers, log: Lines
) -> None:
    answers.introduction_of = introduced
    config = configure("encoder.name=sensors") if any_sensors else configure()
    honest = {"x"} if not any_sensors else {"wrist_total_acc_x", "left_pocket_total_acc_x"}

    @settings(max_examples=150)
    @given(records(introduced(0)) | ERRORS)
    def try_one(content: RecordDict | Error) -> None:
        answers.hostile, manifest = content, Manifest()
        log.lines.clear()
        federation = introductions(answers, config, manifest).wait_for_members()
        assert {1, 2} <= {member.partition for member in federation.members} or federation.members[0].partition == 0
        assert honest & set(federation.meta.spec.channels)
        assert any_sensors or federation.meta.spec.channels == ("x", "y", "z")
        assert np.isfinite([*federation.statistics.mean, *federation.statistics.std]).all()
        check_log_and_manifest(log, manifest, 11)

    try_one()


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        ([f"c{number}" for number in range(1000)], "c0, c1, c2"),
        ([f"p{number}_total_acc_{axis}" for number in range(333) for axis in "xyz"], "unknown place 'p0'"),
        (["total_acc_x", "total_acc_y", "gyro_z"], "total_acc_x, total_acc_y, gyro_z belong to no three-axis sensor"),
        (["x" * 90 + "_total_acc_" + axis for axis in "xyz"], "String should have at most 100 characters"),
        ([f"left_right_arm_body_acc_{axis}" for axis in "xyz"], "unknown place 'left_right_arm'"),
        (["_gyro_x", "_gyro_y", "_gyro_z"], "belong to no three-axis sensor"),
    ],
)
def test_sensors_without_a_meaning_are_left_out_and_named(
    channels: list[str], words: str, answers: Answers, log: Lines
) -> None:
    answers.introduction_of = worn
    content = worn(0)
    sums = {"count": 1280, "total": [0.0] * len(channels), "squares": [1.0] * len(channels)}
    sensors = {"channels": channels, "units": ["g"] * len(channels)}
    answers.hostile = RecordDict(
        {
            "metrics": MetricRecord(dict(content["metrics"]) | sums),
            "sensors": ConfigRecord(dict(content["sensors"]) | sensors),
        }
    )
    federation = introductions(answers, configure("encoder.name=sensors")).wait_for_members()
    assert [member.partition for member in federation.members] == [1, 2]
    assert any(words in line for line in log.lines), log.lines
    assert all(len(line) < LOGGED for line in log.lines)


def test_sensors_that_cannot_be_aligned_are_left_out_and_named(answers: Answers, log: Lines) -> None:
    answers.introduction_of = worn
    answers.hostile = introduction_of(0, ("gyro_x", "gyro_y", "gyro_z"))
    sensors = dict(answers.hostile["sensors"]) | {"units": ["rad/s"] * 3}
    answers.hostile = RecordDict({"metrics": answers.hostile["metrics"], "sensors": ConfigRecord(sensors)})
    taken = [
        {member.partition for member in introductions(answers, config).wait_for_members().members}
        for config in (configure("encoder.name=sensors", f"encoder.align={align}") for align in ("null", "gravity"))
    ]
    assert taken == [{0, 1, 2}, {1, 2}]
    assert any("encoder.align=gravity needs the total acceleration" in line for line in log.lines), log.lines


def test_people_with_what_the_encoder_cannot_take_are_named_before_the_first_round(answers: Answers) -> None:
    def images(partition: int) -> Introduced:
        content = introduction_of(partition)
        sensors = {k: v for k, v in content["sensors"].items() if k != "rate"} | {"size": [32, 32]}
        return RecordDict(content | {"sensors": ConfigRecord(sensors)})

    answers.introduction_of = images
    with pytest.raises(UserError, match=r"cannot take: .*encoder 'fcn' does not take images"):
        introductions(answers, configure()).wait_for_members()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"channels": list("axy")},
            "does not measure what the others do: missing channels: z; unknown channels: a",
        ),
        ({"data": "other"}, "has the data set 'other', the others 'watch'"),
        ({"size": [10**12]}, "expected a size of at most 1000000 values a channel, found 1000000000000 samples"),
        ({"size": [10**12, 0]}, "sensors.size.1: Input should be greater than 0"),
        ({"size": [1] * 1000}, "sensors.size: Tuple should have at most 2 items"),
        ({"size": [32, 32], "rate": None}, "does not measure what the others do: the size is 32 x 32 pixels, expected"),
        ({"size": [8, 16]}, "expected a rate (Hz) of windows, and none of images; found 8 x 16 pixels and rate 50.0"),
        ({"units": ["g"]}, "expected a unit for each of 3 channels, found ['g']"),
        ({"data": "x" * 10**6}, "data: String should have at most 100 characters"),
    ],
)
def test_the_first_client_alone_does_not_tell_what_all_measure(
    change: dict[str, object], words: str, answers: Answers, log: Lines
) -> None:
    content = introduction_of(0)
    changed = {name: value for name, value in (dict(content["sensors"]) | change).items() if value is not None}
    answers.hostile = RecordDict(content | {"sensors": ConfigRecord(changed)})
    federation = introductions(answers, configure()).wait_for_members()
    assert [member.partition for member in federation.members] == [1, 2]
    assert words in log.lines[0]


@pytest.mark.parametrize(
    ("total", "squares", "words"),
    [
        (1e200, 1.0, "no 4 samples have the sum 1e+200"),
        (1.0, -1.0, "no 4 samples have"),
        (0.0, 1e300, "no 4 samples have the sum 0 and the sum of squares 1e+300"),
        (float("inf"), 1.0, "total.0: Input should be a finite number"),
    ],
)
def test_sums_that_no_samples_have_are_refused(total: float, squares: float, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        read_record(Sums, {"count": 4, "total": [total], "squares": [squares]})
    read_record(Sums, {"count": 4, "total": [4.0], "squares": [4.0]})


def test_names_that_a_client_invents_are_one_row_of_the_manifest() -> None:
    manifest, arrays = Manifest(), {f"encoder.{n}": Array(np.zeros(2, np.uint8)) for n in range(1000)}
    numbers = MetricRecord({f"metric.{n}": 1.0 for n in range(1000)} | {"loss": [1.0] * 9})
    for _ in range(3):
        manifest.count_reply(RecordDict({"arrays": ArrayRecord(arrays), "metrics": numbers}), {"metrics": {"loss": ()}})
    rows = manifest.report()["crossed_the_wire"]
    assert [(row["kind"], row["name"], row["shape"], row["times"]) for row in rows] == [
        ("array", UNEXPECTED, [], 3000),
        ("metric", UNEXPECTED, [], 3003),
    ]
    assert rows[0]["bytes"] == 3 * sum(len(name) + len(array.data) for name, array in arrays.items())


def order() -> dict[str, ConfigRecord | ArrayRecord]:
    sums = {"count": 1280, "total": [0.0] * 6, "squares": [1280.0] * 6}
    encoder = build_initial_encoder(configure(), load(configure().data)[0].meta.spec)
    arrays = ArrayRecord({name: Array(value) for name, value in outgoing(encoder, "average").items()})
    return {"config": ConfigRecord({"server-round": 1, "run": "0" * 16} | sums), "arrays": arrays}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[InProcessGrid]:
    (tmp_path / "config.yaml").write_text(configure().to_yaml())
    run_config = {
        "config": str(tmp_path / "config.yaml"),
        "method": "",
        "overrides": "",
        "run-dir": str(tmp_path / "run"),
    }
    grid = InProcessGrid(client_app, 1, run_config, parallel=1)
    yield grid
    grid.close()


def asked(client: InProcessGrid, content: RecordDict) -> Message:
    (node,) = client.get_node_ids()
    (reply,) = client.send_and_receive([Message(content, node, "train")])
    return reply


def test_an_order_of_any_records_is_refused_in_words(client: InProcessGrid) -> None:
    honest = {"config": order()["config"]}  # without an encoder none of them trains

    @settings(max_examples=60)
    @given(records(honest))
    def try_one(content: RecordDict) -> None:
        reply = asked(client, content)
        assert reply.has_error()
        assert reply.error.reason.startswith("UserError: ")
        assert len(reply.error.reason) < LOGGED

    try_one()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": None}, "the server sent no record 'config', found ['arrays']"),
        ({"config": {"server-round": 0}}, "record 'config' cannot be used: server-round: Input should be greater"),
        ({"config": {"total": [0.0], "squares": [0.0]}}, "expected sums of 6 channels, found 1"),
        ({"arrays": None}, "the received encoder does not fit this model: 14 arrays are missing"),
        ({"arrays": saved(np.ones(3, np.float32))}, "the received encoder does not fit this model: encoder."),
        ({"arrays": np.nan}, "holds NaN or infinite values"),
    ],
)
def test_what_a_server_sends_is_read_by_the_same_decoder(
    change: dict[str, object], words: str, client: InProcessGrid
) -> None:
    content = order()
    for place, what in change.items():
        first = next(iter(content["arrays"]))
        if what is None:
            del content[place]
        elif place == "config":
            content[place] = ConfigRecord(dict(content[place]) | what)
        elif isinstance(what, bytes):
            old = content[place][first]
            content[place][first] = Array(old.dtype, old.shape, old.stype, what)
        else:
            content[place][first] = Array(np.full_like(content[place][first].numpy(), what))
    reply = asked(client, RecordDict(content))
    assert reply.has_error()
    assert re.sub(r"\d+ arrays", "14 arrays", reply.error.reason).find(words) >= 0, reply.error.reason


def test_a_sound_order_trains(client: InProcessGrid) -> None:
    assert asked(client, RecordDict(order())).has_content()


def test_codes_with_the_scale_of_infinity_are_dropped() -> None:
    codes = np.zeros(76, np.uint8)
    codes[:16] = np.full(4, np.inf, np.float32).view(np.uint8)
    codes[16:] = 1
    with pytest.raises(UserError, match="holds NaN or infinite values"):
        receive(saved(codes), "int8")
