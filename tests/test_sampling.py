"""An epoch takes no more windows of a person than it may, none twice, and those that move more often where asked."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from centralized_baseline.__main__ import train_centralized
from shared.config import DEFAULTS, Config, load_config
from shared.data import load
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.errors import UserError
from shared.metrics import METRICS, read_metrics
from shared.model import prepare
from shared.sampling import Sampler, movement, windows_an_epoch
from shared.train import Training
from simulation.__main__ import simulate

SMALL = ["data.name=synthetic", "encoder.width=8", "train.device=cpu"]


def configure(*overrides: str) -> Config:
    return load_config(DEFAULTS, [*SMALL, *overrides])


@pytest.fixture(scope="module")
def windows() -> Windows:
    return load(configure().data)[0]


SETTINGS = configure().train


def sampler(windows: Windows, most: int | None, way: str = "uniform") -> Sampler:
    settings = SETTINGS.model_copy(update={"windows_per_epoch": most, "sampling": way})
    return Sampler(settings, 0, windows, ChannelStatistics.of(windows))


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    most=st.integers(1, 14),
    way=st.sampled_from(["uniform", "movement"]),
    epoch=st.integers(0, 10**6),
    data=st.data(),
)
def test_each_person_gives_as_many_windows_as_an_epoch_may_take_and_none_twice(
    windows: Windows, counts: list[int], most: int, way: str, epoch: int, data: st.DataObject
) -> None:
    people = data.draw(st.permutations(np.repeat([str(one) for one in range(len(counts))], counts).tolist()))
    several = replace(windows[: len(people)], person=np.array(people))
    found = sampler(several, most, way)
    drawn = found.draw(epoch)
    assert len(set(drawn.tolist())) == len(drawn) == len(found) == sum(min(count, most) for count in counts)
    assert np.unique(several.person[drawn.numpy()], return_counts=True)[1].tolist() == [
        min(count, most) for count in counts
    ]
    assert torch.equal(drawn, found.draw(epoch))
    person = people[0]
    alone = sampler(several.of([person]), most, way)
    if way == "uniform":  # movement is measured in the standard deviations of those who train
        own = np.flatnonzero(several.person == person)
        assert own[alone.draw(epoch).numpy()].tolist() == [
            row for row in drawn.tolist() if several.person[row] == person
        ]


def test_without_a_cap_an_epoch_takes_all_windows_in_their_order(windows: Windows) -> None:
    found = sampler(windows, None)
    assert found.draw(3).tolist() == list(range(len(windows))) and len(found) == len(windows)


def moving(windows: Windows, amounts: list[float]) -> Windows:
    """One person, one window for each amount, whose only difference is how much it moves."""
    still = np.broadcast_to(windows.x[:1].mean(axis=2, keepdims=True), (len(amounts), *windows.x.shape[1:]))
    wave = np.sin(np.arange(windows.x.shape[2]) * 2 * np.pi / 16)
    x = still + np.array(amounts)[:, np.newaxis, np.newaxis] * wave
    return replace(windows[: len(amounts)], x=x.astype(np.float32), person=np.full(len(amounts), "1"))


def test_movement_does_not_depend_on_units_or_gravity_and_is_the_standard_deviation(windows: Windows) -> None:
    person = moving(windows, [0.0, 1.0, 2.0, 4.0])
    unit = ChannelStatistics(1, np.zeros(person.x.shape[1]), np.ones(person.x.shape[1]))
    np.testing.assert_allclose(
        movement(person, unit), np.array([1.4e-6, 1.0, 2.0, 4.0]) / np.sqrt(2), rtol=0.01, atol=1e-5
    )
    scales = np.linspace(0.1, 9, person.x.shape[1])[:, np.newaxis]
    scaled = replace(person, x=(person.x * scales + 5).astype(np.float32))
    np.testing.assert_allclose(
        movement(scaled, ChannelStatistics.of(scaled)),
        movement(person, ChannelStatistics.of(person)),
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("way", ["uniform", "movement"])
def test_windows_are_drawn_with_the_probabilities_of_drawing_one_after_another(windows: Windows, way: str) -> None:
    """Two of four windows, against all orders in which they can come: the exact probability of each pair."""
    weights = np.array([1.0, 2.0, 3.0, 6.0])
    found = sampler(moving(windows, weights.tolist()), 2, way)
    draws = 6000
    pairs = [tuple(found.draw(epoch).tolist()) for epoch in range(draws)]
    chance = dict.fromkeys([(a, b) for a in range(4) for b in range(a + 1, 4)], 0.0)
    w = np.ones(4) if way == "uniform" else weights
    for first, second in permutations(range(4), 2):
        chance[min(first, second), max(first, second)] += w[first] / w.sum() * w[second] / (w.sum() - w[first])
    assert sum(chance.values()) == pytest.approx(1)
    for pair, p in chance.items():
        assert abs(pairs.count(pair) - draws * p) < 5 * np.sqrt(draws * p * (1 - p)), pair


def test_movement_without_a_cap_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"train\.sampling=movement chooses among windows, .* set train\.windows_per_epoch"
    ):
        configure("train.sampling=movement")


@pytest.mark.parametrize("way", ["uniform", "movement"])
def test_a_capped_epoch_trains_as_many_windows_as_it_says_and_goes_on_where_it_stopped(
    windows: Windows, way: str
) -> None:
    person = windows.of([windows.people[0]])
    config = configure("train.windows_per_epoch=40", f"train.sampling={way}")
    trained = []
    for parts in ([range(3)], [range(1), range(1, 3)]):
        training = Training(
            config, prepare(config, person), ChannelStatistics.of(person), batch_size=16, total_epochs=3
        )
        logs = [log for part in parts for log in training.run(part)]
        assert [log.windows for log in logs] == [40, 40, 40] and len(person) > 40
        trained.append(training.state())
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())


@pytest.mark.slow
def test_a_federation_and_the_baseline_take_as_many_windows_of_each_person(windows: Windows, tmp_path: Path) -> None:
    config = configure(
        "train.windows_per_epoch=10", "federation.rounds=1", "federation.min_clients=4", "centralized.epochs=1"
    )
    simulate(config, tmp_path / "federated", "inprocess", resume=False, force=False)
    rows = [row for row in read_metrics(tmp_path / "federated" / METRICS) if row["kind"] == "client"]
    assert [row["num-examples"] for row in rows] == [10] * len(windows.people)
    train_centralized(config, tmp_path / "centralized")
    (row,) = read_metrics(tmp_path / "centralized" / METRICS)
    assert row["windows"] == 10 * len(windows.people) == windows_an_epoch(config.train, windows)
