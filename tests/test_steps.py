"""How losses become gradients: what each step does to whom, against independent computations of its gradients."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.func import functional_call

from shared.config import Config
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.errors import UserError
from shared.model import Model, prepare
from shared.seeding import make_generator, seeded_initialisation
from shared.steps import STEPS, Losses, Pass, StepContext, StepSettings, build_step
from shared.steps.base import TC2Settings
from shared.steps.surgery import CAGRAD_RADIUS, RULES, DualCone, Surgery
from shared.steps.tc2 import TC2
from shared.tasks import Draw
from shared.train import Training, check_trainable
from shared.weighting import WEIGHTINGS, Weighting, WeightingSettings, build_weighting
from simulation.__main__ import simulate
from tests.pretext import configure, only, synthetic_windows

pytestmark = pytest.mark.numerics

VARIANTS = {
    "plain": ["step.name=plain"],
    "tc2": ["step.name=tc2", "step.tc2.min_windows=8"],
    "tc2, second order": ["step.name=tc2", "step.tc2.min_windows=8", "step.tc2.order=second"],
} | {name: [f"step.name={name}"] for name in RULES}


def start(config: Config, windows: Windows, batch_size: int = 32) -> Training:
    torch.set_num_threads(1)
    training = Training(
        config, prepare(config, windows), ChannelStatistics.of(windows), batch_size=batch_size, total_epochs=4
    )
    training.model.train()
    return training


def parts_of(training: Training, seed: int = 1) -> list[Draw]:
    """All windows as one batch, cut as the step wants it."""
    model, data = training.model, training.data
    generator = make_generator(seed)
    batch = model.batch(data.x, data.extras, generator)
    return [model.draw(part, generator) for part in batch.split(model.step.parts(len(data)))]


def backward(training: Training, parts: Sequence[Draw], pull: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Give the model's parameters the gradients of its step."""
    model = training.model
    model.zero_grad()

    def losses_at(parts: Sequence[Draw], **how: Any) -> Losses:
        return model.losses(parts, torch.float32, **how)

    return model.step.backward(Pass(losses_at, parts, model.weighting, model, pull))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def outer(model: Model) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if not name.startswith("step.")}


def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def windows() -> Windows:
    windows = synthetic_windows()
    return windows.of([windows.people[0]])[:40]


# Every step


def test_every_step_is_tested() -> None:
    assert {overrides[0] for overrides in VARIANTS.values()} == {f"step.name={name}" for name in STEPS}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_step_goes_with_any_weighting(variant: str, weighting: str, windows: Windows) -> None:
    config = configure(*VARIANTS[variant], f"weighting.name={weighting}", "federation.aggregation.name=fedprox")
    check_trainable(config, windows)
    training = start(config, windows)
    before = {name: value.clone() for name, value in training.model.named_parameters()}
    logs = list(training.run(range(3), proximal_mu=0.1))
    assert all(np.isfinite(log.loss) for log in logs)
    unmoved = [n for n, value in training.model.named_parameters() if torch.equal(value, before[n])]
    assert not unmoved


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_repeats_itself_and_goes_on_from_a_saved_state(variant: str, windows: Windows) -> None:
    """Whatever the global generator does, which it leaves alone."""
    config = configure(*VARIANTS[variant])
    whole, parts, resumed = (start(config, windows) for _ in range(3))
    torch.manual_seed(1)
    list(whole.run(range(4)))
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    list(parts.run(range(2)))
    assert torch.equal(torch.random.get_rng_state(), state)
    resumed.load({name: value.clone() for name, value in parts.state().items()})
    list(resumed.run(range(2, 4)))
    assert equal(whole.state(), resumed.state())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_is_that_of_the_tasks_and_the_pull(variant: str, windows: Windows) -> None:
    training = start(configure(*VARIANTS[variant]), windows)
    parts = parts_of(training)
    losses, loss = backward(training, parts, torch.tensor(5.0, requires_grad=True) * 1)
    assert losses.shape == (len(training.model.tasks),)
    torch.testing.assert_close(loss, training.model.weighting(losses) + 5)
    assert not loss.requires_grad and not losses.requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pull_adds_its_own_gradient_to_the_encoder(variant: str, windows: Windows) -> None:
    found = []
    for strength in (0.0, 0.5):
        training = start(configure(*VARIANTS[variant]), windows)
        squares = torch.stack([weight.square().sum() for weight in training.model.encoder.parameters()])
        backward(training, parts_of(training), strength * squares.sum())
        found.append(gradients(training.model))
    for name, weight in training.model.encoder.named_parameters():
        pulled = found[1][f"encoder.{name}"] - found[0][f"encoder.{name}"]
        torch.testing.assert_close(pulled, weight.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["tc2", "pcgrad"])
