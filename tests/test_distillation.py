"""Tasks whose targets come from a teacher: against loops, what counts in their losses, and what moves when."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shared.augmentations import compose, crop
from shared.config import Config
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import Encoded, View
from shared.errors import UserError
from shared.losses import koleo, self_distillation
from shared.model import prepare
from shared.seeding import make_generator
from shared.tasks import TASKS, Task
from shared.tasks.distillation import Distillation, PrototypeHead
from shared.tasks.ijepa import LEAST_CONTEXT, IJEPASettings, draw_parts
from shared.teacher import MovingAverage
from shared.train import Training
from tests.pretext import batch_of, build, configure, losses, only, plain_batch, synthetic_windows, task_of
from tests.test_tasks import context_of

pytestmark = pytest.mark.numerics

every_task = pytest.mark.parametrize("name", ["dino", "ibot", "data2vec", "ijepa"])
token_tasks = pytest.mark.parametrize("name", ["ibot", "data2vec", "ijepa"])
prototype_tasks = pytest.mark.parametrize("name", ["dino", "ibot"])
seeds = st.integers(0, 2**31)
quick = settings(max_examples=40, deadline=None)


@pytest.fixture
def windows() -> Windows:
    return synthetic_windows()[:12]


def chosen(name: str, *overrides: str) -> Config:
    return only(name, "encoder.name=transformer", *overrides)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=make_generator(seed), dtype=torch.float64)


def encoded_of(task: Task, views: list[View], windows: Windows, seed: int = 1) -> list[Encoded]:
    """Numbers in place of an encoder's, float32, that require gradients."""
    made = []
    context = build(configure("encoder.name=transformer"), windows).encoder
    for number, view in enumerate(views):
        places = context.layout.tokens if view.keep is None else view.keep.shape[1]
        of = [randn(len(view.x), places, context.width, seed=10 * seed + number + b).float() for b in range(2)]
        pooled = randn(len(view.x), context.dim, seed=seed + number).float()
        leaves = [leaf.requires_grad_() for leaf in (pooled, *of)]
        made.append(Encoded(leaves[0], leaves[2], tuple(leaves[1:])))
    return made


# --- the loss functions -------------------------------------------------------------------------------------------


