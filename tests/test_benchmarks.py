"""What the benchmarks refuse before they measure anything, and which rounds a curve shows."""

import re
from pathlib import Path

import pytest

from benchmarks import curve
from benchmarks.__main__ import main
from shared.errors import UserError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rounds", [-1, 0, 1])
def test_needs_a_round_after_the_first(rounds: int) -> None:
    """The first round warms up and is not timed."""
    with pytest.raises(UserError, match=rf"--rounds must be at least 2.*found {rounds}$"):
        main(["--rounds", str(rounds)])


SMALL = ["--config", "configs/demo.yaml", "data.name=synthetic", "encoder.width=4", "federation.min_clients=4"]


def test_a_curve_shows_rounds_that_the_run_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chart = tmp_path / "curve.svg"
    more = ["federation.rounds=4", "--uploads", "float32", "--regimes", "1", "--seeds", "1", "--out", str(chart)]
    curve.main([*SMALL, *more])
    assert re.findall(r"float32\W+(\d+)", capsys.readouterr().out)[-5:] == ["0", "1", "2", "3", "4"]
    assert chart.read_text().startswith("<?xml")


def test_a_curve_needs_the_rounds_that_it_is_asked_for() -> None:
    with pytest.raises(UserError, match="--at: there is no round 5 in a run of 4 rounds"):
        curve.main([*SMALL, "federation.rounds=4", "--at", "0", "5"])
