"""Tasks that compare two views of a window: losses by loops, what moves after a step, and where no gradient flows."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import Encoded
from shared.model import Model, prepare
from shared.seeding import make_generator
from shared.tasks import Task
from shared.tasks.two_views import TwoViews
from shared.teacher import MovingAverage
from shared.train import Training
from tests.pretext import build, configure, draw, only, plain_batch, synthetic_windows, task_of
from tests.test_losses import sinkhorn_by_loops

pytestmark = pytest.mark.numerics

NAMES = ("contrastive", "simsiam", "byol", "moco", "moco_v3", "swav")
WITH_TEACHER = ("byol", "moco", "moco_v3")
Rows = NDArray[np.float64]


@pytest.fixture
def windows() -> Windows:
    return synthetic_windows()


def embeddings(windows: int, dim: int, seed: int) -> Encoded:
    """Made-up embeddings of two views of so many windows."""
    pooled = torch.randn(2 * windows, dim, generator=make_generator(seed))
    return Encoded(pooled, torch.empty(2 * windows, 8, 0), ())


def encoded_for(task: Task, windows: int, seed: int = 0) -> list[Encoded]:
    """What the student and, where there is one, the teacher made of the views."""
    dim = next(layer for layer in task.modules() if isinstance(layer, nn.BatchNorm1d)).num_features
    return [embeddings(windows, dim, 2 * seed + teacher) for teacher in range(2 if task.teacher else 1)]


def loss_of(task: Task, encoded: list[Encoded]) -> Tensor:
    return task.loss(encoded, None, plain_batch(torch.empty(len(encoded[0].pooled) // 2, 6, 64)))


def halves(z: Tensor) -> tuple[Rows, Rows]:
    rows = z.detach().double().numpy()
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def cosine(a: Rows, b: Rows) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def info_nce_by_loops(queries: Rows, keys: Rows, more: list[Rows], temperature: float) -> float:
    total = 0.0
    for i, query in enumerate(queries):
        scores = [math.exp(cosine(query, key) / temperature) for key in [*keys, *more]]
        total -= math.log(scores[i] / sum(scores))
    return total / len(queries)


def simsiam_by_loops(task: Task, student: Tensor, teacher: Tensor) -> float:
    z = task.head(student)
    (p1, p2), (z1, z2) = halves(task.predictor(z)), halves(z)
    each = [-cosine(p1[i], z2[i]) / 2 - cosine(p2[i], z1[i]) / 2 for i in range(len(p1))]
    return 1 + float(np.mean(each))


def byol_by_loops(task: Task, student: Tensor, teacher: Tensor) -> float:
    (q1, q2), (t1, t2) = halves(task.predictor(task.head(student))), halves(task.slow_head(teacher))
    each = [2 - 2 * cosine(q1[i], t2[i]) + 2 - 2 * cosine(q2[i], t1[i]) for i in range(len(q1))]
    return float(np.mean(each)) / 2


def moco_by_loops(task: Task, student: Tensor, teacher: Tensor) -> float:
    (q1, q2), (k1, k2) = halves(task.head(student)), halves(task.slow_head(teacher))
    more = list(task.queue[: min(int(task.written), len(task.queue))].double().numpy())
    return (info_nce_by_loops(q1, k2, more, 0.2) + info_nce_by_loops(q2, k1, more, 0.2)) / 2


def moco_v3_by_loops(task: Task, student: Tensor, teacher: Tensor) -> float:
    (q1, q2), (k1, k2) = halves(task.predictor(task.head(student))), halves(task.slow_head(teacher))
    return 2 * 0.2 * (info_nce_by_loops(q1, k2, [], 0.2) + info_nce_by_loops(q2, k1, [], 0.2))


def swav_by_loops(task: Task, student: Tensor, teacher: Tensor) -> float:
    prototypes = task.prototypes.detach().double().numpy()
    scores = [np.array([[cosine(z, c) for c in prototypes] for z in view]) for view in halves(task.head(student))]
    total = 0.0
    for own, other in ((scores[0], scores[1]), (scores[1], scores[0])):
        codes = sinkhorn_by_loops(other, 0.05)
        for i, row in enumerate(own):
            shares = np.exp(row / 0.1) / np.exp(row / 0.1).sum()
            total -= float(codes[i] @ np.log(shares)) / len(own)
    return total / 2


BY_LOOPS = {
    "simsiam": simsiam_by_loops,
    "byol": byol_by_loops,
    "moco": moco_by_loops,
    "moco_v3": moco_v3_by_loops,
    "swav": swav_by_loops,
}


@pytest.mark.parametrize("count", [1, 2, 5, 13])
@pytest.mark.parametrize("name", BY_LOOPS)
def test_a_loss_is_what_its_paper_says(name: str, count: int, windows: Windows) -> None:
    task = task_of(only(name), windows, name)
    for step in range(3):
        encoded = encoded_for(task, count, step)
        expected = BY_LOOPS[name](task, encoded[0].pooled, encoded[-1].pooled)
        assert loss_of(task, encoded).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        task.after_step(0.0)


@pytest.mark.parametrize("name", NAMES)
def test_views_are_two_different_ones_of_each_window_and_the_teacher_sees_the_same(name: str, windows: Windows) -> None:
    task = task_of(only(name), windows, name)
    x = torch.from_numpy(windows.x[:10])
    views, _ = task.views(plain_batch(x), make_generator(5))
    first, second = views[0].x.chunk(2)
    assert first.shape == x.shape
    assert (first != second).flatten(1).any(dim=1).all()
    assert [view.teacher for view in views] == ([False, True] if name in WITH_TEACHER else [False])
    assert all(torch.equal(view.x, views[0].x) for view in views)


@pytest.mark.parametrize("name", NAMES)
def test_views_are_made_as_the_configuration_says(name: str, windows: Windows) -> None:
    task = task_of(only(name, "views.transforms=[reverse, negate]"), windows, name)
    x = torch.from_numpy(windows.x[:4])
    assert isinstance(task, TwoViews)
    view = task.views(plain_batch(x), make_generator(0))[0][0].x
    assert torch.equal(view, -torch.cat([x, x]).flip(2))


@pytest.mark.parametrize("name", NAMES)
def test_the_views_may_be_exchanged(name: str, windows: Windows) -> None:
    task = task_of(only(name), windows, name)
    encoded = encoded_for(task, 9)
    exchanged = [e._replace(pooled=e.pooled.roll(9, dims=0)) for e in encoded]
    torch.testing.assert_close(loss_of(task, encoded), loss_of(task, exchanged), rtol=1e-4, atol=1e-5)


class Constant(nn.Module):
    """Stands for what makes predictions, so that a gradient can only flow through what is predicted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.linspace(-1, 2, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.value.expand(len(x), -1) + torch.arange(len(x))[:, None]


@pytest.mark.parametrize(
    ("name", "part"), [("simsiam", "predictor"), ("byol", "predictor"), ("moco_v3", "predictor"), ("moco", "head")]
)
def test_no_gradient_flows_through_what_is_predicted(name: str, part: str, windows: Windows) -> None:
    config = only(name)
    model = build(config, windows)
    task = model.tasks[name]
    setattr(task, part, Constant(config.tasks[name].model_dump()["projection"]))
    drawn = draw(config, windows[:8], model, 1)
    model.losses([drawn], torch.float32).values.sum().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {f"heads.{name}.{part}.value"}


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_after_a_step_teachers_are_weighted_means(name: str, windows: Windows) -> None:
    config = only(name, "teacher.momentum=0.9", "train.batch_size=32")
    data = prepare(config, windows[:32])
    training = Training.federated(config, data, ChannelStatistics.of(windows))
    model, task = training.model, training.model.tasks[name]
    assert isinstance(model.teacher, MovingAverage)
    pairs = [(model.teacher.module, model.encoder), (task.slow_head.module, task.head)]
    before = [[w.clone() for w in teacher.parameters()] for teacher, _ in pairs]
    model.train()
    for step in range(2):
        training.step(torch.arange(32), make_generator(step), 0.0)
        for (teacher, student), old in zip(pairs, before, strict=True):
            for weight, own, past in zip(teacher.parameters(), student.parameters(), old, strict=True):
                torch.testing.assert_close(weight, 0.9 * past + 0.1 * own)
                past.copy_(weight)
            for buffer, own in zip(teacher.buffers(), student.buffers(), strict=True):
                assert torch.equal(buffer, own)
    moved = [not torch.equal(w, s) for t, o in pairs for w, s in zip(t.parameters(), o.parameters(), strict=True)]
    assert any(moved)


@settings(max_examples=25)
@given(size=st.integers(1, 9), counts=st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_a_queue_holds_the_latest_keys_and_only_those(size: int, counts: list[int]) -> None:
    task = task_of(only("moco", f"tasks.moco.queue={size}"), synthetic_windows(), "moco")
    expected: deque[Tensor] = deque(maxlen=size)
    for step, count in enumerate(counts):
        encoded = encoded_for(task, count, step)
        keys = task.slow_head(encoded[1].pooled)
        (q1, q2), (k1, k2) = halves(task.head(encoded[0].pooled)), halves(keys)
        more = [key.double().numpy() for key in expected]
        loss = (info_nce_by_loops(q1, k2, more, 0.2) + info_nce_by_loops(q2, k1, more, 0.2)) / 2
        for _ in range(2):  # a loss that is computed again leaves no second trace
            assert loss_of(task, encoded).item() == pytest.approx(loss, rel=1e-4, abs=1e-5)
        task.after_step(0.0)
        expected.extend(keys / keys.norm(dim=1, keepdim=True))
        oldest = int(task.written) % size if int(task.written) > size else 0
        torch.testing.assert_close(task.queued.roll(-oldest, dims=0), torch.stack(list(expected)))


@pytest.mark.parametrize("keep", [True, False])
def test_a_queue_is_kept_or_emptied_when_a_new_encoder_arrives(keep: bool, windows: Windows) -> None:
    task = task_of(only("moco", "tasks.moco.queue=10", f"tasks.moco.keep_queue={keep}"), windows, "moco")
    for step in range(3):
        loss_of(task, encoded_for(task, 4, step))
        task.after_step(0.0)
    before = task.queued.clone()
    task.after_new_encoder()
    assert torch.equal(task.queued, before if keep else before[:0])
    loss_of(task, encoded_for(task, 1, 3))
    task.after_step(0.0)
    assert len(task.queued) == (10 if keep else 2)


def test_prototypes_that_cannot_be_told_apart_cost_the_logarithm_of_their_number(windows: Windows) -> None:
    task = task_of(only("swav", "tasks.swav.prototypes=7"), windows, "swav")
    with torch.no_grad():
        task.prototypes.copy_(task.prototypes[:1].expand(7, -1).clone())
    assert loss_of(task, encoded_for(task, 5)).item() == pytest.approx(math.log(7), rel=1e-5)
    assert task.chance == pytest.approx(math.log(7))
    torch.testing.assert_close(task.code_shares, torch.full((7,), 1 / 7))


def test_the_length_of_prototypes_does_not_matter(windows: Windows) -> None:
    task = task_of(only("swav"), windows, "swav")
    encoded = encoded_for(task, 5)
    before = loss_of(task, encoded)
    with torch.no_grad():
        task.prototypes.mul_(torch.linspace(0.1, 10, len(task.prototypes))[:, None])
    torch.testing.assert_close(loss_of(task, encoded), before)
    assert float(task.code_shares.sum()) == pytest.approx(1, rel=1e-5)


def same(first: Model, second: Model) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("overrides", [(), ("tasks.moco.queue=300",)], ids=["full", "filling"])
def test_training_that_is_saved_and_restored_goes_on_bit_for_bit(overrides: tuple[str, ...], windows: Windows) -> None:
    tasks = [f"tasks.{name}.enabled={'true' if name in BY_LOOPS else 'false'}" for name in configure().tasks]
    config = configure(*tasks, "train.batch_size=20", "federation.rounds=3", *overrides)
    data = prepare(config, windows.of([windows.people[0]])[:50])

    def start() -> Training:
        return Training.federated(config, data, ChannelStatistics.of(windows))

    whole, before, after = start(), start(), start()
    logs = list(whole.run(range(3)))
    list(before.run(range(1)))
    after.load({name: value.clone() for name, value in before.state().items()})
    rest = list(after.run(range(1, 3)))
    assert [log.losses for log in logs[1:]] == [log.losses for log in rest]
    assert same(whole.model, after.model)