def self_distillation_by_loops(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    terms = []
    for g, targets in enumerate(teacher):
        for s, scores in enumerate(student):
            if s != g:
                for p, row in zip(targets, scores / temperature, strict=True):
                    q = np.exp(row - row.max())
                    terms.append(-float(p @ np.log(q / q.sum())))
    return sum(terms) / len(terms)


@quick
@given(st.integers(1, 3), st.integers(0, 3), st.integers(1, 6), st.integers(2, 7), st.floats(0.05, 2.0), seeds)
def test_self_distillation_follows_its_equation(
    seen: int, more: int, n: int, k: int, temperature: float, seed: int
) -> None:
    views = max(seen + more, 2)
    student, teacher = randn(views, n, k, seed=seed), randn(seen, n, k, seed=seed + 1).softmax(dim=2)
    expected = self_distillation_by_loops(student.numpy(), teacher.numpy(), temperature)
    assert self_distillation(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-9)


def test_self_distillation_of_a_head_that_knows_nothing_is_the_logarithm_of_its_prototypes() -> None:
    teacher = randn(2, 5, 16).softmax(dim=2)
    assert self_distillation(torch.zeros_like(randn(4, 5, 16)), teacher, 0.1).item() == pytest.approx(
        math.log(16), rel=1e-6
    )


def test_self_distillation_is_raised_from_half_precision_also_under_autocast() -> None:
    student, teacher = randn(3, 5, 8).bfloat16(), randn(2, 5, 8).softmax(dim=2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = self_distillation(student, teacher, 0.1)
    assert found.dtype is torch.float32
    assert torch.equal(found, self_distillation(student.float(), teacher.float(), 0.1))


@pytest.mark.parametrize(
    ("student", "teacher"), [((1, 4, 3), (1, 4, 3)), ((2, 4, 3), (3, 4, 3)), ((2, 4, 3), (2, 5, 3))]
)
def test_views_that_make_no_pairs_are_named(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="views: expected") as caught:
        self_distillation(torch.zeros(student), torch.zeros(teacher), 0.1)
    assert str(student) in str(caught.value)
    assert str(teacher) in str(caught.value)


@quick
@given(st.integers(2, 9), st.integers(1, 6), seeds)
def test_koleo_follows_its_equation(n: int, features: int, seed: int) -> None:
    z = randn(n, features, seed=seed)
    rows = [row / np.linalg.norm(row) for row in z.numpy()]
    near = [min(np.linalg.norm(a - b) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]
    expected = -np.mean([np.log(np.sqrt(d**2 + 1e-6)) for d in near])
    assert koleo(z).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_koleo_stays_finite_where_windows_repeat() -> None:
    z = randn(6, 4).float()
    z = torch.cat([z, z[:3], 1.001 * z[4:5] + 1e-4]).requires_grad_()
    loss = koleo(z)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z.grad).all()
    assert z.grad.abs().max() < 1e3


def test_koleo_of_one_window_is_zero() -> None:
    z = randn(1, 4).requires_grad_()
    loss = koleo(z)
    loss.backward()
    assert loss.item() == 0
    assert not z.grad.any()


def test_koleo_drives_embeddings_apart() -> None:
    z = (1 + 0.1 * randn(12, 5)).requires_grad_()
    before = koleo(z).item()
    for _ in range(50):
        (gradient,) = torch.autograd.grad(koleo(z), z)
        z = (z - 0.1 * gradient).detach().requires_grad_()
    assert koleo(z).item() < before - 0.5


# --- prototypes, centre and temperature ---------------------------------------------------------------------------


def test_prototypes_are_scored_by_their_cosines() -> None:
    head = PrototypeHead(6, configure("tasks.dino.prototypes=7").tasks["dino"])
    x = randn(5, 6).float()
    scores = head(x)
    z, w = head.mlp(x).detach().numpy(), head.prototypes.weight.detach().numpy()
    expected = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in w] for a in z]
    np.testing.assert_allclose(scores.detach().numpy(), expected, atol=1e-5)


def test_targets_are_centred_and_sharpened() -> None:
    part = Distillation(6, configure("tasks.dino.teacher_temperature=[0.1,0.1]").tasks["dino"]).eval()
    part.centre.copy_(0.1 * torch.randn(len(part.centre), generator=make_generator(1)))
    x = randn(5, 6).float()
    scores = part.head(x).detach().double().numpy()  # the teacher begins as the student
    raised = np.exp((scores - part.centre.double().numpy()) / 0.1)
    np.testing.assert_allclose(
        part.targets(x, plain_batch(x)).numpy(), raised / raised.sum(axis=1, keepdims=True), rtol=1e-4
    )


@pytest.mark.parametrize("momentum", [0.9, 0.5, 1.0])
def test_the_centre_moves_after_a_step_only(momentum: float) -> None:
    part = Distillation(6, configure(f"tasks.dino.centre_momentum={momentum}").tasks["dino"]).eval()
    expected = np.zeros(len(part.centre))
    for step in range(3):
        x = randn(5, 6, seed=step).float()
        part.targets(x, plain_batch(x))
        other = randn(5, 6, seed=100 + step).float()
        part.targets(other, plain_batch(other))  # a loss may be called twice for a part; the first time counts
        np.testing.assert_allclose(part.centre.numpy(), expected, atol=1e-6)
        part.after_step(0.0)
        expected = momentum * expected + (1 - momentum) * part.head(x).detach().double().numpy().mean(axis=0)
        np.testing.assert_allclose(part.centre.numpy(), expected, atol=1e-6)
    assert part.centre.any() == (momentum < 1)


