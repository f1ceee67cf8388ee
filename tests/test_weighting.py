"""Task weightings against their papers' formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UserError
from shared.weighting import WEIGHTINGS, Weighting, WeightingSettings, build_weighting

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


def test_uncertainty_settles_where_the_variance_equals_the_loss() -> None:
    """The minimum of exp(-s) L + s over s is at s = log L."""
    weighting = build("uncertainty")
    losses = torch.tensor([0.1, 1.0, 5.0])
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        weighting(losses).backward()
        optimizer.step()
    torch.testing.assert_close(weighting.weights(), 1 / (2 * losses), rtol=1e-2, atol=1e-3)


def test_uncertainty_survives_a_vanishing_loss() -> None:
    weighting = build("uncertainty")
    optimizer = torch.optim.Adam(weighting.parameters(), lr=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        weighting(torch.zeros(3)).backward()
        optimizer.step()
    assert torch.isfinite(weighting(torch.zeros(3)))


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


def test_what_a_weighting_has_learned_is_in_its_state() -> None:
    for name in ("uncertainty", "dwa"):
        old, new = build(name), build(name)
        old.end_epoch(torch.tensor([1.0, 2.0, 3.0]))
        old.end_epoch(torch.tensor([1.0, 1.0, 1.0]))
        with torch.no_grad():
            for parameter in old.parameters():
                parameter.add_(0.3)
        new.load_state_dict(old.state_dict())
        assert torch.equal(new.weights(), old.weights())


def test_an_unknown_name_lists_all() -> None:
    with pytest.raises(UserError, match=r"equal, fixed, uncertainty, dwa"):
        build("magic")
