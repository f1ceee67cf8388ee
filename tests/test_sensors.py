"""An encoder of single sensors: the same weights whatever sensors people have, alone and in a federation."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file, save
from torch import Tensor

from centralized_baseline.__main__ import start, train_centralized
from centralized_baseline.probe import main as probe
from client.app import app as client_app
from server.app import app as server_app
from server.strategy import PeopleStrategy
from shared.body import KINDS, PLACES, everybodys, of_channels, pooled_by_kind, worn_sensors
from shared.checkpoint import load_encoder, read_card
from shared.config import DEFAULTS, Config, load_config
from shared.data import DataSettings, load, load_apart, training_people
from shared.data.folder import write_folder
from shared.data.parts import TEN_ALIKE
from shared.data.spec import InputSpec
from shared.data.split import split_people
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import Encoder, View, build_encoder
from shared.errors import UserError
from shared.evaluate import ProbeReport, embed
from shared.exchange import outgoing
from shared.layers import Attention
from shared.metrics import read_metrics
from shared.model import build_initial_encoder
from shared.plausible import SENSORS
from shared.seeding import make_generator
from shared.train import Together, Training, check_trainable
from simulation.__main__ import simulate
from simulation.inprocess import InProcessGrid
from tests.pretext import attention_of_torch, build, only

pytestmark = pytest.mark.numerics

NINE = (
    "total_acc", "body_acc", "gyro", "mag", "left_wrist_total_acc", "left_wrist_gyro", "head_gyro", "pocket_total_acc",
    "right_pocket_total_acc",
)  # fmt: skip


def spec_of(*sensors: str, samples: int = 64, rate: float = 50.0) -> InputSpec:
    units = {
        f"{s}_{axis}": SENSORS[next(kind for kind in KINDS if s.endswith(kind))].unit for s in sensors for axis in "xyz"
    }
    return InputSpec(channels=tuple(units), units=tuple(units.values()), size=(samples,), rate=rate)


def configure(*overrides: str, method: str | None = None) -> Config:
    small = ["encoder.name=sensors", "encoder.width=8", "train.batch_size=48", "federation.min_clients=3"]
    return load_config(DEFAULTS, ["data.name=synthetic", "federation.rounds=3", *small, *overrides], method)


def encoder_for(*sensors: str, samples: int = 64, log_input: bool = True, norm: str = "batch") -> Encoder:
    """One encoder's weights, in the state of some training, for windows of some sensors; in evaluation mode."""
    config = configure(
        f"encoder.log_input={0.03 if log_input else 'null'}", "encoder.hidden=12", f"encoder.norm={norm}"
    )
    encoder = build_encoder(config.encoder, spec_of(*sensors, samples=samples))
    generator = make_generator(1)
    state = {
        name: 0.5 + torch.rand(value.shape, generator=generator)
        if "running_var" in name
        else 0.2 * torch.randn(value.shape, generator=generator)
        for name, value in encoder.state_dict().items()
        if value.is_floating_point()
    }
    encoder.load_state_dict(state, strict=False)
    return encoder.eval()


def signals(n: int, sensors: int, samples: int = 64, seed: int = 0) -> Tensor:
    generator = make_generator(seed)
    return torch.randn(n, 3 * sensors, 1, generator=generator) + torch.randn(
        n, 3 * sensors, samples, generator=generator
    )


def axes_of(*sensors: int) -> list[int]:
    return [3 * sensor + axis for sensor in sensors for axis in range(3)]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_same_weights_encode_any_number_of_sensors(count: int, norm: str) -> None:
    one, some = encoder_for("gyro", norm=norm), encoder_for(*NINE[:count], samples=50 + count, norm=norm)
    assert {name: value.shape for name, value in some.state_dict().items()} == {
        name: value.shape for name, value in one.state_dict().items()
    }
    encoded = some.encode(View(signals(5, count, 50 + count)))
    assert encoded.pooled.shape == (5, one.dim)
    assert encoded.tokens.shape == (5, count * 7 if count < 7 else count * 8, one.width)
    assert encoded.pooled.isfinite().all()
    assert sum(p.numel() for p in some.parameters()) < 300_000


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_order_of_the_sensors_makes_no_difference(norm: str) -> None:
    x = signals(4, 3)
    names = ("total_acc", "left_wrist_gyro", "pocket_total_acc")
    expected = encoder_for(*names, norm=norm).encode(View(x))
    for order in permutations(range(3)):
        found = encoder_for(*(names[sensor] for sensor in order), norm=norm).encode(View(x[:, axes_of(*order)]))
        torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-4, atol=1e-5)
        tokens = expected.tokens.unflatten(1, (3, -1))[:, list(order)].flatten(1, 2)
        torch.testing.assert_close(found.tokens, tokens, rtol=1e-4, atol=1e-5)


