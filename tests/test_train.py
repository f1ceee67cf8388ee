"""The training loop: reproducible, resumable at any epoch, and honest about trouble."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config import DEFAULTS, Config, load_config
from shared.data import load
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.errors import UserError
from shared.model import Model, prepare
from shared.train import Training, pick_precision, schedule

pytestmark = pytest.mark.numerics


def configure(*overrides: str) -> Config:
    return load_config(DEFAULTS, ["data.name=synthetic", "encoder.width=8", *overrides])


def start(config: Config, windows: Windows) -> Training:
    torch.set_num_threads(1)
    return Training(config, prepare(config, windows), ChannelStatistics.of(windows), batch_size=32, total_epochs=4)


def same(first: Model, second: Model) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


@pytest.fixture(scope="module")
def person() -> Windows:
    train_part, _ = load(configure().data)
    return train_part.of([train_part.people[0]])


@pytest.mark.parametrize("weighting", ["uncertainty", "dwa"])
def test_the_same_seed_gives_the_same_model_and_another_seed_another(person: Windows, weighting: str) -> None:
    models = []
    for seed in (0, 0, 1):
        config = configure(f"seed={seed}", f"weighting.name={weighting}")
        training = start(config, person)
        torch.manual_seed(len(models))  # the global generator must not matter
        list(training.run(range(2)))
        models.append(training.model)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_epochs_in_two_parts_equal_epochs_in_one(person: Windows) -> None:
    config = configure()
    whole, parts = start(config, person), start(config, person)
    logs = list(whole.run(range(4)))
    first, second = list(parts.run(range(2))), list(parts.run(range(2, 4)))
    assert same(whole.model, parts.model)
    assert [log.losses for log in logs] == [log.losses for log in first + second]
    assert [log.epoch for log in logs] == [1, 2, 3, 4]


def test_training_lowers_every_loss_and_moves_the_weights_of_the_tasks(person: Windows) -> None:
    config = configure("train.learning_rate=0.003")
    logs = list(start(config, person).run(range(4)))
    assert logs[-1].loss < logs[0].loss
    assert len(set(logs[-1].weights.values())) == len(logs[-1].weights) == 4


@pytest.mark.parametrize("count", [1, 2, 33])
def test_a_person_with_fewer_windows_than_a_batch_or_one_more(person: Windows, count: int) -> None:
    logs = list(start(configure(), person[:count]).run(range(1)))
    assert logs[0].windows == count
    assert np.isfinite(logs[0].loss)


def test_bfloat16_trains_to_about_the_same_loss(person: Windows) -> None:
    final = {}
    for precision in ("float32", "bfloat16"):
        training = start(configure(f"train.precision={precision}"), person)
        final[precision] = list(training.run(range(4)))[-1].loss
        assert all(p.dtype == torch.float32 for p in training.model.parameters())
    assert final["bfloat16"] == pytest.approx(final["float32"], rel=0.05)
    assert final["bfloat16"] != final["float32"]


@pytest.mark.parametrize(
    ("device", "capabilities", "expected"),
    [
        ("cpu", {"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ("cpu", {"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ("cpu", {"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ("cpu", {"sve": True}, torch.float32),
        ("mps", {"avx512_bf16": True}, torch.float32),
    ],
)
def test_auto_takes_bfloat16_where_the_processor_computes_in_it(
    device: str, capabilities: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert pick_precision("auto", torch.device(device)) == expected
    assert pick_precision("float32", torch.device(device)) == torch.float32
    assert pick_precision("bfloat16", torch.device(device)) == torch.bfloat16


def test_auto_trains_as_the_precision_that_this_processor_has(person: Windows) -> None:
    own = {torch.float32: "float32", torch.bfloat16: "bfloat16"}[pick_precision("auto", torch.device("cpu"))]
    final = {}
    for precision in ("auto", own):
        last = list(start(configure(f"train.precision={precision}", "train.device=cpu"), person).run(range(2)))[-1]
        final[precision] = (last.loss, last.precision)
    assert final["auto"] == final[own]
    assert final["auto"][1] == own


def test_a_loss_that_is_not_finite_names_its_task(person: Windows) -> None:
    training = start(configure(), person)
    with torch.no_grad():
        training.model.tasks["reconstruction"].decoder[0].weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"epoch 1: the loss of .*reconstruction.* is not finite"):
        list(training.run(range(1)))


def test_weight_decay_spares_biases_and_norms(person: Windows) -> None:
    training = start(configure(), person)
    model, optimizer = training.model, training.optimizer
    spared = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in spared) == (parameter.ndim <= 1), name
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


@settings(max_examples=50)
@given(progress=st.floats(0, 1), warmup=st.floats(0, 0.9), shape=st.sampled_from(["cosine", "constant"]))
def test_the_learning_rate_stays_between_zero_and_its_top(progress: float, warmup: float, shape: str) -> None:
    train_settings = configure(f"train.warmup={warmup}", f"train.schedule={shape}").train
    rate = schedule(train_settings, progress)
    assert 0 <= rate <= train_settings.learning_rate * (1 + 1e-9)
    assert schedule(train_settings, warmup) == pytest.approx(train_settings.learning_rate)
    if shape == "cosine":
        assert schedule(train_settings, 1.0) == pytest.approx(0.0, abs=1e-12)