def test_the_temperature_rises_over_the_warm_up_and_then_stays() -> None:
    dino = ["tasks.dino.teacher_temperature=[0.02,0.06]", "tasks.dino.temperature_warmup=0.4"]
    part = Distillation(6, configure(*dino).tasks["dino"])
    assert part.temperature.item() == pytest.approx(0.02)
    for progress, expected in ((0.1, 0.03), (0.2, 0.04), (0.4, 0.06), (0.9, 0.06)):
        part.after_step(progress)
        assert part.temperature.item() == pytest.approx(expected)
    at_once = configure("tasks.dino.teacher_temperature=[0.02,0.06]", "tasks.dino.temperature_warmup=0")
    assert Distillation(6, at_once.tasks["dino"]).temperature.item() == pytest.approx(0.06)


@prototype_tasks
def test_a_head_that_knows_nothing_has_the_loss_of_chance(name: str, windows: Windows) -> None:
    config = chosen(name)
    model = build(config, windows)
    task = model.tasks[name]
    with torch.no_grad():
        task.distillation.head.prototypes.weight.copy_(torch.ones_like(task.distillation.head.prototypes.weight))
    assert losses(config, windows, model).values.item() == pytest.approx(task.chance, rel=1e-5)


@prototype_tasks
def test_code_shares_are_mean_probabilities(name: str, windows: Windows) -> None:
    config = chosen(name, f"tasks.{name}.prototypes=32")
    model = build(config, windows)
    losses(config, windows, model)
    shares = model.tasks[name].code_shares
    assert shares.shape == (32,)
    assert shares.sum().item() == pytest.approx(1, rel=1e-5)
    assert not shares.requires_grad


# --- views --------------------------------------------------------------------------------------------------------


@quick
@given(st.floats(0.05, 1.0), st.floats(0.05, 1.0), seeds)
def test_a_crop_shows_as_much_as_it_says(a: float, b: float, seed: int) -> None:
    low, high = sorted((a, b))
    ramp = torch.arange(128.0).expand(20, 3, 128)
    cut = crop(ramp, make_generator(seed), (low, high))
    shown = (cut[..., -1] - cut[..., 0]) / 127
    assert cut.shape == ramp.shape
    assert ((shown >= low - 1e-4) & (shown <= high + 1e-4)).all()
    assert ((cut >= 0) & (cut <= 127)).all()
    assert torch.allclose(cut.diff(dim=2), (shown / 127 * 127)[..., None].expand(-1, -1, 127), atol=1e-3)


def test_the_student_sees_whole_views_and_crops_and_the_teacher_the_whole_ones(windows: Windows) -> None:
    config = configure("tasks.dino.local_crops=3", "tasks.dino.local_share=[0.2,0.3]")
    task = TASKS["dino"](config.tasks["dino"], replace(context_of(windows), transform=compose([])))
    ramp = torch.arange(64.0).expand(5, 6, 64) + 100 * torch.arange(5.0)[:, None, None]
    (student, teacher), _ = task.views(plain_batch(ramp), make_generator(3))
    assert (student.teacher, teacher.teacher) == (False, True)
    assert torch.equal(teacher.x, torch.cat([ramp, ramp]))
    assert torch.equal(student.x[:10], teacher.x)
    crops = student.x[10:].view(3, 5, 6, 64) - 100 * torch.arange(5.0)[:, None, None]
    shown = (crops[..., -1] - crops[..., 0]) / 63
    assert ((shown > 0.19) & (shown < 0.31)).all()
    assert (crops[0] != crops[1]).any()


def test_whole_views_are_augmented_each_by_itself(windows: Windows) -> None:
    task = task_of(chosen("dino"), windows, "dino")
    x = torch.from_numpy(windows.x)
    first, second = task.views(plain_batch(x), make_generator(5))[0][1].x.chunk(2)
    assert (first != second).flatten(1).any(dim=1).all()
    assert (first != x).flatten(1).any(dim=1).all()


@token_tasks
def test_the_teacher_sees_all_of_the_same_windows(name: str, windows: Windows) -> None:
    task = task_of(chosen(name), windows, name)
    x = torch.from_numpy(windows.x)
    (student, teacher), memory = task.views(plain_batch(x), make_generator(3))
    assert (student.teacher, teacher.teacher) == (False, True)
    assert teacher.mask is None
    assert teacher.keep is None
    assert torch.equal(student.x, teacher.x)
    assert torch.equal(student.x, x) == (name != "ibot")
    if name == "ijepa":
        assert torch.equal(student.keep, memory.context)
    else:
        assert torch.equal(student.mask.any(dim=1), memory)
        assert memory.any(dim=1).all()


