"""The configuration: one place of values, no silent typo, and a resolved copy that reads back equal."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.config import DEFAULTS, METHODS, differences, load_config
from shared.errors import UserError
from shared.settings import Way

CONFIGS = sorted(DEFAULTS.parent.glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_config_in_the_repository_loads(path: Path) -> None:
    assert load_config(path).enabled_tasks


def test_every_knob_of_the_defaults_says_why() -> None:
    knobs = [line for line in DEFAULTS.read_text().splitlines() if re.match(r"\s*[a-z_]+: \S", line)]
    silent = [line for line in knobs if "#" not in line and not re.match(r"\s+(enabled|weight|transforms):", line)]
    assert len(knobs) > 40
    assert silent == []


def test_the_resolved_copy_reads_back_to_an_equal_configuration(tmp_path: Path) -> None:
    config = load_config(DEFAULTS.parent / "demo.yaml", ["seed=3", "views.transforms=[jitter]"])
    copy = tmp_path / "config.yaml"
    copy.write_text(config.to_yaml())
    assert load_config(copy) == config
    assert load_config(copy).digest("federated") == config.digest("federated")


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("seed: 1\ntrain: {batch_size: 8}\n")
    config = load_config(path, ["train.batch_size=16"])
    defaults = yaml.safe_load(DEFAULTS.read_text())
    assert (config.seed, config.train.batch_size) == (1, 16)
    assert config.train.learning_rate == defaults["train"]["learning_rate"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trian.batch_size=8", ["unknown key 'trian'", "did you mean 'train'"]),
        ("train.batchsize=8", ["unknown key 'train.batchsize'", "did you mean 'batch_size'"]),
        ("tasks.contrastve.enabled=false", ["unknown task", "did you mean 'contrastive'", "reconstruction"]),
        ("tasks.contrastive.temprature=1", ["did you mean 'temperature'"]),
        ("encoder.name=fnc", ["unknown encoder 'fnc'", "did you mean 'fcn'", "resnet1d", "conv_lstm", "transformer"]),
        ("data.name=ucihar", ["unknown data set 'ucihar'", "uci_har", "watch", "folder", "synthetic"]),
        ("weighting.name=uncertain", ["unknown weighting", "uncertainty", "dwa"]),
        ("train.batch_size=many", ["train.batch_size", "integer", "'many'"]),
        ("train.batch_size=0", ["train.batch_size", "greater than 0", "found 0"]),
        ("train.learning_rate=.nan", ["train.learning_rate", "finite"]),
        ("federation.fraction=1.5", ["federation.fraction", "less than or equal to 1"]),
        ("train=fast", ["'train'", "block of keys", "'fast'"]),
        ("seed", ["'seed'", "key=value"]),
        ("name=../escape", ["name", "pattern"]),
        ("step.name=", ["unknown step None", "plain"]),
        ("weighting.name=5", ["unknown weighting 5", "uncertainty"]),
        ("encoder.name=[fcn]", ["unknown encoder ['fcn']", "transformer"]),
    ],
)
def test_a_bad_override_is_explained(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_config(DEFAULTS, [override])
    for word in words:
        assert word in str(error.value)


def test_no_enabled_task_is_refused() -> None:
    off = [f"tasks.{name}.enabled=false" for name in load_config(DEFAULTS).tasks]
    with pytest.raises(UserError, match="no task is enabled"):
        load_config(DEFAULTS, off)


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [1\n"])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_differences_name_the_key_and_both_values() -> None:
    first, second = load_config(DEFAULTS), load_config(DEFAULTS, ["train.batch_size=7"])
    assert differences(first, second) == [f"train.batch_size: {first.train.batch_size} -> 7"]


OTHERWISE = {
    "name": "other",
    "data.path": "elsewhere",
    "train.batch_size": 7,
    "train.device": "cpu",
    "train.threads": 7,
    "train.schedule": "constant",
    "federation.rounds": 7,
    "federation.aggregation.momentum": 0.7,
    "federation.min_clients": 7,
    "federation.join_timeout": 7,
    "federation.round_timeout": 7,
    "privacy.noise_multiplier": 7,
    "centralized.epochs": 7,
    "centralized.batch_size": 7,
    "centralized.threads": 7,
    "seed": 7,
    "data.name": "synthetic",
    "data.holdout": [1],
    "encoder.width": 8,
    "tasks.features.enabled": False,
    "weighting.dwa_temperature": 7,
    "views.reorient": "rotate",
    "encoder.align": "gravity",
    "probe.turned_copies": 3,
}
"""A value unlike the default's, for a knob of every kind."""