def test_what_a_sensor_is_and_where_it_is_worn_make_a_difference() -> None:
    x = signals(4, 1)
    names = ("total_acc", "gyro", "wrist_total_acc", "left_wrist_total_acc", "ankle_total_acc", "mag")
    found = [encoder_for(name)(x) for name in names]
    for number, z in enumerate(found):
        assert all((z - other).abs().max() > 1e-3 for other in found[:number])


@pytest.mark.parametrize("left", [(0,), (1,), (0, 2), (1, 2)])
def test_a_sensor_that_is_hidden_is_as_if_it_were_not_there(left: tuple[int, ...]) -> None:
    """In pooled and in tokens, of some windows of a batch whose others have all."""
    names = ("total_acc", "gyro", "pocket_total_acc")
    encoder, fewer = encoder_for(*names), encoder_for(*(names[sensor] for sensor in left))
    x = signals(4, 3)
    mask = torch.zeros(4, 9, encoder.layout.times, dtype=torch.bool)
    gone = [sensor for sensor in range(3) if sensor not in left]
    mask[1:3, axes_of(*gone)] = True
    found, alone, whole = (
        encoder.encode(View(x, mask=mask)),
        fewer.encode(View(x[:, axes_of(*left)])),
        encoder.encode(View(x)),
    )
    torch.testing.assert_close(found.pooled[1:3], alone.pooled[1:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pooled[[0, 3]], whole.pooled[[0, 3]], rtol=1e-4, atol=1e-5)
    rows = [tokens.unflatten(1, (-1, encoder.layout.times)) for tokens in (found.tokens, alone.tokens)]
    torch.testing.assert_close(rows[0][1:3, list(left)], rows[1][1:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_a_hidden_sensor_reaches_the_rest(training: bool) -> None:
    encoder = encoder_for("total_acc", "gyro").train(training)
    x = signals(6, 2)
    mask = torch.zeros(6, 6, encoder.layout.times, dtype=torch.bool)
    mask[:3, :3], mask[3:, 3:] = True, True
    hidden = mask[:, :, :1].expand_as(x)
    first, second = (
        encoder.encode(View(value, mask=mask)) for value in (x, torch.where(hidden, signals(6, 2, seed=9), x))
    )
    assert torch.equal(first.pooled, second.pooled)
    assert torch.equal(first.tokens, second.tokens)
    blind = encoder.encode(View(x, mask=torch.ones_like(mask)))  # of nothing, something can be said
    assert blind.pooled.isfinite().all()


def test_attention_leaves_out_who_is_absent_as_torch_does() -> None:
    layer = Attention(16, "batch")
    reference = attention_of_torch(layer)
    tokens = torch.randn(5, 4, 16, generator=make_generator(0))
    absent = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]).bool()
    expected = reference(tokens, tokens, tokens, key_padding_mask=absent, need_weights=False)[0]
    torch.testing.assert_close(layer.attend(tokens, absent), expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_input_is_standardised_by_kind(seed: int) -> None:
    """Whatever mean an axis has: a kind of sensor has root mean square 1 after it, and its zero stays zero."""
    rng = np.random.default_rng(seed)
    spec = spec_of("total_acc", "wrist_total_acc", "gyro")
    x = rng.normal(rng.normal(size=(1, 9, 1)), rng.uniform(0.1, 5, (1, 9, 1)), (7, 9, 64)).astype(np.float32)
    statistics = ChannelStatistics.of(Windows(x, np.full(7, -1), np.array(["1"] * 7), replace(META, spec=spec)))
    encoder = build_encoder(configure().encoder, spec)
    encoder.standardise(statistics.mean, statistics.std)
    assert not encoder.mean.any()
    for channels in (slice(0, 6), slice(6, 9)):
        size = np.sqrt(np.square(x[:, channels].astype(np.float64)).mean())
        np.testing.assert_allclose(encoder.std[channels, 0].numpy(), size, rtol=1e-5)


def load_by_name(name: str, path: Path | None = None) -> tuple[Windows, Windows]:
    return load(DataSettings(name=name, sets=(), path=path, channels=(), holdout=(), parts=TEN_ALIKE))


META = load_by_name("synthetic")[0].meta


def test_sums_of_people_with_differing_sensors_add_up_by_kind() -> None:
    rng = np.random.default_rng(3)
    specs = [
        spec_of("total_acc"),
        spec_of("left_wrist_gyro", "left_wrist_total_acc"),
        spec_of("waist_gyro", samples=32),
    ]
    xs = [rng.normal(1, 2, (n, *spec.shape)).astype(np.float32) for n, spec in zip((5, 9, 20), specs, strict=True)]
    people = [
        (
            spec,
            ChannelStatistics.of(Windows(x, np.full(len(x), -1), np.array(["1"] * len(x)), replace(META, spec=spec))),
        )
        for spec, x in zip(specs, xs, strict=True)
    ]
    pooled = pooled_by_kind(people)
    assert pooled.count == sum(statistics.count for _, statistics in people)
    np.testing.assert_array_equal(pooled.mean, 0)
    acc = np.concatenate([xs[0].ravel(), xs[1][:, 3:].ravel()]).astype(np.float64)
    gyro = np.concatenate([xs[1][:, :3].ravel(), xs[2].ravel()]).astype(np.float64)
    usual = list(KINDS.values())
    expected = [np.sqrt(np.square(acc).mean()), usual[1], np.sqrt(np.square(gyro).mean()), usual[3]]
    np.testing.assert_allclose(pooled.std, expected, rtol=1e-12)
    own = of_channels(pooled, specs[1])
    np.testing.assert_allclose(own.std, np.repeat([expected[2], expected[0]], 3), rtol=1e-12)
    with pytest.raises(UserError, match="sums of 4 kinds of sensor, found 9"):
        of_channels(ChannelStatistics(1, np.zeros(9), np.ones(9)), specs[1])


@pytest.mark.parametrize(
    ("name", "place", "side"),
    [
        ("gyro", "", ""),
        ("left_wrist_gyro", "wrist", "left"),
        ("wrist_right_gyro", "wrist", "right"),
        ("thigh_mag", "pocket", ""),
        ("right_upper_arm_body_acc", "arm", "right"),
        ("left_total_acc", "", "left"),
    ],
)
def test_places_have_names(name: str, place: str, side: str) -> None:
    (sensor,) = worn_sensors(spec_of(name))
    words = (side, place, next(kind for kind in KINDS if name.endswith(kind)))
    assert sensor.name == "_".join(filter(None, words))
    assert PLACES[sensor.place] == place
    assert worn_sensors(everybodys([spec_of(name)])) == (sensor,)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (spec_of("elbow_gyro"), "unknown place 'elbow'; expected none or one of head, torso"),
        (spec_of("left_right_arm_gyro"), "unknown place 'left_right_arm'"),
        (
            InputSpec(channels=("gyro_x", "gyro_y"), units=("rad/s",) * 2, size=(64,), rate=50),
            "gyro_x, gyro_y belong to no",
        ),
        (
            spec_of("gyro").model_copy(update={"units": ("rad/s", "rad/s", "deg/s")}),
            "gyro_z is in deg/s, expected rad/s",
        ),
    ],
)
def test_sensors_without_a_name_are_refused(spec: InputSpec, words: str) -> None:
    with pytest.raises(UserError, match=f"encoder 'sensors': {words}"):
        build_encoder(configure().encoder, spec)