@quick
@given(
    st.integers(1, 20),
    st.integers(6, 40),
    st.integers(1, 4),
    st.tuples(st.floats(0.01, 0.5), st.floats(0.01, 0.5)),
    seeds,
)
def test_a_context_never_contains_its_targets(
    n: int, positions: int, count: int, shares: tuple[float, float], seed: int
) -> None:
    of = configure().tasks["ijepa"].model_dump()
    ijepa = IJEPASettings(**of | {"context": (0.9, 1.0), "targets": count, "target_share": tuple(sorted(shares))})
    if round(0.9 * positions) < count + LEAST_CONTEXT:
        return
    context, targets = draw_parts(ijepa, n, (positions,), make_generator(seed))
    assert targets.shape == (n, positions)
    assert not targets.gather(1, context).any()
    assert targets.any(dim=1).all()
    assert context.shape[1] >= LEAST_CONTEXT
    assert (context.diff(dim=1) > 0).all()
    assert ((context >= 0) & (context < positions)).all()
    sizes = {len(run) for row in targets for run in "".join("x" if t else " " for t in row.tolist()).split()}
    longest = max(round(max(shares) * positions), 1)
    assert max(sizes) <= count * longest
    if count == 1:
        assert len(sizes) == 1, "one size for all windows"


def test_a_context_stays_in_its_stretch() -> None:
    of = configure().tasks["ijepa"].model_dump()
    ijepa = IJEPASettings(**of | {"context": (0.5, 0.5), "targets": 1, "target_share": (0.1, 0.1)})
    starts = set()
    for seed in range(30):
        context, _ = draw_parts(ijepa, 8, (20,), make_generator(seed))
        assert (context[:, -1] - context[:, 0] < 10).all()
        starts |= set(context[:, 0].tolist())
    assert len(starts) > 5


# --- what counts --------------------------------------------------------------------------------------------------


def data2vec_by_loops(task: Any, encoded: list[Encoded], hidden: np.ndarray) -> float:
    student, teacher = encoded
    told = iter(task.head(student.tokens[torch.from_numpy(hidden)]).detach().numpy())
    errors = []
    for row, place in zip(*hidden.nonzero(), strict=True):
        maps = [block[row, place].detach().double().numpy() for block in teacher.blocks[-task.settings.blocks :]]
        target = np.mean([(m - m.mean()) / np.sqrt(m.var() + 1e-5) for m in maps], axis=0)
        for error in np.abs(next(told) - target):
            beta = task.settings.beta
            errors.append(error**2 / 2 / beta if error < beta else error - beta / 2)
    return float(np.mean(errors))


@pytest.mark.parametrize("blocks", [1, 2, 9])
@pytest.mark.parametrize("kind", ["span", "random", "sensor"])
def test_data2vec_follows_its_equations(blocks: int, kind: str, windows: Windows) -> None:
    config = chosen("data2vec", f"tasks.data2vec.blocks={blocks}", f"tasks.data2vec.mask.kind={kind}")
    task = task_of(config, windows, "data2vec").eval()
    batch = batch_of(config, windows, build(config, windows))
    views, memory = task.views(batch, make_generator(3))
    encoded = encoded_of(task, views, windows)
    expected = data2vec_by_loops(task, encoded, memory.numpy())
    assert task.loss(encoded, memory, batch).item() == pytest.approx(expected, rel=1e-4)


