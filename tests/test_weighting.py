"""Task weightings against their papers' formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UserError
from shared.weighting import SMALLEST_LOSS, WEIGHTINGS, Weighting, WeightingSettings, build_weighting

pytestmark = pytest.mark.numerics

losses_of_three = st.lists(st.floats(1e-4, 1e4), min_size=3, max_size=3).map(torch.tensor)


def build(name: str, temperature: float = 2.0) -> Weighting:
    return build_weighting(WeightingSettings(name=name, dwa_temperature=temperature), {"a": 1.0, "b": 2.0, "c": 0.5})


@pytest.mark.parametrize("name", WEIGHTINGS)
@given(losses=losses_of_three)
def test_every_weighting_gives_a_finite_scalar_whose_gradient_is_the_weights(name: str, losses: torch.Tensor) -> None:
    weighting = build(name)
    losses = losses.clone().requires_grad_()
    total = weighting(losses)
    total.backward()
    assert total.shape == ()
    assert torch.isfinite(total)
    torch.testing.assert_close(losses.grad, weighting.weights())


def test_equal_ignores_and_fixed_uses_the_configured_weights() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0])
    assert float(build("equal")(losses)) == 7.0
    assert float(build("fixed")(losses)) == 1.0 + 4.0 + 2.0


def test_uncertainty_stands_at_the_minimum_of_the_objective_that_others_learn() -> None:
    """Gradient descent on s in the sum of exp(-s) L / 2 + s / 2 (Kendall et al. 2018, eq. 10) ends where we begin."""
    losses = torch.tensor([0.1, 1.0, 5.0])
    log_variance = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([log_variance], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        objective = (torch.exp(-log_variance) * losses + log_variance).sum() / 2
        objective.backward()
        optimizer.step()
    weighting = build("uncertainty")
    weighting.observe(losses)
    torch.testing.assert_close(weighting.weights(), torch.exp(-log_variance.detach()) / 2, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(weighting(losses), objective.detach(), rtol=1e-4, atol=1e-4)


@given(history=st.lists(losses_of_three, min_size=1, max_size=40))
def test_uncertainty_weighs_by_a_mean_of_the_losses_seen(history: list[torch.Tensor]) -> None:
    weighting = build("uncertainty")
    for losses in history:
        weighting.observe(losses)
    seen = torch.stack(history)
    weights = weighting.weights()
    assert (weights <= 1 / (2 * seen.amin(dim=0).clamp_min(SMALLEST_LOSS)) * 1.001).all()
    assert (weights >= 1 / (2 * seen.amax(dim=0).clamp_min(SMALLEST_LOSS)) / 1.001).all()


def test_uncertainty_follows_a_loss_that_falls() -> None:
    weighting = build("uncertainty")
    for losses in [torch.tensor([4.0, 1.0, 0.5])] * 10 + [torch.tensor([2.0, 1.0, 0.05])] * 10:
        weighting.observe(losses)
    torch.testing.assert_close(weighting.weights(), torch.tensor([0.25, 0.5, 10.0]), rtol=0.5, atol=0.0)
    assert weighting.weights()[0] == pytest.approx(0.25, rel=0.2)


def test_uncertainty_survives_a_vanishing_loss() -> None:
    weighting = build("uncertainty")
    for _ in range(50):
        weighting.observe(torch.zeros(3))
    assert torch.isfinite(weighting(torch.zeros(3)))
    assert (weighting.weights() <= 1 / (2 * SMALLEST_LOSS) * 1.001).all()


@given(first=losses_of_three, second=losses_of_three)
def test_dwa_follows_equation_seven(first: torch.Tensor, second: torch.Tensor) -> None:
    weighting = build("dwa", temperature=1.5)
    torch.testing.assert_close(weighting.weights(), torch.ones(3))
    weighting.end_epoch(first)
    torch.testing.assert_close(weighting.weights(), torch.ones(3))
    weighting.end_epoch(second)
    ratios = (second / first).tolist()
    powers = [math.exp((ratio - max(ratios)) / 1.5) for ratio in ratios]
    expected = torch.tensor([3 * p / sum(powers) for p in powers])
    torch.testing.assert_close(weighting.weights(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["uncertainty", "dwa"])
def test_what_a_weighting_has_seen_is_in_its_state(name: str) -> None:
    old, new = build(name), build(name)
    for losses in (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 1.0])):
        old.observe(losses)
        old.end_epoch(losses)
    assert not torch.equal(new.weights(), old.weights())
    new.load_state_dict(old.state_dict())
    assert torch.equal(new.weights(), old.weights())


def test_an_unknown_name_lists_all() -> None:
    with pytest.raises(UserError, match=r"equal, fixed, uncertainty, dwa"):
        build("magic")