def test_graphcl_drops_a_sensor_of_each_view_and_never_all() -> None:
    windows = load(configure().data)[0][:20]
    model = build(only("graphcl", "encoder.name=sensors"), windows)
    batch = model.batch(torch.from_numpy(windows.x), {}, make_generator(0))
    (view,), _ = model.tasks["graphcl"].views(batch, make_generator(1))
    assert view.mask is not None
    gone = view.mask.unflatten(1, (2, 3)).all(dim=3)
    assert torch.equal(gone.all(dim=2), gone.any(dim=2))
    assert (gone.all(dim=2).sum(dim=1) == 1).all()
    assert not torch.equal(gone[:20], gone[20:])
    alone = replace(windows, x=windows.x[:, :3], meta=replace(windows.meta, spec=spec_of("total_acc")))
    model = build(only("graphcl", "encoder.name=sensors"), alone)
    (view,), _ = model.tasks["graphcl"].views(
        model.batch(torch.from_numpy(alone.x), {}, make_generator(0)), make_generator(1)
    )
    assert view.mask is None
    assert not torch.equal(view.x[:20], view.x[20:])


def test_dgi_corrupts_windows_by_sensors_of_others() -> None:
    windows = load(configure().data)[0][:20]
    model = build(only("dgi", "encoder.name=sensors"), windows)
    x = torch.from_numpy(windows.x)
    (view,), _ = model.tasks["dgi"].views(model.batch(x, {}, make_generator(0)), make_generator(1))
    assert torch.equal(view.x[:20], x)
    whose = [
        [int((x[:, part] == row[part]).all(dim=2).all(dim=1).nonzero()) for part in (slice(3), slice(3, 6))]
        for row in view.x[20:]
    ]
    assert sorted(acc for acc, _ in whose) == sorted(gyro for _, gyro in whose) == list(range(20))
    assert sum(acc != gyro for acc, gyro in whose) > 10


