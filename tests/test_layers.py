"""The hidden layer that encoders and heads share."""

import pytest
import torch
from torch import Tensor, nn

from shared.layers import BatchNorm, hidden_layer

pytestmark = pytest.mark.numerics


def vectors(n: int, features: int = 20) -> Tensor:
    """Features that spread by two orders of magnitude, about different means."""
    generator = torch.Generator().manual_seed(n)
    spread = torch.logspace(-2, 0, features)
    return spread * (3 + torch.randn(n, features, generator=generator))


@pytest.mark.parametrize("n", [2, 7])
def test_a_batch_is_normalised_as_torch_does(n: int) -> None:
    ours, theirs = BatchNorm(20), nn.BatchNorm1d(20)
    for _ in range(3):
        assert torch.equal(ours(vectors(n)), theirs(vectors(n)))
    assert torch.equal(ours.eval()(vectors(5)), theirs.eval()(vectors(5)))


def test_a_batch_of_one_is_normalised_by_what_was_seen_before_and_changes_nothing() -> None:
    norm = BatchNorm(20)
    assert torch.allclose(norm(vectors(1)), vectors(1), rtol=1e-4)
    norm(vectors(9))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    alone = norm(vectors(1))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert torch.equal(alone, norm.eval()(vectors(1)))


@pytest.mark.parametrize("units", [1, 5, 8, 64])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_any_number_of_units_learns_from_any_batch(units: int, norm: str, n: int) -> None:
    layer = nn.Sequential(*hidden_layer(20, units, norm))  # type: ignore[arg-type]
    hidden = layer(vectors(n))
    assert hidden.shape == (n, units)
    assert (hidden >= 0).all() and hidden.isfinite().all()
    hidden.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_over_the_batch_every_feature_counts_however_little_it_spreads() -> None:
    seen = hidden_layer(20, 8)[0](vectors(400))
    torch.testing.assert_close(seen.std(dim=0, correction=0), torch.ones(20), rtol=0.06, atol=0)


@pytest.mark.parametrize("units", [8, 16])
def test_a_vector_by_itself_is_normalised_as_a_whole_and_keeps_what_tells_it_from_others(units: int) -> None:
    norm = hidden_layer(20, units, "group")[2]
    x = torch.randn(50, units, generator=torch.Generator().manual_seed(0))
    y = norm(x)
    torch.testing.assert_close(y, nn.functional.layer_norm(x, (units,)))
    assert y.abs().quantile(0.5) < 0.9  # groups of two would make each value 1 or -1
