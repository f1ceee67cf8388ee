"""Devices worn another way: windows that are turned at random, and encoders that turn them upright."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.testing import assert_close

from benchmarks import orientation
from shared.checkpoint import load_encoder
from shared.config import DEFAULTS, Config, load_config
from shared.data.spec import InputSpec
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Meta, Windows
from shared.encoders import ENCODERS, View, build_encoder
from shared.encoders.align import LEAST, Align, upright
from shared.errors import UserError
from shared.evaluate import Part, draw_regime, embed, evaluate_once, with_turned_copies, with_turned_recordings
from shared.export import build_onnx, build_torchscript, load_onnx, load_torchscript, prepare
from shared.model import build_model
from shared.model import prepare as prepare_training
from shared.seeding import make_generator
from tests.pretext import build, synthetic_windows
from tests.test_export import make_run
from tests.test_sensors import spec_of

pytestmark = pytest.mark.numerics

SENSORS = ("total_acc", "body_acc", "gyro", "left_wrist_total_acc", "left_wrist_gyro")
HOW = ("gravity", "heading")


def configure(*overrides: str) -> Config:
    return load_config(DEFAULTS, ["data.name=synthetic", "encoder.width=8", *overrides])


def walk(n: int, *sensors: str, seed: int = 0) -> Tensor:
    """Windows of devices that swing along a line, forwards quicker than backwards, while gravity points anywhere."""
    generator = make_generator(seed)
    x = 0.1 * torch.randn(n, 3 * len(sensors), 64, generator=generator, dtype=torch.float64)
    phase = torch.linspace(0, 12, 64, dtype=torch.float64) + torch.randn(n, 1, generator=generator, dtype=torch.float64)
    swing = phase.sin() + 0.5 * (2 * phase).cos()
    for number, sensor in enumerate(sensors):
        line, up = torch.randn(2, n, 3, 1, generator=generator, dtype=torch.float64)
        x[:, 3 * number : 3 * number + 3] += line * swing[:, None]
        if sensor.endswith("total_acc"):
            x[:, 3 * number : 3 * number + 3] += up / up.norm(dim=1, keepdim=True)
    return x


def turned(x: Tensor, spec: InputSpec, rotations: dict[str, Tensor]) -> Tensor:
    """The windows turned by one matrix a place, sensor by sensor."""
    x = x.clone()
    for triad in spec.triads:
        x[:, list(triad.channels)] = rotations[triad.place].to(x) @ x[:, list(triad.channels)]
    return x


def means(x: Tensor) -> Tensor:
    return x[:, :3].mean(dim=2)


ROTATION = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(v * v for v in q) > 0.01)


def matrix(quaternion: tuple[float, ...]) -> Tensor:
    return torch.from_numpy(Rotation.from_quat(quaternion).as_matrix())


@given(ROTATION, ROTATION, st.integers(0, 9))
def test_heading_undoes_any_rotation_of_each_place(one: tuple[float, ...], other: tuple[float, ...], seed: int) -> None:
    spec, x = spec_of(*SENSORS), walk(4, *SENSORS, seed=seed)
    align = Align("heading", spec)
    assert_close(align(turned(x, spec, {"": matrix(one), "left_wrist": matrix(other)})), align(x), rtol=0, atol=1e-6)


@given(ROTATION, st.integers(0, 9))
def test_gravity_undoes_any_rotation_up_to_one_about_the_vertical(rotation: tuple[float, ...], seed: int) -> None:
    spec, x = spec_of("total_acc", "gyro"), walk(4, "total_acc", "gyro", seed=seed)
    align = Align("gravity", spec)
    before, after = align(x), align(turned(x, spec, {"": matrix(rotation)}))
    for z in (2, 5):
        assert_close(after[:, z], before[:, z], rtol=0, atol=1e-9)
    # What turns the horizontal axes of the one into those of the other is the same for both sensors: a complex number.
    complexes = [
        torch.complex(w[:, 0::3].flatten(1), w[:, 1::3].flatten(1))  # (N, 2 T): x and y of both sensors
        for w in (before, after)
    ]
    factor = (complexes[1] * complexes[0].conj()).sum(dim=1, keepdim=True)
    assert_close(complexes[1], factor / factor.abs() * complexes[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("how", HOW)
@given(st.integers(0, 99))
def test_aligned_windows_are_turned_and_no_more(how: str, seed: int) -> None:
    spec, x = spec_of(*SENSORS), walk(4, *SENSORS, seed=seed)
    align = Align(how, spec)  # type: ignore[arg-type]
    aligned = align(x)
    for triad in spec.triads:
        axes = list(triad.channels)
        assert_close(aligned[:, axes].norm(dim=1), x[:, axes].norm(dim=1))
    for first, second in ((0, 3), (0, 6), (9, 12)):  # angles between sensors of a place, and which hand the axes are of
        of = slice(first, first + 3), slice(second, second + 3)
        assert_close((aligned[:, of[0]] * aligned[:, of[1]]).sum(1), (x[:, of[0]] * x[:, of[1]]).sum(1))
    volume = torch.stack([x[:, :3, 0], x[:, 3:6, 0], x[:, 6:9, 0]], dim=1).det()
    assert_close(torch.stack([aligned[:, :3, 0], aligned[:, 3:6, 0], aligned[:, 6:9, 0]], dim=1).det(), volume)
    for total in (0, 9):
        up = torch.zeros(4, 3, dtype=x.dtype)
        up[:, 2] = x[:, total : total + 3].mean(dim=2).norm(dim=1)
        assert_close(aligned[:, total : total + 3].mean(dim=2), up, rtol=0, atol=1e-9)
    assert_close(align(aligned), aligned, rtol=0, atol=1e-9)


def test_forwards_is_the_direction_of_most_movement_as_numpy_finds_it() -> None:
    x = walk(20, "total_acc")
    aligned = Align("heading", spec_of("total_acc"))(x).numpy()
    for window, found in zip(x.numpy(), aligned, strict=True):
        up = window.mean(axis=1) / np.linalg.norm(window.mean(axis=1))
        movement = window - window.mean(axis=1, keepdims=True)
        horizontal = movement - np.outer(up, up @ movement)
        forwards = np.linalg.svd(horizontal)[0][:, 0]
        forwards *= np.sign(((forwards @ horizontal) ** 3).sum())
        assert_allclose(found, np.stack([forwards, np.cross(up, forwards), up]) @ window, atol=1e-9)


@given(st.tuples(*[st.floats(-1, 1)] * 3))
def test_upright_is_the_shortest_rotation_and_one_even_overhead(direction: tuple[float, ...]) -> None:
    length = np.linalg.norm(direction)
    assume(length > 1e-3)
    up = torch.tensor(direction, dtype=torch.float64)[None] / length
    rotation = upright(up)[0]
    assert_close(rotation @ up[0], torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-9)
    assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-9)
    assert float(torch.det(rotation)) == pytest.approx(1)
    if up[0, 2] > -0.89:
        angle = np.arccos(np.clip((float(rotation.trace()) - 1) / 2, -1, 1))
        assert angle == pytest.approx(float(torch.arccos(up[0, 2])), abs=1e-5)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("length", [0.0, LEAST / 2])
def test_without_gravity_a_window_stays_as_it_is(how: str, length: float) -> None:
    x = torch.zeros(2, 6, 64)
    x[:, 1] = length
    x[:, 3:] = torch.randn(2, 3, 64, generator=make_generator(0))
    assert torch.equal(Align(how, spec_of("total_acc", "gyro"))(x), x)  # type: ignore[arg-type]


def test_where_nothing_moves_up_alone_is_told() -> None:
    x = torch.zeros(1, 3, 64)
    x[:, 1] = -1.0
    spec = spec_of("total_acc")
    assert torch.equal(Align("heading", spec)(x), Align("gravity", spec)(x))
    assert_close(means(Align("heading", spec)(x)), torch.tensor([[0.0, 0.0, 1.0]]))


def test_other_channels_stay_where_they_are() -> None:
    names = ("heart", "total_acc_x", "total_acc_y", "total_acc_z", "light")
    spec = InputSpec(channels=names, units=("1/s", "g", "g", "g", "lx"), size=(64,), rate=50.0)
    x = torch.randn(3, 5, 64, generator=make_generator(0)) + 1
    aligned = Align("gravity", spec)(x)
    assert torch.equal(aligned[:, [0, 4]], x[:, [0, 4]])
    assert not torch.equal(aligned[:, 1:4], x[:, 1:4])


@pytest.mark.parametrize(
    ("sensors", "words"),
    [
        (("body_acc", "gyro"), "expected total_acc_x, with y and z, found body_acc_x, gyro_x without it"),
        (("total_acc", "left_wrist_gyro"), "expected left_wrist_total_acc_x, with y and z, found left_wrist_gyro_x"),
    ],
)
@pytest.mark.parametrize("encoder", ["fcn", "sensors"])
def test_a_place_without_total_acceleration_is_refused_in_words(
    encoder: str, sensors: tuple[str, ...], words: str
) -> None:
    config = configure(f"encoder.name={encoder}", "encoder.align=gravity")
    with pytest.raises(UserError, match=words):
        build_encoder(config.encoder, spec_of(*sensors))


def test_what_has_no_three_axis_sensor_is_refused_in_words() -> None:
    spec = InputSpec(channels=("heart",), units=("1/s",), size=(64,), rate=50.0)
    with pytest.raises(UserError, match=r"encoder.align=heading turns three-axis sensors; .* found none among 1"):
        build_encoder(configure("encoder.align=heading").encoder, spec)
    windows = Windows(
        np.zeros((2, 1, 64), np.float32), np.zeros(2, np.int64), np.array(["a/1", "a/2"]),
        replace(synthetic_windows().meta, spec=spec),
    )  # fmt: skip
    for refused in (lambda: with_turned_copies(windows, 1), lambda: with_turned_recordings(windows, 0)):
        with pytest.raises(UserError, match="only three-axis sensors can be turned"):
            refused()
    with pytest.raises(UserError, match=r"views.reorient=rotate turns three-axis sensors; .* found none among 1"):
        build_model(
            configure("views.reorient=rotate", "tasks.features.enabled=false"),
            windows.meta,
            ChannelStatistics.of(windows),
        )


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_that_finds_the_heading_sees_no_rotation(name: str) -> None:
    sensors = ("total_acc", "gyro")
    config = configure(f"encoder.name={name}", "encoder.align=heading", "encoder.log_input=0.03")
    spec, x = spec_of(*sensors), walk(6, *sensors).float()
    encoder = build_encoder(config.encoder, spec).eval()
    encoder.standardise([0.3] * 6, [0.5, 0.6, 0.7, 1.0, 2.0, 3.0])
    rotated = turned(x, spec, {"": matrix((0.3, -0.5, 0.7, 0.1))})
    with torch.no_grad():
        assert_close(encoder(rotated), encoder(x), rtol=1e-3, atol=1e-3)
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(encoder.aligned(rotated), encoder.aligned(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", HOW)
def test_aligned_windows_are_standardised_by_their_own_root_mean_square(how: str) -> None:
    """The sums are of windows as recorded; each sensor has the size that it has in whatever way it was turned."""
    windows = synthetic_windows()
    config = configure(f"encoder.align={how}")
    statistics = ChannelStatistics.of(windows)
    model = build_model(config, windows.meta, statistics)
    standardised = model.batch(torch.from_numpy(windows.x), {}, make_generator(0)).standardised.double()
    aligned = Align(how, windows.meta.spec)(torch.from_numpy(windows.x)).double()  # type: ignore[arg-type]
    for triad in windows.meta.spec.triads:
        axes = list(triad.channels)
        assert float(standardised[:, axes].square().mean()) == pytest.approx(1, rel=1e-4)
        size = aligned[:, axes].square().mean().sqrt()
        assert_close(standardised[:, axes], aligned[:, axes] / size, rtol=1e-4, atol=1e-4)


def test_nothing_is_turned_and_nothing_drawn_by_default() -> None:
    windows, generator = synthetic_windows(), make_generator(0)
    model, x, before = build(configure(), windows), torch.from_numpy(windows.x), generator.get_state()
    assert torch.equal(model.batch(x, {}, generator).x, x)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(("reorient", "least", "most"), [("rotate", 90, 180), ("tilt", 15, 30)])
def test_each_window_of_a_batch_is_turned_by_one_rotation(reorient: str, least: float, most: float) -> None:
    windows = synthetic_windows()[:64]
    model, x = build(configure(f"views.reorient={reorient}"), windows), torch.from_numpy(windows.x)
    extras = {"features": torch.zeros(64, 2)}
    batch = model.batch(x, extras, make_generator(0))
    assert batch.extras is extras
    assert torch.equal(batch.x, model.batch(x, extras, make_generator(0)).x)
    assert not torch.equal(batch.x, model.batch(x, extras, make_generator(1)).x)
    angles = []
    for before, after in zip(windows.x, batch.x.numpy(), strict=True):
        vectors = [np.hstack(tuple(one.reshape(-1, 3, 64))).T for one in (after, before)]
        found, distance = Rotation.align_vectors(*vectors)
        assert distance < 1e-3
        angles.append(np.degrees(found.magnitude()))
    assert least < np.median(angles) <= max(angles) <= most + 0.1


def test_what_tasks_learn_of_aligned_windows_does_not_tell_how_they_were_worn() -> None:
    config, windows = configure("encoder.align=heading"), synthetic_windows()
    worn_otherwise = with_turned_recordings(windows, 0)
    one, other = prepare_training(config, windows), prepare_training(config, worn_otherwise)
    same = np.abs(one.x.numpy() - other.x.numpy()).max(axis=(1, 2)) < 1e-3  # not where chance decides on the heading
    assert same.mean() > 0.95
    assert_close(torch.from_numpy(one.windows.x), one.x)
    near = (one.extras["features"] - other.extras["features"])[torch.from_numpy(same)].abs() < 0.05
    assert float(near.float().mean()) > 0.95


def test_turned_copies_stand_behind_the_windows_and_are_drawn_with_them() -> None:
    windows = synthetic_windows()[::7]
    count, more = len(windows), with_turned_copies(windows, 2)
    assert len(more) == 3 * count
    assert more.y.tolist() == 3 * windows.y.tolist() and more.person.tolist() == 3 * windows.person.tolist()
    assert np.array_equal(more.x[:count], windows.x)
    assert np.array_equal(with_turned_copies(windows, 2).x, more.x)
    assert with_turned_copies(windows, 0) is windows
    for triad in windows.meta.spec.triads:
        lengths = np.linalg.norm(more.x[:, list(triad.channels)], axis=1).reshape(3, count, -1)
        assert_allclose(lengths, lengths[:1].repeat(3, axis=0), rtol=1e-3, atol=1e-5)
    assert (np.abs(more.x[count:] - np.tile(windows.x, (2, 1, 1))).max(axis=(1, 2)) > 0.01).all()
    for regime in ("1", "all"):
        rows = draw_regime(windows, regime, 3)
        assert draw_regime(more, regime, 3, copies=2).tolist() == [*rows, *(rows + count), *(rows + 2 * count)]


def test_a_turned_recording_is_turned_by_one_rotation() -> None:
    windows = synthetic_windows()
    worn_otherwise, found = with_turned_recordings(windows, 0), []
    for person in windows.people:
        before, after = (
            one.of([person]).x.reshape(-1, len(windows.meta.spec.triads), 3, 64).transpose(2, 0, 1, 3).reshape(3, -1).T
            for one in (windows, worn_otherwise)
        )
        rotation, _ = Rotation.align_vectors(after, before)
        assert_allclose(rotation.apply(before), after, atol=1e-4)
        found.append(rotation)
    assert min((found[0].inv() * other).magnitude() for other in found[1:]) > 0.1
    assert not np.array_equal(with_turned_recordings(windows, 1).x, worn_otherwise.x)
    assert np.array_equal(with_turned_recordings(windows, 0).x, worn_otherwise.x)


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_a_classifier_learns_from_turned_copies_without_a_label_more(protocol: str) -> None:
    """Activities differ by how long the mean acceleration is, which is seen on one axis until a device is turned."""
    spec, n = spec_of("total_acc"), 160
    y = np.arange(n) % 2
    x = np.zeros((n, *spec.shape), np.float32)
    x[:, 0] = (1 + y + 0.05 * np.random.default_rng(0).standard_normal(n))[:, None]
    people = np.array([f"made_up/{number // 2 % 16}" for number in range(n)])
    windows = Windows(x, y, people, Meta("made_up", spec, ("slow", "fast")))
    train, test = windows[: n // 2].of(windows.people[:8]), windows.of(windows.people[8:])
    scores = {}
    for copies in (0, 8):
        fitted_on, turned = with_turned_copies(train, copies), with_turned_recordings(test, 0)
        parts = (
            Part(one, np.square(one.x.mean(axis=2)), of_each) for one, of_each in ((fitted_on, copies), (turned, 0))
        )
        result = evaluate_once(protocol, *parts, None, "2", 0)
        assert result.labels == len(draw_regime(train, "2", 0))
        scores[copies] = result.accuracy
    assert scores[0] < 0.8 < 0.9 < scores[8]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ENCODERS)
def test_exported_encoders_align_as_pytorch_does(name: str, how: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", encoder=f"{{name: {name}, width: 8, align: {how}, log_input: 0.03}}")
    source = prepare(run, ["probe.turned_copies=1"], ["onnx", "torchscript"])
    assert load_encoder(run)[1].architecture.align == how
    runs = [load_onnx(build_onnx(source)[0].content), load_torchscript(build_torchscript(source)[0].content)]
    still = np.zeros_like(source.test.x[:1])
    for x in (source.test.x[:1], source.test.x, with_turned_recordings(source.test, 0).x, still):
        for exported in runs:
            assert_allclose(exported(x), embed(source.encoder, x), rtol=1e-3, atol=1e-3)


def test_a_view_without_total_acceleration_leaves_the_rest_as_it_is() -> None:
    config = configure("encoder.align=gravity")
    encoder = build_encoder(config.encoder, spec_of("total_acc", "gyro")).eval()
    x = walk(2, "total_acc", "gyro").float()
    hidden = torch.zeros(2, 6, encoder.layout.times, dtype=torch.bool)
    hidden[:, :3] = True
    blank = x.clone()
    blank[:, :3] = 0
    with torch.no_grad():
        assert_close(encoder.encode(View(x, mask=hidden)).pooled, encoder(blank))


@pytest.mark.slow
def test_the_benchmark_says_what_turning_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDHAR_RUNS", str(tmp_path / "runs"))
    arguments = ["--config", "configs/demo.yaml", "data.name=synthetic", "encoder.width=4", "--epochs", "1"]
    arguments += ["--draws", "2", "--out", str(tmp_path)]
    orientation.main(arguments)
    assert "training: demo-orientation-gravity-rotate" in capsys.readouterr().out
    heading, _, *rows = (tmp_path / "orientation.md").read_text().splitlines()
    assert heading == "| setting | as recorded, 1 | turned, 1 | as recorded, all | turned, all |"
    assert [row.split("|")[1].strip() for row in rows] == list(orientation.SETTINGS)
    with pytest.raises(UserError, match="--epochs, --draws and --jobs must be at least 1"):
        orientation.main([*arguments, "--draws", "0"])