def test_what_a_step_owns_stays_on_the_device(variant: str, tmp_path: Path) -> None:
    config = configure(*VARIANTS[variant], "federation.rounds=2", "federation.min_clients=4")
    simulate(config, tmp_path / "run", "inprocess")
    saved = load_file(tmp_path / "run" / "encoder.safetensors")
    assert saved and not any("step" in name for name in saved)
    crossed = json.loads((tmp_path / "run" / "exchange.json").read_text())["crossed_the_wire"]
    arrays = {row["name"] for row in crossed if row["kind"] == "array"}
    assert arrays and all(name.startswith("encoder.") for name in arrays)
    private = list((tmp_path / "run" / "clients").glob("*/step-000002.safetensors"))
    assert private
    assert all(any(name.startswith("model.step.") for name in load_file(path)) for path in private)


# Task conflict calibration


TC2_SETTINGS = TC2Settings(tasks=4, min_windows=16, factors=3, sparsity=0.3, inner_rate=0.5, order="first")


def tc2(dim: int, **changes: Any) -> TC2:
    torch.manual_seed(3)
    settings = StepSettings(name="tc2", tc2=TC2_SETTINGS.model_copy(update=changes))
    step = build_step(settings, StepContext(dim, 2, True))
    assert isinstance(step, TC2)
    return step


@given(count=st.integers(1, 400), tasks=st.integers(2, 6), least=st.integers(1, 40))
def test_a_batch_is_cut_into_as_many_parts_as_have_enough_windows(count: int, tasks: int, least: int) -> None:
    parts = tc2(4, tasks=tasks, min_windows=least).parts(count)
    assert 1 <= parts <= tasks
    assert (parts == 1) == (count < 2 * least)
    if parts > 1:
        assert min(len(part) for part in torch.arange(count).tensor_split(parts)) >= least
        assert parts == tasks or count < (parts + 1) * least


def test_small_batches_are_trained_plainly_bit_for_bit(windows: Windows) -> None:
    plain, small = (start(configure(f"step.name={name}"), windows, batch_size=20) for name in ("plain", "tc2"))
    for training in (plain, small):
        list(training.run(range(2)))
    assert equal(
        plain.model.state_dict(), {n: v for n, v in small.model.state_dict().items() if not n.startswith("step.")}
    )
    untouched = start(configure("step.name=tc2"), windows)
    assert equal(untouched.model.step.state_dict(), small.model.step.state_dict())