def people(base: Path) -> list[Path]:
    """Three people: a watch's accelerometer, a wrist with two sensors, and nine channels at the waist."""
    synthetic, _ = load_by_name("synthetic")
    watch, _ = load_by_name("watch")
    two, nine = synthetic.of(["1"]), synthetic.of(["3"])
    still = nine.x[:, :3].mean(axis=2, keepdims=True)
    parts = [
        (watch.of(["2"]), watch.of(["2"]).x[:, :3], ["left_wrist_total_acc"]),
        (two, two.x, ["right_wrist_total_acc", "right_wrist_gyro"]),
        (
            nine,
            np.concatenate([nine.x[:, :3], nine.x[:, :3] - still, nine.x[:, 3:]], axis=1),
            ["waist_total_acc", "waist_body_acc", "waist_gyro"],
        ),
    ]
    return [write_person(base / str(number), *part) for number, part in enumerate(parts)]


def write_person(folder: Path, windows: Windows, x: NDArray[np.float32], sensors: list[str]) -> Path:
    meta = replace(windows.meta, spec=spec_of(*sensors, samples=x.shape[2]), feature_names=())
    own = Windows(x, windows.y, windows.person, meta)
    write_folder(folder, own, own[:0])
    return folder


def federate(folder: Path, config: Config, folders: list[Path], app: ClientApp = client_app) -> None:
    """Run a federation whose clients have a folder of their own each, as deployed ones do."""
    config_file = folder.parent / f"{folder.name}.yaml"
    config_file.write_text(config.to_yaml())
    run_config = {"config": str(config_file), "method": "", "overrides": "", "run-dir": str(folder)}
    grid = InProcessGrid(app, len(folders), run_config, parallel=2)
    for context, own in zip(grid._contexts.values(), folders, strict=True):
        context.node_config["data"] = str(own)
    try:
        server_app(grid, Context(1, 1, {}, RecordDict(), dict(run_config)))
    finally:
        grid.close()


