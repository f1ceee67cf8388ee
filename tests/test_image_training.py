"""Images in the one frame: tasks, training in both ways, and the probe, on made-up pictures and on real ones."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from centralized_baseline.__main__ import train_centralized
from centralized_baseline.probe import main as probe_main
from shared.body import worn_sensors
from shared.checkpoint import load_encoder
from shared.config import Config, load_config
from shared.data import load
from shared.data.__main__ import main as data_main
from shared.data.images import image_spec
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Meta, Windows
from shared.encoders import IMAGE_ENCODERS
from shared.errors import UserError
from shared.evaluate import BASELINES, embed
from shared.features import expert_features
from shared.metrics import read_metrics
from shared.model import build_model, prepare
from shared.seeding import make_generator
from shared.tasks import TASKS
from shared.tasks.ijepa import IJEPASettings, draw_parts
from simulation.__main__ import simulate

pytestmark = [pytest.mark.numerics, pytest.mark.slow]

DEMO = Path(__file__).resolve().parents[1] / "configs" / "images_demo.yaml"
SIDE = 16
CLASSES = ("across", "down")

OF_IMAGES = [name for name, task in TASKS.items() if not task.of_time]
MASKED = {name: [f"tasks.{name}.mask.kind=block"] for name in ("data2vec", "ibot", "mae", "codes")}
MASKED["codes"] += ["tasks.codes.source=patches"]


def stripes(n: int, seed: int = 0) -> Windows:
    """Stripes across or down, of random colour, width and place, with some noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    wave = np.sin(np.arange(SIDE) * rng.uniform(0.8, 1.6, (n, 1)) + rng.uniform(0, 6, (n, 1)))
    across = np.repeat(wave[:, :, None], SIDE, axis=2)
    signal = np.where(y[:, None, None] == 0, across, across.transpose(0, 2, 1))
    x = 128 + 60 * rng.uniform(0.5, 1, (n, 3, 1, 1)) * signal[:, None] + 10 * rng.normal(size=(n, 3, SIDE, SIDE))
    meta = Meta("stripes", image_spec(SIDE, SIDE), CLASSES)
    return Windows(x.clip(0, 255).astype(np.uint8), y, np.array([str(k % 3 + 1) for k in range(n)]), meta)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as files: 60 for training and 20 for tests."""
    root = tmp_path_factory.mktemp("pictures")
    for part, windows in (("train", stripes(60)), ("test", stripes(20, seed=1))):
        for number, (image, label) in enumerate(zip(windows.x, windows.y, strict=True)):
            folder = root / part / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03}.png")
    return root


def configure(*overrides: str) -> Config:
    small = ["encoder.width=4", "train.device=cpu", "train.precision=float32", "centralized.threads=1"]
    return load_config(DEMO, [*small, *overrides])


def of_folder(path: Path, *overrides: str) -> Config:
    parts = ["data.parts.count=3", "data.parts.by=even", "federation.min_clients=3"]
    return configure("data.name=image_folder", f"data.path={path}", *parts, *overrides)


def only(task: str, encoder: str) -> Config:
    switches = [f"tasks.{name}.enabled={'true' if name == task else 'false'}" for name in TASKS]
    return configure(f"encoder.name={encoder}", *switches, *MASKED.get(task, []))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("FEDHAR_CACHE", str(tmp_path_factory.getbasetemp() / "cache-of-images"))


@pytest.mark.parametrize("encoder", ["resnet18_small", "vit"])
@pytest.mark.parametrize("task", OF_IMAGES)
def test_a_task_that_needs_no_time_axis_learns_on_images(task: str, encoder: str) -> None:
    windows, config = stripes(12), only(task, encoder)
    if encoder != "vit" and task in ("ijepa", "mae"):
        with pytest.raises(UserError, match=f"task '{task}' leaves positions out"):
            build_model(config, windows.meta, ChannelStatistics.of(windows))
        return
    model = build_model(config, windows.meta, ChannelStatistics.of(windows))
    data = prepare(config, windows)
    assert data.x.dtype == torch.uint8
    batch = model.batch(data.x, data.extras, make_generator(0))
    assert batch.x.dtype == torch.float32 and torch.equal(batch.x, data.x.float())
    torch.testing.assert_close(batch.standardised.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    losses, again = (model.losses([model.draw(batch, make_generator(1))], torch.float32) for _ in range(2))
    assert torch.equal(losses.values[0], again.values[0])
    losses.values[0].sum().backward()
    gradients = [p.grad for p in model.encoder.backbone.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0


def test_what_needs_a_time_axis_says_so() -> None:
    windows = stripes(6)
    statistics = ChannelStatistics.of(windows)
    of_time = {name for name, task in TASKS.items() if task.of_time}
    assert of_time >= {"features", "wav2vec2", "order", "rotation", "cpc", "crossmodal", "graphcl", "dgi"}
    with pytest.raises(UserError, match=r"features, order: tasks of windows with a time axis.*tasks\.order\.enabled"):
        build_model(configure("tasks.features.enabled=true", "tasks.order.enabled=true"), windows.meta, statistics)
    with pytest.raises(UserError, match="unknown augmentation 'tilt'; expected one of: resize_crop, flip"):
        build_model(configure("views.transforms=[tilt]"), windows.meta, statistics)
    with pytest.raises(UserError, match="encoder 'fcn' does not take images"):
        build_model(configure("encoder.name=fcn"), windows.meta, statistics)
    with pytest.raises(UserError, match="expected windows with a time axis, found images of 16 x 16 pixels"):
        expert_features(torch.from_numpy(windows.x), windows.meta.spec)
    worn = windows.meta.spec.model_copy(update={"channels": ("gyro_x", "gyro_y", "gyro_z"), "units": ("rad/s",) * 3})
    with pytest.raises(UserError, match="expected windows of worn sensors, found images"):
        worn_sensors(worn)
    with pytest.raises(UserError, match="images must be uint8 or float32"):
        Windows(windows.x.astype(np.float64), windows.y, windows.person, windows.meta)


def test_quarter_turns_are_told_apart() -> None:
    """What the task calls turn k is the image turned k times by a quarter."""
    windows, config = stripes(11), only("transformation", "vit")
    model = build_model(config, windows.meta, ChannelStatistics.of(windows))
    batch = model.batch(torch.from_numpy(windows.x), {}, make_generator(0))
    (view,), labels = model.tasks["transformation"].views(batch, make_generator(3))
    assert set(labels.tolist()) == {0, 1, 2, 3}
    for turned, image, label in zip(view.x, batch.x, labels.tolist(), strict=True):
        assert torch.equal(turned, torch.rot90(image, label, (1, 2)))


def test_the_hidden_region_is_filled_with_the_mean_colour_and_judged_alone() -> None:
    windows, config = stripes(5), only("reconstruction", "resnet18_small")
    model = build_model(config, windows.meta, ChannelStatistics.of(windows))
    batch = model.batch(torch.from_numpy(windows.x), {}, make_generator(0))
    task = model.tasks["reconstruction"]
    (view,), hidden = task.views(batch, make_generator(3))
    assert (hidden.sum(dim=(1, 2)) == 3 * 16).all(), "three patches of 4 x 4 pixels of sixteen"
    for seen, image, mask in zip(view.x, batch.x, hidden, strict=True):
        assert torch.equal(seen[:, ~mask], image[:, ~mask])
        mean = image[:, ~mask].mean(dim=1)
        torch.testing.assert_close(seen[:, mask], mean[:, None].expand(3, 48))
    encoded = model.encoder.encode(view)
    told = task.decoder(encoded.pooled).view(batch.x.shape)
    expected = (told - batch.standardised).square().movedim(1, 3)[hidden].mean()
    torch.testing.assert_close(task.loss([encoded], hidden, batch), expected)


def test_regions_of_ijepa_are_regions_of_the_image() -> None:
    ijepa = IJEPASettings(
        enabled=True, weight=1, context=(0.8, 0.8), targets=2, target_share=(0.1, 0.1), hidden=4, depth=1
    )
    context, targets = draw_parts(ijepa, 20, (8, 8), make_generator(0))
    assert not targets.gather(1, context).any()
    for region in targets.view(20, 8, 8):
        rows, columns = region.any(dim=1).sum(), region.any(dim=0).sum()
        assert rows < 8 or columns < 8
    widths = targets.view(20, 8, 8).any(dim=1).sum(dim=1)
    assert widths.max() < 8, "no row is hidden from end to end"


def test_centralized_and_federated_and_probed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDHAR_RUNS", str(tmp_path))
    central, federated = tmp_path / "central", tmp_path / "federated"
    epochs = 6
    train_centralized(of_folder(pictures, f"centralized.epochs={epochs}", "centralized.batch_size=30"), central)
    simulate(of_folder(pictures, f"federation.rounds={epochs}", "train.batch_size=10"), federated, "inprocess")

    for folder, kind in ((central, "epoch"), (federated, "round")):
        rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == kind]
        assert len(rows) == epochs and all(math.isfinite(row["loss"]) for row in rows)
        assert rows[-1]["loss.reconstruction"] < rows[0]["loss.reconstruction"]
        assert {name.split(".")[1] for name in rows[0] if name.startswith("loss.")} == {
            "transformation", "reconstruction", "contrastive"
        }  # fmt: skip
        encoder, card = load_encoder(folder)
        assert card.spec == image_spec(SIDE, SIDE)
        train, test = load(of_folder(pictures).data)
        z = embed(encoder, card.fit(test).x)
        assert z.shape == (20, encoder.dim) and np.isfinite(z).all()
        statistics = ChannelStatistics.of(train)
        np.testing.assert_allclose(card.mean, statistics.mean)
    clients = {row["person"]: row for row in read_metrics(federated / "metrics.jsonl") if row["kind"] == "client"}
    assert sorted(clients) == ["1", "2", "3"] and sum(row["num-examples"] for row in clients.values()) == 60

    config = ["--config", str(DEMO), "encoder.width=4", "data.name=image_folder", f"data.path={pictures}"]
    config += ["data.parts.count=3", "data.parts.by=even"]
    probe_main(["--encoder", str(central), "raw", "random", *config, "--seeds", "1", "--regimes", "50%", "all"])
    for name in ("central", "images_demo-raw", "images_demo-random"):
        report = json.loads((tmp_path / name / "probe.json").read_text())
        assert {result["regime"]: result["labels"] for result in report["results"]} == {"50%": 30, "all": 60}
        assert report["test_people"] == ["test"] and report["classes"] == list(CLASSES)


def test_one_part_federated_is_trained_on_the_same_objective_as_centralized(pictures: Path, tmp_path: Path) -> None:
    """One client that holds all images sends back the encoder that the baseline makes of them."""
    alone = ["data.parts.count=1", "federation.min_clients=1", "train.batch_size=30", "centralized.batch_size=30"]
    config = of_folder(pictures, *alone, "federation.rounds=1", "centralized.epochs=1")
    train_centralized(config, tmp_path / "central")
    simulate(config, tmp_path / "federated", "inprocess")
    first, second = (load_encoder(tmp_path / name)[0].state_dict() for name in ("central", "federated"))
    trained = [name for name, value in first.items() if value.is_floating_point()]  # counters of batches do not travel
    assert all(torch.equal(first[name], second[name]) for name in trained) and len(trained) > 50


@pytest.mark.parametrize("encoder", IMAGE_ENCODERS)
@pytest.mark.parametrize("baseline", sorted(BASELINES))
def test_baselines_stand_beside(baseline: str, encoder: str) -> None:
    train, test = stripes(12), stripes(4, seed=1)
    settings = configure(f"encoder.name={encoder}").encoder
    if encoder == "resnet18" and baseline in ("random", "supervised"):
        with pytest.raises(UserError, match="images are too small; expected sides of at least 64 pixels, found 16"):
            made = BASELINES[baseline](settings, train, test)
            assert made.encoder is not None
            made.encoder(0)
        return
    made = BASELINES[baseline](settings, train, test)
    if baseline == "features":
        with pytest.raises(UserError, match="expected windows with a time axis"):
            made.embed(0)
    elif made.embed is None:
        assert made.encoder(0)(torch.from_numpy(test.x)).shape[0] == 4
    else:
        z = made.embed(0)
        assert [len(part) for part in z] == [12, 4] and all(part.dtype == np.float32 for part in z)


def test_a_data_set_of_images_is_shown(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_main(["info", "image_folder", "--path", str(pictures)])
    shown = capsys.readouterr().out
    assert "60 training and 20 test windows" in shown and "3 channels of 16 x 16 pixels" in shown


def test_real_images_train(cifar10_zip: Path, tmp_path: Path) -> None:
    """The files as they are; few of them, because a test is no place for thousands."""
    config = configure(f"data.path={cifar10_zip}", "data.parts.count=100", "centralized.epochs=1")
    train, _ = load(config.data)
    few = train.of(["1"])
    assert few.x.shape[1:] == (3, 32, 32) and len(few) > 10
    data = prepare(config, few)
    model = build_model(config, few.meta, ChannelStatistics.of(few))
    losses = model.losses(
        [model.draw(model.batch(data.x, data.extras, make_generator(0)), make_generator(0))], torch.float32
    )
    assert losses.values.shape == (1, 3) and losses.values.isfinite().all()
