"""Cross-validation: every training person is held out once, and the real test people are in no part of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from centralized_baseline.__main__ import train_centralized
from centralized_baseline.crossval import main, split_people
from shared.checkpoint import load_encoder
from shared.config import load_config
from shared.data import DATASETS, load
from shared.data.person import in_order
from shared.data.windows import Windows
from shared.errors import UserError
from shared.evaluate import encoded, probe

pytestmark = pytest.mark.slow

YAML = """
name: tiny
data: {name: synthetic}
encoder: {width: 4}
tasks: {reconstruction: {enabled: false}, features: {enabled: false}, transformation: {enabled: false}}
centralized: {epochs: 1, threads: 1}
"""
FEW = ["--seeds", "1", "--regimes", "1", "all", "--folds", "2"]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDHAR_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML)
    return path


def result(folder: Path) -> dict:
    return json.loads((folder / "crossval.json").read_text())


def test_variants_are_trained_without_the_people_they_are_judged_on(
    runs: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--config", str(config_file), "seed=1", "--set", "encoder.width=4,8", *FEW])
    found = result(runs / "tiny-crossval")
    assert sorted(found["folds"][0] + found["folds"][1]) == ["1", "2", "3", "4"]
    assert [variant["settings"] for variant in found["variants"]] == [["encoder.width=4"], ["encoder.width=8"]]
    for variant in found["variants"]:
        for fold, report in zip(found["folds"], variant["reports"], strict=True):
            assert report["test_people"] == fold
            assert sorted(report["train_people"] + fold) == ["1", "2", "3", "4"]

    config = load_config(config_file, ["seed=1", "encoder.width=8", f"data.holdout={found['folds'][1]}"])
    train_centralized(config, tmp_path / "direct")
    split = load(config.data)
    direct = probe(encoded(load_encoder(tmp_path / "direct")[0], *split), *split, seeds=[0], regimes=["1", "all"])
    assert found["variants"][1]["reports"][1] == json.loads(direct.model_dump_json())

    accuracies = [report["results"][1]["accuracy"] for report in found["variants"][1]["reports"]]
    assert found["variants"][1]["accuracy"]["all"]["mean"] == pytest.approx(np.mean(accuracies))
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{100 * np.mean(accuracies):.1f} ±{100 * np.std(accuracies):.1f}" in printed


def test_settings_that_go_together_are_compared_with_the_configuration_as_it_is(
    runs: Path, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    together = "tasks.contrastive.enabled=false tasks.features.enabled=true"
    main(["--config", str(config_file), "--variant", together, *FEW])
    assert [variant["settings"] for variant in result(runs / "tiny-crossval")["variants"]] == [[], together.split()]
    printed = capsys.readouterr().out
    assert "   1  as configured\n" in printed
    assert f"   2  {together}\n" in printed
    folders = sorted((runs / "tiny-crossval").glob("variant-*/fold-1"))
    tasks = [list(load_config(folder / "config.yaml").enabled_tasks) for folder in folders]
    assert tasks == [["contrastive"], ["features"]]


def test_the_real_test_people_play_no_part(runs: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = DATASETS["synthetic"]

    def garbled(path: Path | None) -> tuple[Windows, Windows]:
        train, test = original(path)
        x = np.random.default_rng(0).standard_normal(test.x.shape).astype(np.float32)
        return train, replace(test, x=x, y=(test.y + 1) % 4)

    main(["--config", str(config_file), "--name", "honest", *FEW])
    monkeypatch.setitem(DATASETS, "synthetic", garbled)
    main(["--config", str(config_file), "--name", "fooled", *FEW])
    assert result(runs / "honest") == result(runs / "fooled")
    weights = [
        [path.read_bytes() for path in sorted((runs / name).rglob("encoder.safetensors"))]
        for name in ("honest", "fooled")
    ]
    assert weights[0] == weights[1]
    assert len(weights[0]) == 2


def test_an_interrupted_comparison_goes_on_where_it_was(
    runs: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--config", str(config_file), "--set", "seed=0,1", *FEW]
    main([*arguments, "--name", "whole"])
    calls: list[Path] = []

    def interrupted(config: object, folder: Path, **options: bool) -> None:
        calls.append(folder)
        if len(calls) == 3:
            raise KeyboardInterrupt
        train_centralized(config, folder, **options)

    monkeypatch.setattr("centralized_baseline.crossval.train_centralized", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main([*arguments, "--name", "parts"])
    with pytest.raises(UserError, match="exists already"):
        main([*arguments, "--name", "parts"])
    main([*arguments, "--name", "parts", "--resume"])
    assert result(runs / "parts") == result(runs / "whole")


def test_people_are_split_evenly_and_by_the_seed() -> None:
    people = [str(person) for person in range(1, 12)]
    folds = split_people(people, 3, seed=0)
    assert sorted(len(fold) for fold in folds) == [3, 4, 4]
    assert in_order(person for fold in folds for person in fold) == people
    assert folds == split_people(people, 3, seed=0) != split_people(people, 3, seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], r"--folds must be 2 to 4.*found 1"),
        (["--folds", "5"], r"--folds must be 2 to 4.*found 5"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--regimes", "some"], "unknown label regime 'some'"),
        (["data.holdout=[1]"], r"data.holdout must be empty.*found \['1'\]"),
        (["--set", "data.holdout=[1],[2]"], "data.holdout must be empty"),
        (["--set", "data.name=watch,synthetic"], "same data"),
        (["--set", "encoder.width"], "not of the form key=v1,v2"),
        (["--set", "encoder.width="], "not of the form key=v1,v2"),
        (["--variant", "encoder.width"], "not of the form key=value"),
        (["--variant", "name='x"], "cannot be split"),
        (["--set", "encoder.widht=4,8"], "did you mean 'encoder.width'|did you mean 'width'"),
        (["--name", "../away"], "plain name"),
    ],
)
def test_bad_input_is_one_readable_error(arguments: list[str], message: str, config_file: Path, runs: Path) -> None:
    with pytest.raises(UserError, match=message):
        main(["--config", str(config_file), *arguments])
    assert not runs.exists()