def test_ibot_follows_its_equation(windows: Windows) -> None:
    config = chosen("ibot", "tasks.ibot.prototypes=9", "tasks.ibot.student_temperature=0.2")
    task = task_of(config, windows, "ibot").eval()
    batch = batch_of(config, windows, build(config, windows))
    views, memory = task.views(batch, make_generator(3))
    student, teacher = encoded_of(task, views, windows)
    part, terms = task.distillation, []
    part.centre.copy_(0.1 * torch.randn(9, generator=make_generator(4)))
    for row, place in memory.nonzero().tolist():
        score = part.head(student.tokens[row, place][None])[0].detach().double().numpy() / 0.2
        told = np.exp(score) / np.exp(score).sum()
        raised = np.exp((part.head(teacher.tokens[row, place][None])[0].detach() - part.centre).double().numpy() / 0.04)
        terms.append(-float(raised / raised.sum() @ np.log(told)))
    assert task.loss([student, teacher], memory, batch).item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_ijepa_follows_its_equation(windows: Windows) -> None:
    config = chosen("ijepa")
    task = task_of(config, windows, "ijepa").eval()
    batch = batch_of(config, windows, build(config, windows))
    views, memory = task.views(batch, make_generator(3))
    student, teacher = encoded_of(task, views, windows)
    told = task.predictor(student.tokens, memory.context).detach().numpy()
    errors = []
    for row, place in memory.targets.nonzero().tolist():
        token = teacher.tokens[row, place].detach().double().numpy()
        target = (token - token.mean()) / np.sqrt(token.var() + 1e-5)
        errors += [e**2 / 2 if e < 1 else e - 0.5 for e in np.abs(told[row, place] - target)]
    assert task.loss([student, teacher], memory, batch).item() == pytest.approx(np.mean(errors), rel=1e-4)


def test_dino_is_its_loss_on_heads_and_koleo_on_embeddings(windows: Windows) -> None:
    config = chosen("dino", "tasks.dino.koleo=0.3", "tasks.dino.local_crops=1", "tasks.dino.student_temperature=0.2")
    task = task_of(config, windows, "dino").eval()
    batch = batch_of(config, windows, build(config, windows))
    views, memory = task.views(batch, make_generator(3))
    student, teacher = encoded_of(task, views, windows)
    n, part = len(windows), task.distillation
    targets = (part.head(teacher.pooled) / 0.04).softmax(dim=1).detach().chunk(2)
    scores = part.head(student.pooled).split(n)
    pairs = [F.cross_entropy(scores[s] / 0.2, targets[g]) for g in range(2) for s in range(3) if s != g]
    apart = (koleo(student.pooled[:n]) + koleo(student.pooled[n : 2 * n])) / 2
    expected = (torch.stack(pairs).mean() + 0.3 * apart).item()
    assert task.loss([student, teacher], memory, batch).item() == pytest.approx(expected, rel=1e-4)


def other_places(encoded: Encoded, where: Tensor) -> Encoded:
    """The same, with other numbers at the places (N, L)."""
    tokens, *blocks = (torch.where(where.unsqueeze(2), part.flip(2), part) for part in (encoded[1], *encoded[2]))
    return Encoded(encoded.pooled, tokens, tuple(blocks))


@token_tasks
def test_only_hidden_positions_count(name: str, windows: Windows) -> None:
    config = chosen(name)
    task = task_of(config, windows, name).eval()
    batch = batch_of(config, windows, build(config, windows))
    views, memory = task.views(batch, make_generator(3))
    student, teacher = encoded_of(task, views, windows)
    hidden = memory.targets if name == "ijepa" else memory
    loss = task.loss([student, teacher], memory, batch)
    if name == "ijepa":
        hook = task.predictor.register_forward_hook(lambda m, inputs, told: told + 7 * ~hidden.unsqueeze(2))
        assert torch.equal(task.loss([student, teacher], memory, batch), loss)
        hook.remove()
        hook = task.predictor.register_forward_hook(lambda m, inputs, told: told + 7 * hidden.unsqueeze(2))
        assert not torch.equal(task.loss([student, teacher], memory, batch), loss)
        hook.remove()
    else:
        assert torch.equal(task.loss([other_places(student, ~hidden), teacher], memory, batch), loss)
        assert not torch.equal(task.loss([other_places(student, hidden), teacher], memory, batch), loss)
    assert torch.equal(task.loss([student, other_places(teacher, ~hidden)], memory, batch), loss)
    assert not torch.equal(task.loss([student, other_places(teacher, hidden)], memory, batch), loss)


