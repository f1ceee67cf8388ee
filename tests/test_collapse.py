"""What a collapse looks like, and that a training which collapses says so."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from centralized_baseline.__main__ import train_centralized
from shared.collapse import LEAST_SPREAD, complaints, effective_rank, signs, signs_of
from shared.metrics import METRICS, read_metrics
from shared.tasks import TASKS
from shared.train import collapse_warnings, time_to_warn
from simulation.__main__ import simulate
from tests.pretext import only

pytestmark = pytest.mark.numerics


@given(st.integers(2, 60), st.integers(8, 40), st.integers(0, 2**31))
def test_projections_that_point_anywhere_are_spread(n: int, width: int, seed: int) -> None:
    z = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    found = signs(z, None, 1.0, None)
    assert set(found) == {"spread", "rank"}
    assert 0.5 < found["spread"] < 1.2
    assert found["rank"] == effective_rank(z)
    assert complaints(signs(7 * z, None, 1.0, None)) == complaints(found)


def test_one_point_and_one_line_and_one_code_are_told_apart() -> None:
    draw = np.random.default_rng(0)
    point = np.ones((50, 16), np.float32) + 0.01 * draw.normal(size=(50, 16)).astype(np.float32)
    line = draw.normal(size=(50, 1)).astype(np.float32) * np.ones((1, 16), np.float32)
    assert signs(point, None, 1.0, None)["spread"] < LEAST_SPREAD
    assert "hardly differ" in complaints(signs(point, None, 1.0, None))[0]
    assert "one direction" in complaints(signs(line, None, 1.0, None))[0]
    shares = np.full(64, 1e-6, np.float32)
    assert signs(None, np.full(64, 1 / 64, np.float32), 1.0, None)["perplexity"] == pytest.approx(64)
    shares[3] = 1
    assert "one code" in complaints(signs(None, shares, 1.0, None))[0]
    assert "knows nothing" in complaints(signs(None, None, math.log(64), math.log(64)))[0]
    assert complaints(signs(None, None, 0.5 * math.log(64), math.log(64))) == []
    assert signs(point[:1], None, 1.0, None) == {}


def test_warnings_come_after_a_quarter_and_at_the_end() -> None:
    assert [step for step in range(1, 13) if time_to_warn(step, 12)] == [3, 12]
    assert [step for step in range(1, 2) if time_to_warn(step, 1)] == [1]


def test_the_clients_decide_by_majority() -> None:
    bad, good = ({"spread.contrastive": value, "rank.contrastive": 20.0} for value in (0.01, 0.9))
    assert signs_of(bad, "contrastive") == {"spread": 0.01, "rank": 20.0}
    assert collapse_warnings([bad, good, good]) == []
    (warning,) = collapse_warnings([bad, bad, good])
    assert "task 'contrastive' may have collapsed on 2 of 3 clients: its projections hardly differ" in warning


def test_a_training_that_learns_shows_its_signs_and_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = only("contrastive", "centralized.epochs=2", "centralized.threads=1")
    with caplog.at_level(logging.WARNING):
        train_centralized(config, tmp_path / "run")
    rows = list(read_metrics(tmp_path / "run" / METRICS))
    assert all(0.1 < row["spread.contrastive"] < 1.2 and row["rank.contrastive"] > 2 for row in rows)
    assert "collapsed" not in caplog.text


def test_a_federation_that_collapses_says_on_how_many_clients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """VICReg without what keeps it from collapsing: its variance and covariance terms."""
    monkeypatch.setattr(
        "shared.tasks.contrastive.vicreg", lambda a, b: torch.nn.functional.mse_loss(a, b) + a.square().mean()
    )
    config = only(
        "contrastive", "tasks.contrastive.objective=vicreg", "train.learning_rate=0.03", "federation.rounds=4",
        "federation.local_epochs=4", "federation.min_clients=4", "train.schedule=constant", "train.batch_size=16",
    )  # fmt: skip
    simulate(config, tmp_path / "run", "inprocess")
    told = " ".join(capsys.readouterr().out.split())
    assert "task 'contrastive' may have collapsed on" in told
    assert TASKS["contrastive"].advice in told
