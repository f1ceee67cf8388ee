"""The losses against pytorch-metric-learning, against loops over their equations, and their invariances."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import NTXentLoss, VICRegLoss
from torch import Tensor

from shared.losses import (
    barlow_twins,
    cosine_distance,
    cosine_info_nce,
    info_max,
    masked_mse,
    nt_xent,
    scaled_cosine_error,
    sinkhorn,
    swapped_prediction,
    vicreg,
)

pytestmark = pytest.mark.numerics

PAIR_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": lambda a, b: nt_xent(a, b, 0.2),
    "vicreg": lambda a, b: vicreg(a, b),
    "barlow_twins": lambda a, b: barlow_twins(a, b, 0.005),
    "info_nce": lambda a, b: cosine_info_nce(a, b, 0.2) + cosine_info_nce(b, a, 0.2),
    "cosine_distance": cosine_distance,
}
every_pair_loss = pytest.mark.parametrize("loss", PAIR_LOSSES.values(), ids=PAIR_LOSSES.keys())
shapes = st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32 - 1))
quick = settings(max_examples=40, deadline=None)


def two_views(n: int, features: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, features, generator=generator, dtype=torch.float64)
    return a, a + 0.7 * torch.randn(n, features, generator=generator, dtype=torch.float64)


def nt_xent_by_loops(a: np.ndarray, b: np.ndarray, temperature: float) -> float:
    z = [row / np.linalg.norm(row) for row in [*a, *b]]
    n, total = len(a), 0.0
    for i in range(2 * n):
        scores = [np.exp(z[i] @ z[k] / temperature) for k in range(2 * n) if k != i]
        total -= np.log(np.exp(z[i] @ z[(i + n) % (2 * n)] / temperature) / sum(scores))
    return total / (2 * n)


def vicreg_by_loops(a: np.ndarray, b: np.ndarray, weights: tuple[float, float, float]) -> float:
    n, features = a.shape
    distance = sum((a[i, j] - b[i, j]) ** 2 for i in range(n) for j in range(features)) / (n * features)
    hinge = shared = 0.0
    for view in (a, b):
        for j in range(features):
            spread = sum((view[i, j] - view[:, j].mean()) ** 2 for i in range(n)) / max(n - 1, 1)
            hinge += max(0.0, 1 - np.sqrt(spread + 1e-4)) / features / 2
            for k in set(range(features)) - {j}:
                products = [(view[i, j] - view[:, j].mean()) * (view[i, k] - view[:, k].mean()) for i in range(n)]
                shared += (sum(products) / max(n - 1, 1)) ** 2 / features
    return weights[0] * distance + weights[1] * hinge + weights[2] * shared


def barlow_twins_by_loops(a: np.ndarray, b: np.ndarray, redundancy: float) -> float:
    n, features = a.shape
    total = 0.0
    for j in range(features):
        for k in range(features):
            left, right = a[:, j] - a[:, j].mean(), b[:, k] - b[:, k].mean()
            scale = np.sqrt((left @ left / n + 1e-5) * (right @ right / n + 1e-5))
            correlation = left @ right / n / scale
            total += (1 - correlation) ** 2 if j == k else redundancy * correlation**2
    return total


@quick
@given(shapes, st.floats(0.02, 2.0))
def test_nt_xent_follows_its_equation(shape: tuple[int, int, int], temperature: float) -> None:
    a, b = two_views(*shape)
    expected = nt_xent_by_loops(a.numpy(), b.numpy(), temperature)
    assert nt_xent(a, b, temperature).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@quick
@given(shapes.filter(lambda shape: shape[0] > 1), st.floats(0.02, 2.0))
def test_nt_xent_equals_metric_learning(shape: tuple[int, int, int], temperature: float) -> None:
    a, b = two_views(*shape)
    labels = torch.arange(len(a)).repeat(2)
    expected = NTXentLoss(temperature)(torch.cat([a, b]), labels)
    torch.testing.assert_close(nt_xent(a, b, temperature), expected)


def more_keys(q: int, features: int) -> Tensor:
    return torch.randn(q, features, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@quick
@given(shapes, st.integers(0, 7), st.floats(0.02, 2.0))
def test_info_nce_follows_its_equation(shape: tuple[int, int, int], q: int, temperature: float) -> None:
    queries, keys = two_views(*shape)
    more = more_keys(q, shape[1])
    every = [key / np.linalg.norm(key) for key in [*keys.numpy(), *more.numpy()]]
    total = 0.0
    for i, query in enumerate(queries.numpy()):
        scores = [np.exp(query @ key / np.linalg.norm(query) / temperature) for key in every]
        total -= np.log(scores[i] / sum(scores))
    found = cosine_info_nce(queries, keys, temperature, more)
    assert found.item() == pytest.approx(total / len(queries), rel=1e-9, abs=1e-12)


@quick
@given(shapes.filter(lambda shape: shape[0] > 1), st.integers(0, 7), st.floats(0.02, 2.0))
def test_info_nce_equals_metric_learning(shape: tuple[int, int, int], q: int, temperature: float) -> None:
    queries, keys = two_views(*shape)
    more = more_keys(q, shape[1])
    labels = torch.arange(len(queries) + q)
    expected = NTXentLoss(temperature)(
        queries, labels[: len(queries)], ref_emb=torch.cat([keys, more]), ref_labels=labels
    )
    torch.testing.assert_close(cosine_info_nce(queries, keys, temperature, more), expected)


@quick
@given(shapes)
def test_cosine_distance_equals_that_of_torch(shape: tuple[int, int, int]) -> None:
    a, b = two_views(*shape)
    torch.testing.assert_close(cosine_distance(a, b), (1 - torch.cosine_similarity(a, b)).mean())


def sinkhorn_by_loops(scores: np.ndarray, epsilon: float) -> np.ndarray:
    codes = np.exp(scores / epsilon)
    n, prototypes = codes.shape
    for _ in range(3):
        for k in range(prototypes):
            codes[:, k] /= codes[:, k].sum() * prototypes
        for i in range(n):
            codes[i] /= codes[i].sum() * n
    return n * codes


@quick
@given(shapes, st.floats(0.02, 2.0))
def test_sinkhorn_takes_turns_as_in_the_paper(shape: tuple[int, int, int], epsilon: float) -> None:
    scores = two_views(*shape)[0].tanh()
    found = sinkhorn(scores, epsilon)
    np.testing.assert_allclose(found.numpy(), sinkhorn_by_loops(scores.numpy(), epsilon), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(shape[0], dtype=torch.float64))


def test_sinkhorn_uses_prototypes_alike_where_scores_favour_one() -> None:
    scores = two_views(64, 8)[0].tanh() / 10
    scores[:, 0] += 0.5
    assert scores.softmax(dim=1).sum(dim=0)[0] > 1.3 * 64 / 8
    shares = sinkhorn(scores, 0.05).sum(dim=0)
    torch.testing.assert_close(shares, torch.full((8,), 64 / 8, dtype=torch.float64), rtol=0.1, atol=0)


@quick
@given(shapes, st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_swapped_prediction_follows_its_equation(
    shape: tuple[int, int, int], temperature: float, epsilon: float
) -> None:
    a, b = (view.tanh() for view in two_views(*shape))
    total = 0.0
    for own, other in ((a.numpy(), b.numpy()), (b.numpy(), a.numpy())):
        codes = sinkhorn_by_loops(other, epsilon)
        for i in range(len(own)):
            shares = np.exp(own[i] / temperature) / np.exp(own[i] / temperature).sum()
            total -= sum(codes[i, k] * np.log(shares[k]) for k in range(len(shares)))
    found = swapped_prediction(a, b, temperature, epsilon)
    assert found.item() == pytest.approx(total / (2 * len(a)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 16])
@pytest.mark.parametrize("epsilon", [1e-4, 0.05, 10])
def test_swapped_prediction_stays_finite_in_float32(n: int, epsilon: float) -> None:
    a, b = (view.float().tanh().requires_grad_() for view in two_views(n, 8))
    value = swapped_prediction(a, b, 0.1, epsilon)
    value.backward()
    assert value.isfinite()
    assert a.grad is not None and a.grad.isfinite().all()


@quick
@given(shapes, st.tuples(*[st.floats(0, 30)] * 3))
def test_vicreg_follows_its_equations(shape: tuple[int, int, int], weights: tuple[float, float, float]) -> None:
    a, b = two_views(*shape)
    expected = vicreg_by_loops(a.numpy(), b.numpy(), weights)
    assert vicreg(a, b, *weights).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@quick
@given(shapes.filter(lambda shape: shape[0] > 1), st.floats(0.1, 3.0))
def test_vicreg_equals_metric_learning(shape: tuple[int, int, int], scale: float) -> None:
    a, b = (scale * view for view in two_views(*shape))
    torch.testing.assert_close(vicreg(a, b), VICRegLoss()(a, ref_emb=b))


@quick
@given(shapes, st.floats(0, 1))
def test_barlow_twins_follows_its_equation(shape: tuple[int, int, int], redundancy: float) -> None:
    a, b = two_views(*shape)
    expected = barlow_twins_by_loops(a.numpy(), b.numpy(), redundancy)
    assert barlow_twins(a, b, redundancy).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_barlow_twins_is_zero_for_equal_views_without_redundancy() -> None:
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert barlow_twins(100 * signs, 100 * signs, 0.005).item() == pytest.approx(0, abs=1e-12)
    assert barlow_twins(100 * signs, -100 * signs, 0.005).item() == pytest.approx(3 * 2**2)


def test_a_collapsed_batch_is_punished() -> None:
    """Views that agree by being constant: nothing to tell apart, no variance, no correlation."""
    constant = torch.ones(5, 4)
    assert nt_xent(constant, constant, 0.1).item() == pytest.approx(np.log(9), rel=1e-5)
    assert vicreg(constant, constant).item() == pytest.approx(25 * (1 - 0.01), rel=1e-5)
    assert barlow_twins(constant, constant, 0.005).item() == pytest.approx(4)


@every_pair_loss
@quick
@given(shape=shapes)
def test_views_may_be_exchanged_and_rows_reordered_together(
    loss: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, int, int]
) -> None:
    a, b = two_views(*shape)
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(shape[2]))
    torch.testing.assert_close(loss(b, a), loss(a, b))
    torch.testing.assert_close(loss(a[order], b[order]), loss(a, b))


@quick
@given(shapes)
def test_nt_xent_ignores_the_length_of_projections(shape: tuple[int, int, int]) -> None:
    a, b = two_views(*shape)
    lengths = 0.1 + 10 * torch.rand(2, len(a), 1, generator=torch.Generator().manual_seed(shape[2])).double()
    torch.testing.assert_close(nt_xent(a * lengths[0], b * lengths[1], 0.2), nt_xent(a, b, 0.2))


@every_pair_loss
def test_wrong_partners_cost_more(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = two_views(12, 6)
    assert loss(a, b.roll(1, dims=0)) > loss(a, b)


@every_pair_loss
def test_gradients_are_those_of_the_value(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = (view.requires_grad_() for view in two_views(5, 4))
    assert torch.autograd.gradcheck(loss, (a, b))


@every_pair_loss
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e4])
def test_values_and_gradients_stay_finite(loss: Callable[[Tensor, Tensor], Tensor], n: int, scale: float) -> None:
    a, b = ((scale * view.float()).requires_grad_() for view in two_views(n, 4))
    value = loss(a, b)
    value.backward()
    assert value.isfinite()
    assert a.grad is not None and a.grad.isfinite().all()
    assert b.grad is not None and b.grad.isfinite().all()


def test_one_window_has_no_negatives() -> None:
    a, b = (view.requires_grad_() for view in two_views(1, 4))
    value = nt_xent(a, b, 0.1)
    value.backward()
    assert value.item() == 0
    assert a.grad is not None and a.grad.count_nonzero() == 0


@pytest.mark.parametrize("temperature", [1e-4, 1e-2])
def test_nt_xent_is_stable_at_low_temperature(temperature: float) -> None:
    a, b = two_views(16, 8)
    small_a, small_b = a.float().requires_grad_(), b.float()
    value = nt_xent(small_a, small_b, temperature)
    value.backward()
    torch.testing.assert_close(value.double(), nt_xent(a, b, temperature), rtol=1e-4, atol=1e-4)
    assert small_a.grad is not None and small_a.grad.isfinite().all()


@every_pair_loss
def test_half_precision_is_raised_also_under_autocast(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = (view.bfloat16() for view in two_views(16, 8))
    expected = loss(a.double(), b.double())
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(a, b)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


@every_pair_loss
@pytest.mark.parametrize(("first", "second"), [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,)), ((0, 3), (0, 3))])
def test_shapes_that_do_not_fit_are_both_named(
    loss: Callable[[Tensor, Tensor], Tensor], first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"found {first} and {second}")):
        loss(torch.zeros(first), torch.zeros(second))


@quick
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_masked_mse_averages_what_was_hidden(n: int, channels: int, samples: int, fraction: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, target = rng.normal(size=(2, n, channels, samples))
    mask = rng.random((n, samples)) < fraction
    errors = [
        (prediction[i, c, t] - target[i, c, t]) ** 2
        for i in range(n)
        for c in range(channels)
        for t in range(samples)
        if mask[i, t]
    ]
    value = masked_mse(torch.tensor(prediction), torch.tensor(target), torch.tensor(mask))
    assert value.item() == pytest.approx(np.mean(errors) if errors else 0)


def test_masked_mse_sees_nothing_else() -> None:
    prediction, target = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 2] = True
    target[~mask.unsqueeze(1).expand_as(target)] = torch.nan
    prediction.requires_grad_()
    masked_mse(prediction, target, mask).backward()
    assert prediction.grad is not None
    expected = torch.zeros_like(prediction)
    expected[1, :, 2] = (prediction - target)[1, :, 2].detach() * 2 / 4
    torch.testing.assert_close(prediction.grad, expected)


def test_masked_mse_without_a_mask_is_zero_with_a_gradient() -> None:
    prediction = torch.ones(2, 3, 4, requires_grad=True)
    value = masked_mse(prediction, torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert prediction.grad is not None and prediction.grad.count_nonzero() == 0


def test_masked_mse_gradients_are_those_of_the_value() -> None:
    prediction, target = (
        torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(s))
        for s in (0, 1)
    )
    mask = torch.tensor([[True, False, True, False], [False, False, True, True]])
    assert torch.autograd.gradcheck(lambda p, t: masked_mse(p, t, mask), (prediction, target))


def test_masked_mse_raises_half_precision() -> None:
    prediction = torch.full((1, 1, 1000), 1.5, dtype=torch.bfloat16)
    value = masked_mse(prediction, torch.zeros(1, 1, 1000), torch.ones(1, 1000, dtype=torch.bool))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(2.25)


def test_masked_mse_names_what_does_not_fit() -> None:
    windows = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match=re.escape("found (2, 3, 4) and (2, 3, 5)")):
        masked_mse(windows, torch.zeros(2, 3, 5), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match=re.escape("expected bool (2, 4)") + ".*" + re.escape("(2, 3)")):
        masked_mse(windows, windows, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"found torch\.float32"):
        masked_mse(windows, windows, torch.ones(2, 4))


@quick
@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 6), st.sampled_from([1.0, 2.0, 2.5]), st.integers(0, 2**31))
def test_scaled_cosine_error_follows_its_equation(n: int, tokens: int, values: int, power: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    told, target = torch.randn(2, n, tokens, values, generator=generator, dtype=torch.float64)
    hidden = torch.rand(n, tokens, values, generator=generator) < 0.6
    hidden[0, 0] = True
    errors = []
    for i in range(n):
        for k in range(tokens):
            a, b = told[i, k][hidden[i, k]].numpy(), target[i, k][hidden[i, k]].numpy()
            if len(a):
                errors.append((1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)) ** power)
    found = scaled_cosine_error(told, target, hidden, power)
    assert found.item() == pytest.approx(np.mean(errors), rel=1e-6)
    assert scaled_cosine_error(3 * target, target, hidden, power).item() == pytest.approx(0, abs=1e-9)


def test_scaled_cosine_error_looks_at_nothing_that_is_seen_and_has_finite_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    told, target = torch.randn(2, 3, 4, 5, generator=generator)
    hidden = torch.zeros(3, 4, 5, dtype=torch.bool)
    hidden[1, 2] = hidden[0, 1, :3] = True
    expected = scaled_cosine_error(told, target, hidden, 2)
    assert torch.equal(scaled_cosine_error(torch.where(hidden, told, told + 9), target, hidden, 2), expected)
    still = torch.zeros(3, 4, 5, requires_grad=True)
    value = scaled_cosine_error(still, torch.zeros(3, 4, 5), hidden, 2)
    value.backward()
    assert value.item() == pytest.approx(1)
    assert still.grad is not None and still.grad.isfinite().all()
    with pytest.raises(ValueError, match=re.escape("(N, K, P)")):
        scaled_cosine_error(told[0], target[0], hidden[0], 2)


@quick
@given(shapes)
def test_info_max_is_the_mean_of_two_binary_cross_entropies(shape: tuple[int, int, int]) -> None:
    n, nodes, seed = shape
    real, corrupted = 3 * torch.randn(2, n, nodes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits = torch.cat([real, corrupted])
    truth = torch.cat([torch.ones_like(real), torch.zeros_like(corrupted)])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
    torch.testing.assert_close(info_max(real, corrupted), expected)
    assert info_max(0 * real, 0 * real).item() == pytest.approx(np.log(2))