@every_task
def test_the_teacher_gets_no_gradient(name: str, windows: Windows) -> None:
    config = chosen(name, "tasks.dino.koleo=0.1")
    model = build(config, windows)
    losses(config, windows, model).values.sum().backward()
    copies = [module for module in model.modules() if isinstance(module, MovingAverage)]
    assert len(copies) == (2 if name in ("dino", "ibot") else 1)
    assert all(weight.grad is None for copy in copies for weight in copy.parameters())
    assert all(weight.grad is not None for weight in model.tasks[name].parameters() if weight.requires_grad)


@pytest.mark.parametrize("name", ["data2vec", "ijepa"])
def test_targets_that_do_not_tell_windows_apart_show(name: str, windows: Windows) -> None:
    """Where the teacher's tokens depend on the position alone, what is watched for a collapse is constant."""
    config = chosen(name)
    task = task_of(config, windows, name)
    batch = batch_of(config, windows, build(config, windows))
    views, memory = task.views(batch, make_generator(3))
    student, teacher = encoded_of(task, views, windows)
    alike = Encoded(*(part[:1].expand_as(part) for part in teacher[:2]), tuple(b[:1].expand_as(b) for b in teacher[2]))
    task.loss([student, teacher], memory, batch)
    assert task.projections.shape[0] == len(windows)
    assert task.projections.std(dim=0).mean() > 0.1
    task.loss([student, alike], memory, batch)
    assert task.projections.std(dim=0).max() < 1e-5


# --- as a whole ---------------------------------------------------------------------------------------------------


@every_task
def test_a_run_that_stops_and_goes_on_equals_one_that_does_not(name: str) -> None:
    config = chosen(name, "tasks.dino.koleo=0.1", "train.learning_rate=0.003")
    windows = synthetic_windows()
    windows = windows.of([windows.people[0]])[:48]

    def start() -> Training:
        torch.set_num_threads(1)
        data, statistics = prepare(config, windows), ChannelStatistics.of(windows)
        return Training(config, data, statistics, batch_size=16, total_epochs=4)

    whole, first, second = start(), start(), start()
    list(whole.run(range(4)))
    list(first.run(range(2)))
    saved = {tensor: value.clone() for tensor, value in first.state().items()}
    second.load(saved)
    list(second.run(range(2, 4)))
    found, expected = second.state(), whole.state()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[tensor]) for tensor, value in found.items())
    assert any(not torch.equal(value, expected[tensor]) for tensor, value in saved.items())
    if name in ("dino", "ibot"):
        assert {f"model.heads.{name}.distillation.{part}" for part in ("centre", "temperature")} <= saved.keys()
        assert saved[f"model.heads.{name}.distillation.centre"].any()


def test_ijepa_says_which_encoder_it_needs(windows: Windows) -> None:
    with pytest.raises(UserError, match=r"'ijepa' leaves positions out, which encoder 'fcn' cannot.*transformer"):
        build(only("ijepa", "encoder.name=fcn"), windows)


def test_ijepa_says_that_there_are_too_few_positions(windows: Windows) -> None:
    with pytest.raises(UserError, match=r"12 targets out of 7 of the window's 8 positions, and needs at least 14"):
        build(chosen("ijepa", "tasks.ijepa.targets=12"), windows)


@pytest.mark.parametrize("name", ["ibot", "data2vec"])
def test_whole_sensors_cannot_be_masked_where_there_is_one(name: str, windows: Windows) -> None:
    whole = windows.meta.spec
    spec = whole.model_copy(update={"channels": whole.channels[:3], "units": whole.units[:3]})
    alone = replace(windows, x=windows.x[:, :3], meta=replace(windows.meta, spec=spec))
    with pytest.raises(UserError, match="'sensor' need at least 2 sensors"):
        build(chosen(name, f"tasks.{name}.mask.kind=sensor"), alone)


@pytest.mark.parametrize("shares", ["[0.5,0.2]", "[0,0.5]", "[0.5,1.5]"])
def test_shares_are_in_order_and_between_0_and_1(shares: str) -> None:
    with pytest.raises(UserError, match=r"tasks.dino.local_share"):
        configure(f"tasks.dino.local_share={shares}")