def halves_by_hand(training: Training, parts: Sequence[Draw]) -> tuple[list[Tensor], Model]:
    """The weighted losses of the two halves, and the copy of the model that they were computed with."""
    model = copy.deepcopy(training.model)
    step = model.step
    assert isinstance(step, TC2)
    halves = [parts[: len(parts) // 2], parts[len(parts) // 2 :]]
    values = [model.losses(half, torch.float32, calibrate=step.calibrate).values for half in halves]
    return [half.mean(dim=0).sum() for half in values], model


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("count", [40, 39, 25])
def test_first_stage_gives_encoder_and_heads_the_gradient_of_all_parts(
    windows: Windows, count: int, order: str
) -> None:
    config = configure(*VARIANTS["tc2"], f"step.tc2.order={order}", "weighting.name=equal", "encoder.hidden=6")
    training = start(config, windows[:count])
    parts = parts_of(training)
    assert [len(part.batch.x) for part in parts] == {
        40: [10, 10, 10, 10], 39: [10, 10, 10, 9], 25: [9, 8, 8]
    }[count]  # fmt: skip
    (support, query), model = halves_by_hand(training, parts)
    share = len(parts) // 2 / len(parts)
    (share * support + (1 - share) * query).backward()
    losses, _ = backward(training, parts)
    torch.testing.assert_close(losses.sum(), share * support.detach() + (1 - share) * query.detach())
    for name, parameter in outer(training.model).items():
        torch.testing.assert_close(parameter.grad, outer(model)[name].grad, rtol=1e-4, atol=1e-6)
    # The second stage has moved no running statistics.
    assert equal(dict(training.model.named_buffers()), dict(model.named_buffers()))


def test_without_calibration_the_first_stage_is_that_of_the_bare_losses(windows: Windows) -> None:
    """Of the same two halves, seen by the heads as they are."""
    training = start(configure(*VARIANTS["tc2"], "weighting.name=equal"), windows)
    parts = parts_of(training)
    with torch.no_grad():
        training.model.step.strength.zero_()
    bare = copy.deepcopy(training.model)
    support = bare.losses(parts[:2], torch.float32).values.mean(dim=0).sum()
    query = bare.losses(parts[2:], torch.float32).values.mean(dim=0).sum()
    first = torch.autograd.grad(support, list(outer(bare).values()))
    second = torch.autograd.grad(query / 2, list(outer(bare).values()))
    backward(training, parts)
    for parameter, a, b in zip(outer(training.model).values(), first, second, strict=True):
        assert torch.equal(parameter.grad, b + a / 2)


def test_second_stage_gives_the_calibration_the_gradient_at_the_weights_of_the_first_half(windows: Windows) -> None:
    config = configure(*VARIANTS["tc2"], "weighting.name=equal", "step.tc2.inner_rate=0.3")
    training = start(config, windows)
    parts = parts_of(training)
    (support, _), model = halves_by_hand(training, parts)
    moved = outer(model)
    directions = torch.autograd.grad(support, list(moved.values()))
    with torch.no_grad():
        for weight, direction in zip(moved.values(), directions, strict=True):
            weight -= 0.3 * direction
    seen: list[Tensor] = []
    step = model.step

    def calibrate(embeddings: Tensor) -> Tensor:
        seen.append(embeddings.detach())
        return step.calibrate(embeddings)

    judged = model.losses(parts[2:], torch.float32, calibrate=calibrate).values.mean(dim=0).sum()
    (judged + step.own_loss(torch.cat(seen))).backward()
    backward(training, parts)
    expected, found = gradients(step), gradients(training.model.step)
    assert expected.keys() == found.keys() == dict(step.named_parameters()).keys()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_stages_do_not_reach_into_each_other(windows: Windows) -> None:
    """What the second stage minimises moves nothing but the calibration, and the query half is all that it sees."""
    found = []
    for sparsity in (0.0, 5.0):
        training = start(configure(*VARIANTS["tc2"], f"step.tc2.sparsity={sparsity}"), windows)
        backward(training, parts_of(training))
        found.append(gradients(training.model))
    for name in outer(training.model):
        assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0]["step.factors"], found[1]["step.factors"])


class Toy(nn.Module):
    """An encoder, two heads and a step, in double precision."""

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 5)
        self.heads = nn.ModuleDict({name: nn.Linear(5, 2) for name in "ab"})
        self.step = step
        self.double()

    def forward(self, parts: Sequence[Tensor], calibrate: Callable[[Tensor], Tensor] | None) -> Losses:
        embeddings = torch.tanh(self.encoder(torch.cat(list(parts))))
        seen = embeddings if calibrate is None else calibrate(embeddings)
        split = seen.split([len(part) for part in parts])
        of_tasks = [
            torch.stack([(head(e) - part[:, :2] * sign).square().mean() for e, part in zip(split, parts, strict=True)])
            for head, sign in zip(self.heads.values(), (1, -1), strict=True)
        ]
        return Losses(tuple(of_tasks), (seen,), ())

    def losses_at(
        self,
        parts: Sequence[Tensor],
        *,
        weights: Mapping[str, Tensor] | None = None,
        calibrate: Callable[[Tensor], Tensor] | None = None,
    ) -> Losses:
        return functional_call(self, dict(weights or {}), (parts, calibrate))