ANYWHERE = {"name", "data.path", "train.device", "train.threads", "centralized.threads", "probe.turned_copies"}
PATIENCE = {"federation.min_clients", "federation.join_timeout", "federation.round_timeout"}
FREE: dict[Way, set[str]] = {
    "federated": ANYWHERE | PATIENCE | {"centralized.epochs", "centralized.batch_size"},
    "centralized": ANYWHERE
    | PATIENCE
    | {"train.batch_size", "federation.rounds", "federation.aggregation.momentum", "privacy.noise_multiplier"},
}
"""What may be another in a run that is resumed."""


@pytest.mark.parametrize("knob", OTHERWISE)
@pytest.mark.parametrize("way", FREE)
def test_the_identity_of_a_run_is_what_decides_on_its_encoder(way: Way, knob: str) -> None:
    base, other = load_config(DEFAULTS), load_config(DEFAULTS, [f"{knob}={OTHERWISE[knob]}"])
    assert [change.partition(":")[0] for change in differences(base, other)] == [knob]
    kept = knob in FREE[way]
    assert (base.digest(way) == other.digest(way), differences(base, other, way) == []) == (kept, kept)


@pytest.mark.parametrize("way", FREE)
def test_a_knob_without_a_mark_is_part_of_the_identity(way: Way) -> None:
    """Of all knobs, those of this list alone are left out; a new one is in it, or decides on the encoder."""
    config = load_config(DEFAULTS)
    off = (
        "step.tc2.",
        "teacher.",
        "train.windows_per_epoch",
        "train.sampling",
        "data.parts.",
        "encoder.align",
        "views.reorient",
        *(f"tasks.{name}." for name in set(config.tasks) - set(config.enabled_tasks)),
    )
    left_out = {
        knob for knob in set(flat(config.to_dict())) - set(flat(config.identity(way))) if not knob.startswith(off)
    }
    other_way = {"federated": "centralized.", "centralized": ("federation.", "privacy.")}[way]
    assert {knob for knob in left_out if not knob.startswith(other_way)} == {
        knob for knob in FREE[way] if not knob.startswith(other_way)
    }
    assert {knob for knob in flat(config.to_dict()) if knob.startswith(other_way)} <= left_out


@pytest.mark.parametrize("way", FREE)
def test_knobs_of_a_task_that_is_off_do_not_count(way: Way) -> None:
    off = "tasks.features.enabled=false"
    one, other = (load_config(DEFAULTS, [off, f"tasks.features.hidden={units}"]) for units in (8, 9))
    assert one.digest(way) == other.digest(way)


def test_a_method_switches_its_tasks_on_and_the_others_off_and_overrides_win() -> None:
    watch = load_config("configs/demo.yaml", method="thesis")
    assert set(watch.enabled_tasks) == {"transformation", "reconstruction", "contrastive", "features"}
    assert watch.name == "demo-thesis"
    fewer = load_config("configs/demo.yaml", ["tasks.features.enabled=false", "name=mine"], method="thesis")
    assert set(fewer.enabled_tasks) == {"transformation", "reconstruction", "contrastive"}
    assert fewer.name == "mine-thesis"


def test_an_unknown_method_is_explained() -> None:
    with pytest.raises(
        UserError, match=r"unknown method 'thessis' \(did you mean 'thesis'\?\); expected one of: .*thesis"
    ):
        load_config(DEFAULTS, method="thessis")


@pytest.mark.parametrize("data", ["demo", "uci_har"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_lays_over_every_data_set(data: str, method: str) -> None:
    config = load_config(f"configs/{data}.yaml", method=method)
    assert config.enabled_tasks
    assert config.views == load_config(f"configs/{data}.yaml").views
    assert len(METHODS[method].read_text().splitlines()) <= 24
    assert METHODS[method].read_text().startswith("# ")


def flat(values: dict[str, Any], prefix: str = "") -> list[str]:
    parts = [flat(v, f"{prefix}{k}.") if isinstance(v, dict) else [f"{prefix}{k}"] for k, v in values.items()]
    return [key for part in parts for key in part]
