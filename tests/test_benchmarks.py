"""What the benchmarks refuse before they measure anything, and which rounds a curve shows."""

import re
from pathlib import Path

import pytest

from benchmarks import curve, methods, weeks
from benchmarks.__main__ import main
from shared.errors import UserError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rounds", [-1, 0, 1])
def test_needs_a_round_after_the_first(rounds: int) -> None:
    """The first round warms up and is not timed."""
    with pytest.raises(UserError, match=rf"--rounds must be at least 2.*found {rounds}$"):
        main(["--rounds", str(rounds)])


@pytest.mark.parametrize("arguments", [["--hours", "0"], ["--windows", "0"], ["--turns", "0"]])
def test_a_week_of_nothing_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UserError, match=r"--hours must be at least 0\.1, --windows and --turns at least 1"):
        weeks.main(arguments)


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


def test_the_table_of_methods_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDHAR_RUNS", str(tmp_path / "runs"))
    arguments = [
        *SMALL,
        "--methods",
        "thesis",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--protocols",
        "linear",
        "--out",
        str(tmp_path),
    ]
    methods.main(arguments)
    told = capsys.readouterr().out
    for job in ("demo-thesis-centralized-0", "demo-thesis-federated-0", "demo-thesis-federated-seeds"):
        assert job in told
    heading, _, centralized, federated, *baselines = (tmp_path / "methods.md").read_text().splitlines()
    assert "| linear, 1 | linear, all |" in heading and heading.endswith("| effective rank | step / thesis | kB up |")
    assert centralized.startswith("| thesis | centralized | ") and centralized.endswith("| 1.00 |  |")
    assert federated.startswith("| thesis | federated | ")
    assert float(federated.split("|")[-2]) > 1, "what a client sends up in a round"
    assert [row.split("|")[1].strip() for row in baselines] == ["features", "random, fcn"]
    assert (tmp_path / "methods.svg").read_text().startswith("<?xml")
    methods.main(arguments)
    assert "training: " not in capsys.readouterr().out, "nothing was left to do"
    with pytest.raises(
        UserError, match=r"demo-thesis-centralized-0 was made with other settings \(encoder.width: 4 -> 8"
    ):
        methods.main([*arguments, "encoder.width=8"])


def test_an_unknown_method_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(UserError, match=r"unknown method 'thesiss' \(did you mean 'thesis'"):
        methods.main([*SMALL, "--methods", "thesiss"])
