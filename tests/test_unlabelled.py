"""Recordings of which nobody told the activity: from a folder to an encoder, and labels of two people to judge it."""

import json
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from deployed import remove_labels

from centralized_baseline.crossval import main as crossval
from centralized_baseline.probe import main as probe
from shared.checkpoint import load_encoder
from shared.config import Config, load_config
from shared.data import DataSettings, load
from shared.data.__main__ import main as data
from shared.data.folder import write_folder
from shared.data.parts import TEN_ALIKE
from shared.data.windows import UNLABELLED, Windows
from shared.errors import UserError
from shared.evaluate import ProbeReport
from shared.export import main as export
from shared.report.maps import draw_maps
from shared.report.reading import read_runs
from simulation.__main__ import simulate

LABELLED = ("2", "4")
"""The two training people whose labels are known in the end."""

YAML = """
name: mine
data: {name: folder}
encoder: {width: 4}
train: {precision: float32}
federation: {rounds: 1, min_clients: 2}
centralized: {epochs: 1}
"""


def labels_of(windows: Windows, people: tuple[str, ...]) -> Windows:
    return replace(windows, y=np.where(np.isin(windows.person, people), windows.y, UNLABELLED))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four clients without labels, and the same folder with labels of two people, and with all."""
    root = tmp_path_factory.mktemp("study")
    train, test = load(DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE))
    for name, people in (("none", ()), ("two", LABELLED), ("all", ("1", "2", "3", "4"))):
        write_folder(root / name, labels_of(train, people), labels_of(test, () if name == "none" else ("5",)))
    remove_labels(root / "none", "person_[135].npz")
    (root / "mine.yaml").write_text(YAML)
    simulate(config_of(root, "none"), root / "run", "inprocess")
    return root


def config_of(study: Path, name: str) -> Config:
    return load_config(study / "mine.yaml", [f"data.path={study / name}"])


def test_labels_change_nothing_in_an_encoder(study: Path, tmp_path: Path) -> None:
    simulate(config_of(study, "all"), tmp_path / "run", "inprocess")
    encoders = [(folder / "encoder.safetensors").read_bytes() for folder in (study / "run", tmp_path / "run")]
    assert encoders[0] == encoders[1]


def test_the_labels_of_two_people_judge_the_encoder(study: Path, tmp_path: Path) -> None:
    arguments = [
        "--encoder",
        str(study / "run"),
        "--seeds",
        "1",
        "--regimes",
        "1",
        "all",
        "--protocols",
        "linear",
        "knn",
    ]
    with pytest.raises(UserError, match="no window of the training people is labelled: a probe needs labels"):
        probe(arguments)
    probe([*arguments, "--out", str(tmp_path), f"data.path={study / 'two'}"])
    report = ProbeReport.model_validate_json((tmp_path / "run" / "probe.json").read_bytes())
    assert (report.train_people, report.test_people) == (list(LABELLED), ["5"])
    for result in report.results:
        assert result.labels == {"1": 2 * 4, "all": 2 * 96}[result.regime]
        assert set(result.per_person) == {"5"}
        assert np.sum(result.confusion) == 96
        assert result.accuracy > 0.5


def test_an_export_is_checked_on_all_windows_and_scored_on_labelled_ones(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "run", tmp_path / "run")
    with pytest.raises(UserError, match="no window of the training people is labelled"):
        export([str(tmp_path / "run"), "--format", "onnx"])
    mute = tmp_path / "mute"
    shutil.copytree(study / "two", mute)
    remove_labels(mute, "person_5.npz")
    for path, scored in ((study / "two", True), (mute, False)):
        export([str(tmp_path / "run"), f"data.path={path}", "--format", "onnx"])
        found = json.loads((tmp_path / "run" / "export.json").read_text())
        assert found["test_windows"] == 192
        assert [isinstance(file["accuracy"], float) for file in found["files"]] == [scored, scored]
        assert all(file["agreement"] >= 0.999 for file in found["files"])


def test_maps_show_labelled_windows_and_tell_of_the_others(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "run", tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(config_of(study, "two").to_yaml())
    maps = draw_maps(read_runs([tmp_path / "run"]), 60)
    assert maps.windows == 60
    assert [words for _, words in maps.people] == ["person 5"]
    assert maps.notes == ["96 test windows without a label are left out"]
    none = draw_maps(read_runs([study / "run"]), 60)
    assert none.notes == ["192 test windows without a label are left out", "0 labelled windows are too few for a map"]


def test_people_without_labels_are_held_out_never(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FEDHAR_RUNS", str(tmp_path))
    train, test = load(DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE))
    train = replace(train, y=np.where((train.y == 1) & (train.person != "1"), UNLABELLED, train.y))
    write_folder(tmp_path / "data", labels_of(train, ("1", "2", "3")), test)
    few = ["--folds", "3", "--seeds", "1", "--regimes", "1"]
    arguments = ["--config", str(study / "mine.yaml"), f"data.path={tmp_path / 'data'}"]
    crossval([*arguments, *few])
    found = json.loads((tmp_path / "mine-crossval" / "crossval.json").read_text())
    assert sorted(chain(*found["folds"])) == ["1", "2", "3"]
    assert "running has no labelled training window: its 24 test windows count as wrong" in capsys.readouterr().out
    with pytest.raises(UserError, match="must be 2 to 3, the number of training people with labels, found 4"):
        crossval([*arguments, "--name", "more", *few, "--folds", "4"])


def test_the_table_counts_labelled_and_unlabelled_windows(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data(["info", "folder", "--path", str(study / "two")])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "1", "0", "0", "0", "0", "0", "96"] in rows
    assert ["train", "2", "24", "24", "24", "24", "96", "0"] in rows


def test_a_folder_of_unlabelled_people_as_it_came(cases: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(YAML)
    simulate(load_config(tmp_path / "mine.yaml", [f"data.path={cases / 'unlabelled'}"]), tmp_path / "run", "inprocess")
    assert load_encoder(tmp_path / "run")[1].data == "own"


def test_a_channel_that_never_changes_is_in_the_servers_log(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "none", tmp_path / "data")
    with np.load(tmp_path / "data" / "person_3.npz") as arrays:
        x = arrays["x"]
    x[:, 4] = 0.25
    np.savez(tmp_path / "data" / "person_3.npz", x=x)
    simulate(load_config(study / "mine.yaml", [f"data.path={tmp_path / 'data'}"]), tmp_path / "run", "inprocess")
    log = (tmp_path / "run" / "server.log").read_text()
    assert log.count("channel gyro_y never changes in the windows of 1 of 4 people 3: is the sensor broken?") == 1
