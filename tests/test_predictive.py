"""Tasks that predict, order, turn and compare sensors: their losses, what encoders cannot see, and their labels."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import DotProductSimilarity
from pytorch_metric_learning.losses import NTXentLoss
from torch import Generator, Tensor

from shared.config import DEFAULTS, load_config
from shared.data.spec import InputSpec
from shared.data.windows import Windows
from shared.encoders import ENCODERS
from shared.errors import UserError
from shared.losses import clip, info_nce
from shared.model import Model
from shared.tasks import Batch, Task
from shared.tasks.rotation import cube_rotations
from tests.pretext import batch_of, build, only, plain_batch, synthetic_windows, task_of

pytestmark = pytest.mark.numerics

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 7), seeds)
KINDS = ("total_acc", "body_acc", "gyro")


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def two(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, *shape, generator=generator(seed), dtype=torch.float64)
    return a, a + b


def recordings(*channels: str, samples: int = 64, n: int = 6) -> Windows:
    """Made-up windows of these channels; three-axis sensors are three of them."""
    names = tuple(
        name for channel in channels
        for name in ([f"{channel}_{axis}" for axis in "xyz"] if channel.endswith(KINDS) else [channel])
    )  # fmt: skip
    x = torch.randn(n, len(names), samples, generator=generator(n)).numpy()
    spec = InputSpec(channels=names, units=("g",) * len(names), size=(samples,), rate=50.0)
    meta = replace(synthetic_windows().meta, spec=spec)
    return Windows(x, np.zeros(n, dtype=np.int64), np.array(["1"] * n), meta)


def views_of(task: Task, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """What a task of classes makes of windows, and the labels."""
    (view,), labels = task.views(plain_batch(x), generator(seed))
    return view.x, labels


def info_nce_by_loops(queries: np.ndarray, keys: np.ndarray) -> float:
    total = 0.0
    for i, query in enumerate(queries):
        scores = [np.exp(query @ key) for key in keys]
        total -= np.log(scores[i] / sum(scores)) / len(queries)
    return total


def found_by(reference: NTXentLoss, queries: Tensor, keys: Tensor) -> Tensor:
    labels = torch.arange(len(queries))
    # Given the same object twice, the library would take queries for their own keys, and leave them out.
    loss: Tensor = reference(queries, labels, ref_emb=keys, ref_labels=labels.clone())
    return loss


@quick
@given(sizes)
def test_info_nce_follows_its_equation(size: tuple[int, int, int]) -> None:
    queries, keys = two(size[:2], size[2])
    expected = info_nce_by_loops(queries.numpy(), keys.numpy())
    assert info_nce(queries, keys).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@quick
@given(sizes.filter(lambda size: size[0] > 1))
def test_info_nce_equals_metric_learning(size: tuple[int, int, int]) -> None:
    queries, keys = two(size[:2], size[2])
    reference = NTXentLoss(temperature=1.0, distance=DotProductSimilarity(normalize_embeddings=False))
    expected = found_by(reference, queries, keys)
    torch.testing.assert_close(info_nce(queries, keys), expected)


@quick
@given(sizes.filter(lambda size: size[0] > 1), st.floats(0.01, 100))
def test_clip_equals_metric_learning_in_both_directions(size: tuple[int, int, int], scale: float) -> None:
    a, b = two(size[:2], size[2])
    reference = NTXentLoss(temperature=1 / scale)
    expected = (found_by(reference, a, b) + found_by(reference, b, a)) / 2
    torch.testing.assert_close(clip(a, b, scale), expected)


def test_info_nce_of_several_batches_is_their_mean() -> None:
    queries, keys = two((3, 5, 4), 1)
    expected = sum(info_nce(q, k) for q, k in zip(queries, keys, strict=True)) / 3
    torch.testing.assert_close(info_nce(queries, keys), expected)


def test_the_losses_of_one_window_are_zero_and_half_precision_is_raised() -> None:
    one, other = (z.bfloat16().requires_grad_() for z in two((1, 4), 2))
    for loss in (info_nce(one, other), clip(one, other, 14.0)):
        assert loss.dtype == torch.float32 and loss.item() == 0
        loss.backward()
        assert one.grad is not None and torch.isfinite(one.grad).all()


def test_info_nce_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"found \(2, 3\) and \(2, 4\)"):
        info_nce(torch.zeros(2, 3), torch.zeros(2, 4))


def past_and_future(model: Model, batch: Batch, seed: int) -> tuple[Tensor, Tensor, int]:
    """The contexts, the tokens that are predicted, and the sample at which the future begins."""
    (view,), begin = model.tasks["cpc"].views(batch, generator(seed))
    encoded, n, steps = model.encoder.encode(view, model.blank), len(batch.x), model.tasks["cpc"].steps
    return encoded.pooled[:n], encoded.tokens[n:, begin : begin + steps], begin * model.encoder.layout.stride


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_cpc_cannot_look_ahead_nor_back(encoder: str, norm: str) -> None:
    """Normalised by group even while it trains: each window is then encoded by itself."""
    windows = synthetic_windows()[:8]
    config = only("cpc", f"encoder.name={encoder}", f"encoder.norm={norm}", "encoder.log_input=0.1", "encoder.hidden=8")
    model = build(config, windows).train(norm == "group")
    batch, begins = batch_of(config, windows, model), set()
    for seed in range(12):
        context, targets, begin = past_and_future(model, batch, seed)
        begins.add(begin)
        noise = torch.randn(batch.x.shape, generator=generator(seed))
        ahead, behind = batch.x.clone(), batch.x.clone()
        ahead[:, :, begin:] += noise[:, :, begin:]
        behind[:, :, :begin] += noise[:, :, :begin]
        context_of_ahead, targets_ahead, _ = past_and_future(model, batch._replace(x=ahead), seed)
        context_of_behind, targets_behind, _ = past_and_future(model, batch._replace(x=behind), seed)
        assert torch.equal(context_of_ahead, context) and not torch.allclose(targets_ahead, targets)
        assert torch.equal(targets_behind, targets) and not torch.allclose(context_of_behind, context)
    assert len(begins) > 1


def test_cpc_finds_the_tokens_of_its_own_window_step_by_step() -> None:
    windows = synthetic_windows()[:7]
    config = only("cpc", "tasks.cpc.steps=3")
    model = build(config, windows)
    task, batch = model.tasks["cpc"], batch_of(config, windows, model)
    (view,), begin = task.views(batch, generator(4))
    encoded, n = model.encoder.encode(view), 7
    context, expected = task.head[0](encoded.pooled[:n]), 0.0
    for step in range(3):
        rows = slice(step * task.width, (step + 1) * task.width)
        predicted = context @ task.head[1].weight[rows].T + task.head[1].bias[rows]
        keys = encoded.tokens[n:, begin + step]
        expected += info_nce_by_loops((predicted / math.sqrt(task.width)).detach().numpy(), keys.detach().numpy()) / 3
    assert task.loss([encoded], begin, batch).item() == pytest.approx(expected, rel=1e-4)


def test_cpc_refuses_to_predict_more_than_there_is() -> None:
    with pytest.raises(UserError, match=r"tasks\.cpc\.steps: expected less than the 8 positions.*'fcn'.*found 8"):
        task_of(only("cpc", "tasks.cpc.steps=8"), synthetic_windows(), "cpc")


@given(st.integers(2, 5), st.integers(20, 70), st.integers(0, 3), st.integers(1, 30), seeds)
def test_the_order_of_a_window_is_what_its_label_says(segments: int, samples: int, gap: int, n: int, seed: int) -> None:
    """Undone by the label, all that is shown stands where it was; what is hidden is so at the same places in all."""
    windows = recordings("total_acc", samples=samples)
    config = only("order", f"tasks.order.segments={segments}", f"tasks.order.gap={gap}")
    task, length = task_of(config, windows, "order"), samples // segments
    x = torch.randn(n, 3, samples, generator=generator(seed))
    before = x.clone()
    shuffled, labels = views_of(task, x, seed)
    shown = [piece * length + i for piece in range(segments) for i in range(length - gap)]
    hidden = sorted(set(range(samples)) - set(shown))
    assert torch.equal(x, before)
    for row, label in enumerate(labels):
        restored = torch.empty(3, segments, length)
        for place, piece in enumerate(task.orders[label].tolist()):
            restored[:, piece] = shuffled[row, :, place * length : (place + 1) * length]
        assert torch.equal(restored.flatten(1)[:, shown], x[row, :, shown])
        mean = shuffled[row, :, shown].mean(dim=1, keepdim=True)
        torch.testing.assert_close(shuffled[row, :, hidden], mean.expand(3, len(hidden)))
    assert len({tuple(order) for order in task.orders.tolist()}) == math.factorial(segments) == task.classes
    counts = torch.bincount(labels, minlength=task.classes)
    assert int(counts.max() - counts.min()) <= 1


@pytest.mark.parametrize("gap", [0, 6])
def test_jumps_at_seams_tell_the_order_of_noise_unless_there_is_a_gap(gap: int) -> None:
    """Filtered noise, new in each step, has no order: whoever tells it looks at the seams."""
    windows = synthetic_windows()
    model = build(only("order", "tasks.order.segments=2", f"tasks.order.gap={gap}"), windows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    noise, history = generator(5), []
    for step in range(260):
        smooth = torch.nn.functional.avg_pool1d(torch.randn(128, 6, 69, generator=noise), 6, 1) * math.sqrt(6)
        loss = model.losses([model.draw(plain_batch(smooth), generator(step))], torch.float32).values.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    last = sum(history[-20:]) / 20
    assert last < 0.6 if gap == 0 else last > 0.67, last


def test_order_refuses_gaps_as_long_as_the_pieces() -> None:
    with pytest.raises(UserError, match=r"tasks\.order\.gap: expected less than the 21 samples.*found 21"):
        task_of(only("order", "tasks.order.gap=21"), synthetic_windows(), "order")


def test_the_rotations_of_a_cube_are_24_and_a_group() -> None:
    rotations = cube_rotations()
    assert rotations.shape == (24, 3, 3) and torch.equal(rotations[0], torch.eye(3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(24))
    assert torch.equal(rotations @ rotations.mT, torch.eye(3).expand(24, 3, 3))
    as_text = {str(matrix.int().tolist()) for matrix in rotations}
    assert len(as_text) == 24
    products = (rotations[:, None] @ rotations[None]).flatten(0, 1)
    assert {str(matrix.int().tolist()) for matrix in products} == as_text


@given(st.integers(1, 60), seeds)
def test_a_rotation_keeps_norms_and_angles_and_its_label_undoes_it(n: int, seed: int) -> None:
    windows = recordings("total_acc", "pressure", "wrist_gyro", "gyro")
    task = task_of(only("rotation"), windows, "rotation")
    x = torch.randn(n, 10, 64, generator=generator(seed))
    turned, labels = views_of(task, x, seed)
    assert torch.equal(turned[:, 3], x[:, 3])
    sensors, before = ([z[:, 0:3], z[:, 4:7], z[:, 7:10]] for z in (turned, x))
    for sensor, was in zip(sensors, before, strict=True):
        torch.testing.assert_close(sensor.norm(dim=1), was.norm(dim=1))
        # A matrix with one entry in each row and column only moves values and flips signs: nothing is rounded.
        assert torch.equal(cube_rotations()[labels].mT @ sensor, was)
    for (a, b), (c, d) in zip(combinations(sensors, 2), combinations(before, 2), strict=True):
        torch.testing.assert_close((a * b).sum(dim=1), (c * d).sum(dim=1), atol=1e-5, rtol=1e-5)
    counts = torch.bincount(labels, minlength=24)
    assert int(counts.max() - counts.min()) <= 1


def test_rotation_refuses_what_has_no_axes() -> None:
    with pytest.raises(UserError, match=r"'rotation' turns three-axis sensors.*found none of these among 2"):
        task_of(only("rotation"), recordings("pressure", "light"), "rotation")


@pytest.mark.parametrize("encoder", ["fcn", "transformer"])
@quick
@given(seed=seeds)
def test_crossmodal_views_have_nothing_of_the_other_sensor(encoder: str, seed: int) -> None:
    windows = recordings("total_acc", "pressure", "gyro", "body_acc")
    model = build(only("crossmodal", f"encoder.name={encoder}", "encoder.log_input=0.1"), windows).eval()
    x = torch.from_numpy(windows.x)
    noise = torch.randn(x.shape, generator=generator(seed))

    def encode(changed: list[int]) -> tuple[Tensor, Tensor]:
        other = x.clone()
        other[:, changed] += noise[:, changed]
        (view,), _ = model.tasks["crossmodal"].views(plain_batch(other), generator(seed))
        accelerations, rotations = model.encoder.encode(view, model.blank).pooled.chunk(2)
        return accelerations, rotations

    accelerations, rotations = encode([])
    for changed, same in (([3], (True, True)), ([4, 5, 6], (True, False)), ([0, 7, 8, 9], (False, True))):
        found = encode(changed)
        assert torch.equal(found[0], accelerations) is same[0]
        assert torch.equal(found[1], rotations) is same[1]


def test_crossmodal_scale_begins_as_in_clip_and_stops_at_a_hundred() -> None:
    windows = recordings("total_acc", "gyro")
    config = only("crossmodal")
    model = build(config, windows)
    task = model.tasks["crossmodal"]
    batch = batch_of(config, windows, model)
    encoded = [model.encoder.encode(view) for view in task.views(batch, generator(1))[0]]
    first, second = task.acceleration(encoded[0].pooled[:6]), task.rotation(encoded[0].pooled[6:])
    reference = NTXentLoss(temperature=0.07)
    expected = (found_by(reference, first, second) + found_by(reference, second, first)) / 2
    torch.testing.assert_close(task.loss(encoded, None, batch), expected, rtol=1e-4, atol=1e-4)
    for value, kept in ((1.0, 1.0), (4.6, 4.6), (9.0, math.log(100))):
        task.log_scale.data.fill_(value)
        model.after_step(0.5)
        assert task.log_scale.item() == pytest.approx(kept)


@pytest.mark.parametrize(
    ("sensors", "found"),
    [
        (["total_acc", "body_acc"], "found total_acc, body_acc"),
        (["gyro", "pressure"], "found gyro"),
        (["pressure"], "no three"),
    ],
)
def test_crossmodal_refuses_what_lacks_one_of_both(sensors: list[str], found: str) -> None:
    with pytest.raises(UserError, match=rf"'crossmodal' compares accelerometers with gyroscopes.*{found}"):
        task_of(only("crossmodal"), recordings(*sensors), "crossmodal")


def test_the_arrow_of_time_is_a_transformation() -> None:
    windows = synthetic_windows()
    task = task_of(load_config(DEFAULTS, ["data.name=synthetic"], method="arrow"), windows, "transformation")
    x = torch.from_numpy(windows.x[:9])
    seen, labels = views_of(task, x, 3)
    assert set(labels.tolist()) == {0, 1}
    assert torch.equal(seen, torch.where(labels[:, None, None] == 1, x.flip(2), x))
