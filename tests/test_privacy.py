"""Privacy: clipping and noise measured against theory, epsilon against formulas, and what may not be combined."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from flwr.supercore.differential_privacy import compute_clip_model_update, compute_stdv
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.optimize import brentq
from scipy.stats import kstest, norm
from test_aggregation import Wire, final
from test_federation import PEOPLE, StoppedError, configure, encoder_bytes, federate

from server.strategy import PeopleStrategy
from shared.checkpoint import KEPT
from shared.config import Config, PrivacySettings
from shared.errors import UserError
from shared.metrics import read_metrics
from shared.privacy import clip_update, private_mean, private_update, spent_epsilon, update_norm
from simulation.__main__ import _tell


def settings(name: str, clipping_norm: float = 0.5, noise_multiplier: float = 2.0) -> PrivacySettings:
    return PrivacySettings(name=name, clipping_norm=clipping_norm, noise_multiplier=noise_multiplier, delta=1e-5)


def private(name: str, *overrides: str) -> Config:
    return configure(f"privacy.name={name}", "encoder.norm=group", *overrides)


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=6), st.floats(0.01, 100))
def test_clipping_keeps_the_direction_and_the_bound_and_equals_flowers(values: list[float], bound: float) -> None:
    sent = {"a": np.ones(1), "b": np.full(len(values) - 1, -2.0)}
    reply = {"a": 1 + np.array(values[:1]), "b": np.array(values[1:]) - 2}
    clipped = clip_update(sent, reply, bound)
    assert update_norm(sent, clipped) <= bound * (1 + 1e-9)
    if (before := update_norm(sent, reply)) <= bound:
        assert all(np.allclose(clipped[n], reply[n], atol=1e-12) for n in sent)
    if before > 0:
        expected = [reply[n].copy() for n in sent]
        compute_clip_model_update(expected, list(sent.values()), bound)
        for value, flowers in zip(clipped.values(), expected, strict=True):
            np.testing.assert_allclose(value, flowers, rtol=1e-9, atol=1e-12)


def looks_normal(noise: np.ndarray, std: float) -> bool:
    """The spread within five standard errors, and the whole shape, which goes wrong once in a million tests."""
    close = abs(noise.std() / std - 1) < 5 / math.sqrt(2 * noise.size)
    return bool(close and kstest(noise.ravel(), norm(scale=std).cdf).pvalue > 1e-6)


@pytest.mark.parametrize("people", [1, 5])
def test_the_noise_of_the_server_is_that_of_theory_for_the_replies_that_came(people: int) -> None:
    sent = {"w": np.full((300, 400), 3.0, np.float32)}
    replies = [{"w": sent["w"] + index} for index in range(people)]
    chosen = settings("central")
    noisy = private_mean(sent, replies, chosen)["w"]
    clipped_mean = np.mean([clip_update(sent, reply, 0.5)["w"] for reply in replies], axis=0)
    assert looks_normal(noisy - clipped_mean, compute_stdv(2.0, 0.5, people))
    assert not np.array_equal(noisy, private_mean(sent, replies, chosen)["w"])


def test_the_noise_of_a_device_hides_any_update_behind_any_other() -> None:
    sent = {"w": np.zeros((300, 400), np.float32), "b": np.zeros((), np.float32)}
    noisy = private_update(sent, sent, settings("local"))
    assert noisy["w"].dtype == np.float32
    assert noisy["b"].shape == ()
    assert looks_normal(noisy["w"].astype(np.float64), 2 * 0.5 * 2.0)


@pytest.mark.parametrize("multiplier", [0.05, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("rounds", [1, 15, 200])
def test_epsilon_is_the_exact_one_and_below_the_renyi_bound(multiplier: float, rounds: int) -> None:
    delta, mu = 1e-5, math.sqrt(rounds) / multiplier

    def excess(epsilon: float) -> float:  # Balle and Wang 2018, theorem 8, in logarithms
        first, second = norm.logcdf(mu / 2 - epsilon / mu), epsilon + norm.logcdf(-mu / 2 - epsilon / mu)
        return float(first + np.log1p(-np.exp(second - first)) - math.log(delta))

    found = spent_epsilon(multiplier, rounds, delta)
    assert found == pytest.approx(brentq(excess, 1e-9, 10 * (mu + 6) ** 2), rel=1e-6)
    renyi = min(order * mu**2 / 2 + math.log(1 / delta) / (order - 1) for order in np.linspace(1.001, 200, 20000))
    assert found < renyi


def test_epsilon_equals_the_one_of_a_numerical_accountant() -> None:
    accountant = PLDAccountant().compose(GaussianDpEvent(5.0), 15)
    assert spent_epsilon(5.0, 15, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert spent_epsilon(5.0, 0, 1e-5) == 0


@pytest.mark.slow
def test_a_federation_with_central_privacy_adds_this_noise_to_the_clipped_equal_mean(tmp_path: Path) -> None:
    config = private("central", "federation.rounds=1", "privacy.clipping_norm=0.01", "privacy.noise_multiplier=3")
    wire = Wire()
    federate(tmp_path / "run", config, wire.app)
    sent, replies = wire.rounds[0]
    assert all(update_norm(sent, arrays) > 0.02 for _, arrays in replies)
    clipped = [clip_update(sent, arrays, 0.01) for _, arrays in replies]
    found = final(tmp_path / "run")
    noise = np.concatenate([(found[n] - np.mean([one[n] for one in clipped], axis=0)).ravel() for n in sent])
    assert looks_normal(noise, 3 * 0.01 / PEOPLE)
    federate(tmp_path / "again", config)
    assert encoder_bytes(tmp_path / "again") != encoder_bytes(tmp_path / "run")


@pytest.mark.slow
def test_a_device_with_local_privacy_sends_nothing_but_noise_around_a_clipped_update(tmp_path: Path) -> None:
    small = ["federation.rounds=1", "privacy.clipping_norm=0.01"]
    quiet, loud = Wire(), Wire()
    federate(tmp_path / "quiet", private("local", *small, "privacy.noise_multiplier=0.000001"), quiet.app)
    federate(tmp_path / "loud", private("local", *small, "privacy.noise_multiplier=3"), loud.app)
    sent, replies = quiet.rounds[0]
    assert all(update_norm(sent, arrays) == pytest.approx(0.01, rel=1e-2) for _, arrays in replies)
    sent, replies = loud.rounds[0]
    for _, arrays in replies:
        assert looks_normal(np.concatenate([(arrays[n] - sent[n]).ravel() for n in sent]).astype(float), 2 * 3 * 0.01)


@pytest.mark.slow
def test_with_local_privacy_the_number_of_windows_does_not_reach_the_encoder(tmp_path: Path) -> None:
    config = private("local", "federation.rounds=1", "privacy.noise_multiplier=0.01", "data.name=watch")
    wire = Wire()
    federate(tmp_path / "run", config, wire.app, 7)
    _, replies = wire.rounds[0]
    assert len({count for count, _ in replies}) > 1
    for name, value in final(tmp_path / "run").items():
        expected = np.mean([arrays[name] for _, arrays in replies], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["central", "local"])
def test_privacy_json_tells_the_guarantee_and_what_is_outside_of_it(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = private(name, "federation.rounds=6", "federation.fraction=0.5")
    federate(folder, config)
    told = json.loads((folder / "privacy.json").read_text())
    rows = [row["person"] for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "client"]
    busiest = max(rows.count(person) for person in set(rows))
    assert 3 <= busiest < 6
    assert told["rounds_of_the_busiest_person"] == busiest
    assert told["epsilon"] == spent_epsilon(1.0, busiest, 1e-5)
    assert (told["mechanism"], told["clipping_norm"], told["noise_multiplier"]) == (name, 1.0, 1.0)
    assert any("losses" in line for line in told["outside_of_the_guarantee"])
    console = Console(record=True, width=200)
    _tell(config, folder, console)
    assert f"ε {told['epsilon']:.4g} at δ 1e-05" in console.export_text()


def test_channel_sums_stay_on_the_device_with_privacy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    federate(folder, private("central", "federation.rounds=1"))
    card = json.loads((folder / "encoder.json").read_text())
    assert (set(card["mean"]), set(card["std"])) == ({0.0}, {1.0})


def test_without_privacy_there_is_no_claim(tmp_path: Path) -> None:
    federate(tmp_path / "run", configure("federation.rounds=1"))
    assert not (tmp_path / "run" / "privacy.json").exists()


@pytest.mark.slow
def test_a_resumed_run_counts_the_round_that_it_may_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, config = tmp_path / "run", private("local", "federation.rounds=2")
    with monkeypatch.context() as patch, pytest.raises(StoppedError):

        def stop(self: PeopleStrategy, server_round: int, *rest: object) -> None:
            raise StoppedError

        patch.setattr(PeopleStrategy, "aggregate_train", stop)
        federate(folder, config)
    federate(folder, config)
    assert json.loads((folder / "privacy.json").read_text())["rounds_of_the_busiest_person"] == 2 + KEPT


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["privacy.name=central"], r"running statistics of BatchNorm.*encoder.norm=group.*norm_statistics=local"),
        (["privacy.name=local"], "running statistics of BatchNorm"),
        (
            ["privacy.name=central", "encoder.norm=group", "federation.aggregation.name=krum"],
            r"one of fedavg, .*found 'krum'",
        ),
    ],
)
def test_what_noise_would_not_cover_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        configure(*overrides)


@pytest.mark.slow
def test_local_norm_statistics_are_covered_by_staying(tmp_path: Path) -> None:
    config = configure("privacy.name=central", "federation.norm_statistics=local", "federation.rounds=1")
    federate(tmp_path / "run", config)
    assert "running_" not in (tmp_path / "run" / "exchange.json").read_text()
