"""The configuration: one place of values, no silent typo, and a resolved copy that reads back equal."""

import re
from pathlib import Path

import pytest
import yaml

from shared.config import DEFAULTS, differences, load_config
from shared.errors import UserError

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
    config = load_config(DEFAULTS.parent / "demo.yaml", ["seed=3", "tasks.contrastive.transforms=[jitter]"])
    copy = tmp_path / "config.yaml"
    copy.write_text(config.to_yaml())
    assert load_config(copy) == config
    assert load_config(copy).digest == config.digest


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


def test_the_digest_ignores_the_name_only() -> None:
    base = load_config(DEFAULTS)
    assert load_config(DEFAULTS, ["name=other"]).digest == base.digest
    assert load_config(DEFAULTS, ["seed=1"]).digest != base.digest
