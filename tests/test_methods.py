"""Every method of the literature: it resumes to the same bits, and in a federation nothing but the encoder travels."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shared.config import DEFAULTS, METHODS, Config, load_config
from shared.data.statistics import ChannelStatistics
from shared.exchange import PREFIX
from shared.model import build_initial_encoder, prepare
from shared.runs import EXCHANGE
from shared.train import Training
from simulation.__main__ import simulate
from tests.pretext import synthetic_windows

ALL_AT_ONCE = [
    f"tasks.{task}.enabled=true" for task in ("moco", "byol", "dino", "ibot", "data2vec", "mae", "codes", "crossmodal")
]
"""Teachers, a queue, centres, masks, codes: whatever a device keeps."""


def configure(method: str, *overrides: str) -> Config:
    small = ["data.name=synthetic", "encoder.width=8", "federation.rounds=2", "federation.min_clients=4"]
    return load_config(DEFAULTS, [*small, *overrides], method)


def start(config: Config) -> Training:
    torch.set_num_threads(1)
    windows = synthetic_windows()[:70]
    statistics = ChannelStatistics.of(windows)
    return Training(config, prepare(config, windows), statistics, batch_size=35, total_epochs=3)


@pytest.mark.numerics
@pytest.mark.parametrize("method", METHODS)
def test_a_method_resumes_to_the_same_bits(method: str) -> None:
    config = configure(method)
    whole, first, second = (start(config) for _ in range(3))
    list(whole.run(range(3)))
    list(first.run(range(2)))
    saved = {name: value.clone() for name, value in first.state().items()}
    second.load(saved)
    list(second.run(range(2, 3)))
    expected, found = whole.state(), second.state()
    assert expected.keys() == found.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_federates_and_only_its_encoder_travels(method: str, tmp_path: Path) -> None:
    config = configure(method)
    simulate(config, tmp_path / "run", "inprocess")
    crossed = json.loads((tmp_path / "run" / EXCHANGE).read_text())["crossed_the_wire"]
    arrays = {row["name"] for row in crossed if row["kind"] == "array"}
    encoder = build_initial_encoder(config, synthetic_windows().meta.spec)
    assert arrays == {PREFIX + n for n, value in encoder.state_dict().items() if value.is_floating_point()}
    saved = load_file(tmp_path / "run" / "encoder.safetensors")
    assert saved.keys() == encoder.state_dict().keys()
    assert any(not torch.equal(saved[name], value) for name, value in encoder.state_dict().items())


@pytest.mark.slow
def test_all_kinds_of_private_state_give_the_same_encoder_under_ray(tmp_path: Path) -> None:
    config = configure("thesis", *ALL_AT_ONCE, "encoder.name=transformer", "tasks.codes.refresh=1", "step.name=tc2")
    encoders = set()
    for engine in ("inprocess", "ray"):
        simulate(config, tmp_path / engine, engine)
        encoders.add((tmp_path / engine / "encoder.safetensors").read_bytes())
    assert len(encoders) == 1