ALL = [f"tasks.{name}.enabled=true" for name in ("contrastive", "graphcl", "dgi", "byol")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    base = tmp_path_factory.mktemp("sensors")
    folders = people(base / "people")
    federate(base / "run", configure(*ALL), folders)
    return base / "run", folders


@pytest.mark.slow
def test_people_with_different_sensors_train_one_encoder(trained: tuple[Path, list[Path]]) -> None:
    run, folders = trained
    rows = list(read_metrics(run / "metrics.jsonl"))
    assert [row["clients"] for row in rows if row["kind"] == "round"] == [3, 3, 3]
    losses = [row["loss"] for row in rows if row["kind"] == "round"]
    assert losses[-1] < losses[0]
    card = read_card(run)
    assert {name.removesuffix("_x") for name in card.spec.channels if name.endswith("_x")} == {
        "left_wrist_total_acc", "right_wrist_total_acc", "right_wrist_gyro",
        "waist_total_acc", "waist_body_acc", "waist_gyro",
    }  # fmt: skip
    assert card.data == "synthetic + watch"
    initial = build_initial_encoder(configure(), spec_of("gyro"))
    crossed = json.loads((run / "exchange.json").read_text())["crossed_the_wire"]
    assert {row["name"] for row in crossed if row["kind"] == "array"} == set(outgoing(initial, "average"))
    state = load_file(run / "encoder.safetensors")
    assert all(not torch.equal(state[name], value) for name, value in initial.named_parameters() if "sides" not in name)
    everybody = [load_by_name("folder", folder)[0] for folder in folders]
    acc = np.concatenate([w.x[:, :3].ravel() for w in everybody]).astype(np.float64)
    at = card.spec.channels.index("waist_total_acc_y")
    assert card.std[at] == pytest.approx(np.sqrt(np.square(acc).mean()), rel=1e-6)


@pytest.mark.slow
def test_a_stopped_run_of_different_people_goes_on_to_the_same_bits(
    trained: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folders = trained
    aggregate = PeopleStrategy.aggregate_train

    def stop(self: PeopleStrategy, server_round: int, *rest: object) -> object:
        if self.done + server_round == 3:
            raise RuntimeError("stopped")
        return aggregate(self, server_round, *rest)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(PeopleStrategy, "aggregate_train", stop)
        federate(tmp_path / "run", configure(*ALL), folders)
    federate(tmp_path / "run", configure(*ALL), folders)
    for name in ("encoder.safetensors", "encoder.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.slow
def test_its_encoder_is_probed_on_people_with_other_sensors(trained: tuple[Path, list[Path]], tmp_path: Path) -> None:
    run, _ = trained
    few = ["--seeds", "1", "--regimes", "all", "--out", str(tmp_path)]
    probe(["--encoder", str(run), *few, "data.name=synthetic", "data.path=null"])
    report = ProbeReport.model_validate_json((tmp_path / "run" / "probe.json").read_bytes())
    assert report.test_people == ["5", "6"]
    assert report.results[0].accuracy > 0.5
    watch, _ = load_by_name("watch")
    ours, card = load_encoder(run, watch.meta.spec)
    weights = load_file(run / "encoder.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in ours.state_dict().items())
    kinds = {name.removesuffix("_x"): std for name, std in zip(card.spec.channels, card.std, strict=True)}
    expected = np.repeat([kinds["waist_total_acc"], kinds["waist_gyro"]], 3)
    np.testing.assert_allclose(ours.std[:, 0].numpy(), expected, rtol=1e-6)
    assert embed(ours, watch.x[:9]).shape == (9, ours.dim)
    slow = replace(watch, meta=replace(watch.meta, spec=watch.meta.spec.model_copy(update={"rate": 25.0})))
    fitted = card.fit(slow[:2])
    assert (fitted.meta.spec.rate, fitted.meta.spec.size) == (50.0, (256,))


@pytest.mark.slow
def test_other_encoders_refuse_different_sensors_in_words(trained: tuple[Path, list[Path]], tmp_path: Path) -> None:
    _, folders = trained
    with pytest.raises(UserError, match=r"1 of 3 clients .* can take part: .*has the data set"):
        federate(tmp_path / "run", configure("encoder.name=fcn"), folders)
    alike = people(tmp_path / "people")[1:]
    with pytest.raises(
        UserError, match=r"1 of 2 .*missing channels: .*; with encoder.name=sensors people with different"
    ):
        federate(tmp_path / "two", configure("encoder.name=fcn", "federation.min_clients=2"), alike)


@pytest.mark.slow
def test_another_rate_is_left_out_and_named(tmp_path: Path) -> None:
    folders = people(tmp_path / "people")
    description = folders[0] / "dataset.json"
    description.write_text(description.read_text().replace("50.0", "25.0"))
    federate(tmp_path / "run", configure("federation.min_clients=2", "federation.rounds=1"), folders)
    assert (
        "does not measure as the others do: the rate is 25.0 Hz, expected 50.0 Hz"
        in (tmp_path / "run" / "server.log").read_text()
    )
    assert list(read_metrics(tmp_path / "run" / "metrics.jsonl"))[-1]["clients"] == 2


@pytest.mark.slow
def test_single_sensors_give_the_same_encoder_in_process_and_under_ray(tmp_path: Path) -> None:
    config = configure(method="graphcl")
    for engine in ("inprocess", "ray"):
        simulate(config, tmp_path / engine, engine)
    one, two = ((tmp_path / engine / "encoder.safetensors").read_bytes() for engine in ("inprocess", "ray"))
    assert one == two


KEPT = ("uci_har/1", "motionsense/4", "dsads/1", "dsads/2")


@pytest.fixture(scope="module")
def three(uci_har_zip: Path, motionsense_zip: Path, dsads_zip: Path) -> Iterator[Config]:
    """Four people of three data sets, with three, three and fifteen sensors; at half of their common rate."""
    with pytest.MonkeyPatch.context() as patch:
        for name, path in (("UCI_HAR", uci_har_zip), ("MOTIONSENSE", motionsense_zip), ("DSADS", dsads_zip)):
            patch.setenv(f"FEDHAR_{name}", str(path))
        sets = "data.sets=[dsads,uci_har,motionsense]"
        everybody = training_people(configure(sets).data, apart=True).ids
        held = ",".join(person for person in everybody if person not in KEPT)
        few = ["federation.rounds=1", "federation.min_clients=4", "centralized.epochs=2", "train.learning_rate=0.003"]
        yield configure(sets, f"data.holdout=[{held}]", *few)


@pytest.mark.slow
def test_people_of_three_data_sets_give_the_same_encoder_in_process_and_under_ray(
    three: Config, tmp_path: Path
) -> None:
    for engine in ("inprocess", "ray"):
        simulate(three, tmp_path / engine, engine)
    one, two = ((tmp_path / engine / "encoder.safetensors").read_bytes() for engine in ("inprocess", "ray"))
    assert one == two
    clients = [row for row in read_metrics(tmp_path / "ray" / "metrics.jsonl") if row["kind"] == "client"]
    assert {row["person"] for row in clients} == set(KEPT)
    crossed = json.loads((tmp_path / "ray" / "exchange.json").read_text())["crossed_the_wire"]
    arrays = {row["name"] for row in crossed if row["kind"] == "array"}
    assert arrays == set(outgoing(build_initial_encoder(three, spec_of("gyro")), "average"))
    card = read_card(tmp_path / "ray")
    assert (card.data, card.spec.rate) == ("dsads + motionsense + uci_har", 25.0)
    assert {"total_acc_x", "body_acc_x", "gyro_x", "torso_mag_x", "left_arm_gyro_x"} <= set(card.spec.channels)


@pytest.mark.slow
def test_files_that_split_writes_are_those_of_a_federation_of_three_data_sets(three: Config, tmp_path: Path) -> None:
    """Each client has its person's file and the description beside it."""
    split_people(three.data, tmp_path / "people")
    folders = []
    for file in sorted((tmp_path / "people").glob("*/person_*.npz")):
        folders.append(tmp_path / "clients" / file.stem)
        folders[-1].mkdir(parents=True)
        for path in (file, file.with_name("dataset.json")):
            shutil.copy(path, folders[-1])
    federate(tmp_path / "deployed", three, folders)
    rows = [row for row in read_metrics(tmp_path / "deployed" / "metrics.jsonl") if row["kind"] == "client"]
    assert {row["person"] for row in rows} == set(KEPT)


@pytest.mark.slow
def test_the_baseline_trains_on_people_of_three_data_sets(three: Config, tmp_path: Path) -> None:
    train_centralized(three, tmp_path / "run")
    first, last = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all(last[f"loss.{task}"] < first[f"loss.{task}"] for task in three.enabled_tasks)
    parts = [train for train, _ in load_apart(three.data)]
    assert first["windows"] == sum(map(len, parts))
    card = read_card(tmp_path / "run")
    assert card.data == "dsads + motionsense + uci_har"
    gyros = [
        part.x[:, [name.endswith(("gyro_x", "gyro_y", "gyro_z")) for name in part.meta.spec.channels]].astype(
            np.float64
        )
        for part in parts
    ]
    size = np.sqrt(sum(np.square(x).sum() for x in gyros) / sum(x.size for x in gyros))
    assert card.std[card.spec.channels.index("torso_gyro_y")] == pytest.approx(size, rel=1e-6)
    few = ["--seeds", "1", "--regimes", "all", "--out", str(tmp_path / "out"), "data.sets=[]", "data.name=watch"]
    probe(["--encoder", str(tmp_path / "run"), *few, "data.holdout=[]"])
    report = ProbeReport.model_validate_json((tmp_path / "out" / "run" / "probe.json").read_bytes())
    assert report.results[0].accuracy > 0.5


def windows_of(base: Path) -> list[Windows]:
    """Windows of the three kinds of people that ``people`` has."""
    found = [load_by_name("folder", folder)[0] for folder in people(base)]
    names = ("watch", "wrist", "waist")
    return [replace(one, meta=replace(one.meta, name=name))[:70] for name, one in zip(names, found, strict=True)]


@pytest.mark.parametrize("method", [None, "graphcl", "byol", "hubert"])
def test_trainings_together_have_one_encoder_and_resume_to_the_same_bits(method: str | None, tmp_path: Path) -> None:
    parts = windows_of(tmp_path)
    config = configure("centralized.batch_size=32", "centralized.epochs=3", "encoder.hidden=8", method=method)

    def started() -> Together:
        training, _, _ = start(config, parts)
        assert isinstance(training, Together)
        return training

    whole, first, second = started(), started(), started()
    logs = list(whole.run(range(3)))
    assert [log.windows for log in logs] == [sum(map(len, parts))] * 3
    encoders = [one.model.encoder for one in whole.trainings]
    for encoder in encoders:
        assert encoder.state_dict().keys() == encoders[0].state_dict().keys()
        for name, value in encoder.state_dict().items():
            assert value.data_ptr() == encoders[0].state_dict()[name].data_ptr()
        expected = build_initial_encoder(config, encoder.spec)
        assert any(not torch.equal(*pair) for pair in zip(encoder.parameters(), expected.parameters(), strict=True))
    list(first.run(range(2)))
    content = save(first.state())  # each tensor once
    second.load(load_tensors(content))
    list(second.run(range(2, 3)))
    expected, found = whole.state(), second.state()
    assert expected.keys() == found.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []


def test_batches_of_all_kinds_are_spread_over_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 70, 70 and 16 windows are three, three and one batch of 32 or fewer."""
    one, two, three = windows_of(tmp_path)
    parts = [one, two, three[:16]]
    training, _, _ = start(configure("centralized.batch_size=32"), parts)
    taken: list[tuple[str, list[int]]] = []
    step = Training.step

    def seen(self: Training, rows: Tensor, *rest: object) -> object:
        taken.append((self.data.person, rows.tolist()))
        return step(self, rows, *rest)

    monkeypatch.setattr(Training, "step", seen)
    list(training.run(range(1)))
    assert [name for name, _ in taken] == ["watch", "wrist", "watch", "wrist", "waist", "watch", "wrist"]
    for part in parts:
        rows = [row for name, of_batch in taken for row in of_batch if name == part.meta.name]
        assert sorted(rows) == list(range(len(part)))


def test_who_cannot_train_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^watch: .*at least 2 sensors in a window, found 1"):
        check_trainable(configure(method="graphmae"), *windows_of(tmp_path))