def equal_weighting() -> Weighting:
    return build_weighting(WeightingSettings(name="equal", dwa_temperature=2.0), {"a": 1.0, "b": 1.0}).double()


@pytest.mark.parametrize("order", ["first", "second"])
def test_gradient_of_the_calibration_against_differences(order: str) -> None:
    """The second order also sees the calibration's part in the virtual step, the first order does not."""
    step = tc2(5, order=order)
    toy = Toy(step)
    parts = [torch.randn(6, 3, dtype=torch.float64, generator=make_generator(n)) for n in range(4)]
    weighting = equal_weighting()
    rate = TC2_SETTINGS.inner_rate

    def moved() -> dict[str, Tensor]:
        """The weights after a step on the first half, with the calibration of now."""
        names = {n: p for n, p in toy.named_parameters() if not n.startswith("step.")}
        loss = toy(parts[:2], step.calibrate).values.mean(dim=0).sum()
        steepest = torch.autograd.grad(loss, list(names.values()))
        return {n: (p - rate * g).detach() for (n, p), g in zip(names.items(), steepest, strict=True)}

    fixed = moved()

    def judged() -> float:
        weights = moved() if order == "second" else fixed
        with torch.no_grad():
            losses = toy.losses_at(parts[2:], weights=weights, calibrate=step.calibrate).values.mean(dim=0).sum()
            # L_tc2 is of embeddings that are data to it: those at the weights of the unchanged calibration.
            encoded = torch.tanh(torch.cat(parts[2:]) @ fixed["encoder.weight"].T + fixed["encoder.bias"])
            return float(losses + step.own_loss(encoded))

    step.backward(Pass(toy.losses_at, parts, weighting, toy, None))
    for parameter in step.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for index in range(0, len(flat), max(1, len(flat) // 12)):
            value, tiny = float(flat[index]), 1e-5
            flat[index] = value + tiny
            above = judged()
            flat[index] = value - tiny
            below = judged()
            flat[index] = value
            assert float(gradient[index]) == pytest.approx((above - below) / (2 * tiny), rel=1e-4, abs=1e-7)


def test_the_orders_differ() -> None:
    found = []
    for order in ("first", "second"):
        step = tc2(5, order=order)
        toy = Toy(step)
        found.append(step)
        torch.manual_seed(4)
        for parameter in [*toy.encoder.parameters(), *toy.heads.parameters()]:
            nn.init.normal_(parameter)
        parts = [torch.randn(6, 3, dtype=torch.float64, generator=make_generator(n)) for n in range(4)]
        step.backward(Pass(toy.losses_at, parts, equal_weighting(), toy, None))
    assert float((found[0].factors.grad - found[1].factors.grad).norm()) > 0.01 * float(found[0].factors.grad.norm())


def test_own_loss_is_orthogonality_reconstruction_and_sparsity() -> None:
    step = tc2(4)
    embeddings = 7 * torch.randn(9, 4, generator=make_generator(1)) + 2
    factors = step.factors.detach().numpy()
    factors = factors / np.sqrt((factors**2).sum(axis=1, keepdims=True))
    z = embeddings.numpy()
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    first, _, second = step.weigh
    hidden = np.maximum(z @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    weights = (hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy()) @ factors.T
    orthogonality = np.mean([(factors[i] @ factors[j]) ** 2 for i in range(3) for j in range(3) if i != j])
    reconstruction = np.mean((z - weights @ factors) ** 2)
    expected = orthogonality + reconstruction + 0.3 * np.mean(np.abs(weights))
    assert float(step.own_loss(embeddings).detach()) == pytest.approx(expected, rel=1e-4)
    spread = embeddings.numpy().std(axis=0)
    expected_seen = embeddings.numpy() + 0.1 * spread * (weights @ factors)
    np.testing.assert_allclose(step.calibrate(embeddings).detach().numpy(), expected_seen, rtol=1e-3, atol=1e-3)


def test_factors_become_orthogonal_and_reconstruct() -> None:
    """Embeddings of four dimensions in a space of ten, from factors that begin nearly alike."""
    step = tc2(10, factors=4, sparsity=0.001)
    generator = make_generator(5)
    embeddings = torch.randn(200, 4, generator=generator) @ torch.randn(4, 10, generator=generator)
    with torch.no_grad():
        step.factors.copy_(1 + 0.1 * torch.randn(4, 10, generator=generator))
    first = float(step.own_loss(embeddings).detach())
    optimizer = torch.optim.Adam(step.parameters(), lr=0.01)
    for _ in range(600):
        optimizer.zero_grad()
        step.own_loss(embeddings).backward()
        optimizer.step()
    factors = nn.functional.normalize(step.factors.detach(), dim=1)
    assert float((factors @ factors.T - torch.eye(4)).abs().max()) < 0.2
    assert float(step.own_loss(embeddings).detach()) < first / 5


def test_calibration_does_not_mind_the_size_of_what_is_pooled() -> None:
    step = tc2(6)
    embeddings = torch.randn(40, 6, generator=make_generator(1))
    size = torch.tensor([1e-1, 1.0, 1e1, 1e2, 1e3, 1e4])
    torch.testing.assert_close(
        step.calibrate(size * embeddings) / size, step.calibrate(embeddings), rtol=1e-2, atol=1e-2
    )


# Gradient surgery

matrices = st.tuples(st.integers(2, 5), st.integers(0, 10**6)).map(
    lambda of: torch.randn(of[0], 7, dtype=torch.float64, generator=make_generator(of[1]))
)


@given(jacobian=matrices)
def test_dual_cone_gives_the_nearest_direction_in_which_no_loss_rises(jacobian: Tensor) -> None:
    count = len(jacobian)
    gramian = jacobian @ jacobian.T
    for u, v in zip(torch.eye(count, dtype=torch.float64), DualCone()(torch.eye(count).double(), gramian), strict=True):
        assert (jacobian @ (v @ jacobian) >= -1e-3 * gramian.diagonal()).all()
        reference = minimize(
            lambda v: (v @ gramian.numpy() @ v, 2 * gramian.numpy() @ v),
            np.ones(count),
            jac=True,
            bounds=[(float(low), None) for low in u],
        ).x
        torch.testing.assert_close(v @ jacobian, torch.as_tensor(reference) @ jacobian, rtol=1e-2, atol=1e-2)


@given(jacobian=matrices)
def test_cagrad_lowers_the_slowest_loss_fastest_within_its_ball(jacobian: Tensor) -> None:
    """No direction within the ball around the mean gradient is better, among many that are drawn."""
    gramian = jacobian @ jacobian.T
    mean = jacobian.mean(dim=0)
    found = RULES["cagrad"]()(gramian) @ jacobian / len(jacobian)
    radius = CAGRAD_RADIUS * float(mean.norm())
    assert float((found - mean).norm()) <= radius * 1.001
    around = torch.randn(4000, 7, dtype=torch.float64, generator=make_generator(0))
    others = mean + radius * nn.functional.normalize(around, dim=1)
    slowest = (others @ jacobian.T).amin(dim=1)
    assert float((jacobian @ found).min()) >= float(slowest.max()) - 1e-3 * float(gramian.diagonal().max())


def test_two_conflicting_gradients_by_hand() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 1.0])
    gramian = torch.stack([a, b]) @ torch.stack([a, b]).T
    without = a - (a @ b) / (b @ b) * b + b - (a @ b) / (a @ a) * a  # each without what it does to the other
    nearest = torch.tensor([0.2, 0.6])  # of the origin, on the line through both
    for name, expected in {"pcgrad": without, "upgrad": without, "mgda": 2 * nearest}.items():
        found = RULES[name]()(gramian) @ torch.stack([a, b])
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["upgrad", "pcgrad"])
@pytest.mark.parametrize("gramian", [[[1.0, 0.0], [0.0, 9.0]], [[1.0, 2.0], [2.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_gradients_without_conflict_are_added(name: str, gramian: list[list[float]]) -> None:
    torch.testing.assert_close(RULES[name]()(torch.tensor(gramian)), torch.ones(2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_gradients_that_vanish_give_no_trouble(name: str) -> None:
    for gramian in (torch.zeros(3, 3), torch.diag(torch.tensor([0.0, 1e-20, 1.0])), torch.full((3, 3), 1e6)):
        assert torch.isfinite(RULES[name]()(gramian)).all()


@pytest.mark.parametrize("encoder", ["fcn", "transformer"])
@pytest.mark.parametrize("name", RULES)
def test_surgery_on_real_losses(name: str, encoder: str, windows: Windows) -> None:
    """Encoder: by the rule, from the gradients of the weighted losses. Heads: as in a plain step."""
    config = configure(f"step.name={name}", f"encoder.name={encoder}", "encoder.hidden=6", "weighting.name=fixed")
    training = start(config, windows)
    parts = parts_of(training)
    model = copy.deepcopy(training.model)
    losses = model.losses(parts, torch.float32).values[0]
    weighted = model.weighting.weights() * losses
    shared = [p for n, p in model.named_parameters() if not n.startswith("heads.")]
    jacobian = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(v, shared, retain_graph=True, materialize_grads=True)])
            for v in weighted
        ]
    )
    weighted.sum().backward()
    with seeded_initialisation("surgery", int(model.step.draws)):
        expected = RULES[name]()(jacobian @ jacobian.T) @ jacobian
    assert float((expected - jacobian.sum(dim=0)).norm()) > 0.01 * float(expected.norm()), "the tasks do not conflict"
    backward(training, parts)
    for head, plain in zip(training.model.heads.parameters(), model.heads.parameters(), strict=True):
        torch.testing.assert_close(head.grad, plain.grad, rtol=1e-4, atol=1e-6)
    found = torch.cat([p.grad.flatten() for n, p in training.model.named_parameters() if not n.startswith("heads.")])
    assert float((found - expected).norm()) < 1e-3 * float(expected.norm())


@pytest.mark.parametrize("name", RULES)
def test_surgery_on_one_task_is_refused(name: str, windows: Windows) -> None:
    with pytest.raises(UserError, match=rf"step '{name}' settles conflicts between tasks, and there is one"):
        start(only("contrastive", f"step.name={name}"), windows)


def test_a_hidden_layer_that_no_task_trains_is_refused_before_a_run(windows: Windows) -> None:
    config = only("mae", "encoder.name=transformer", "encoder.hidden=8")
    with pytest.raises(UserError, match=r"would not train the hidden layer: set encoder\.hidden=null"):
        check_trainable(config, windows)


@pytest.mark.parametrize("task", ["mae", "codes", "ijepa"])
def test_tc2_is_refused_where_nothing_looks_at_what_it_calibrates(task: str, windows: Windows) -> None:
    with pytest.raises(UserError, match="'tc2' calibrates what is pooled, and the tasks look at tokens alone"):
        start(only(task, "step.name=tc2", "encoder.name=transformer"), windows)


def test_pcgrad_draws_another_order_in_each_step(windows: Windows) -> None:
    """And another seed another one."""
    steps = [start(configure("step.name=pcgrad", f"seed={seed}"), windows).model.step for seed in (0, 0, 1)]
    assert all(isinstance(step, Surgery) for step in steps)
    assert torch.equal(steps[0].draws, steps[1].draws) and not torch.equal(steps[0].draws, steps[2].draws)
    training = start(configure("step.name=pcgrad"), windows)
    numbers = []
    for _ in range(3):
        numbers.append(int(training.model.step.draws))
        backward(training, parts_of(training))
    assert all(b == a + 1 for a, b in pairwise(numbers))
