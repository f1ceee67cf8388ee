"""What a collapse looks like, and that a training which collapses says so."""

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from centralized_baseline.__main__ import train_centralized
from shared.collapse import LEAST_SPREAD, complaints, effective_rank, signs, signs_of
from shared.data.statistics import ChannelStatistics
from shared.losses import cosine_distance
from shared.metrics import METRICS, read_metrics
from shared.model import prepare
from shared.tasks import TASKS, Task
from shared.tasks.base import mlp
from shared.tasks.two_views import partners
from shared.train import Training, build_optimizer, collapse_warnings, time_to_warn
from simulation.__main__ import simulate
from tests.pretext import only, synthetic_windows

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
    assert "task 'contrastive' may have collapsed on most of 3 clients: its projections hardly differ" in warning


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
    assert "task 'contrastive' may have collapsed on most of 4 clients" in told
    assert TASKS["contrastive"].advice in told


def without_predictor(task: Task) -> None:
    task.predictor = torch.nn.Identity()


def without_stopping_the_gradient(task: Task) -> None:
    """Both sides move towards each other, with nothing in between."""
    without_predictor(task)
    task.head = mlp(task.head[0].num_features, 64, 32)
    task.loss = lambda encoded, memory, batch: _symmetric(task, task.head(encoded[0].pooled))


def _symmetric(task: Task, z: torch.Tensor) -> torch.Tensor:
    task.projections = z.chunk(2)[0].detach()
    return cosine_distance(z, partners(z))


COLLAPSES: dict[str, tuple[str, list[str], Callable[[Task], None] | None, str]] = {
    "byol": ("byol", ["teacher.momentum=0", "train.learning_rate=0.03"], without_predictor, "hardly differ"),
    "simsiam": ("simsiam", [], without_stopping_the_gradient, "hardly differ"),
    "swav": ("swav", ["tasks.swav.epsilon=100"], None, "knows nothing"),
    "dino": ("dino", ["tasks.dino.teacher_temperature=[3,3]"], None, "knows nothing"),
    "ibot": ("ibot", ["tasks.ibot.teacher_temperature=[3,3]"], None, "knows nothing"),
    "ijepa": ("ijepa", ["teacher.momentum=0", "train.learning_rate=0.03"], None, "one direction"),
}
"""What keeps a task from collapsing, taken away: by settings, or from the task; and what is then said.

Others are tested where they are (wav2vec2, codes), or do not collapse so soon: data2vec, whose targets are normalised.
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", COLLAPSES)
def test_a_task_collapses_without_what_keeps_it_from_that_and_says_so(name: str) -> None:
    task, overrides, damage, words = COLLAPSES[name]
    config = only(task, "encoder.name=transformer", "train.learning_rate=0.01", "train.schedule=constant", *overrides)
    windows = synthetic_windows()[:96]
    torch.set_num_threads(1)
    training = Training(config, prepare(config, windows), ChannelStatistics.of(windows), batch_size=48, total_epochs=60)
    if damage:
        damage(training.model.tasks[task])
        training.optimizer = build_optimizer(training.model, config.train)
    told: list[str] = []
    for log in training.run(range(60)):
        told = collapse_warnings([log.row()])
        if told:
            break
    assert told and re.search(words, told[0]), training.model.tasks[task].projections
    assert TASKS[task].advice in told[0]
