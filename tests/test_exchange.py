"""What leaves a device: encoder arrays by module, and nothing else."""

import numpy as np
import pytest
import torch

from shared.config import DEFAULTS, Config, load_config
from shared.data import load
from shared.data.statistics import ChannelStatistics
from shared.encoders import ENCODERS
from shared.errors import UserError
from shared.exchange import Manifest, incoming, mismatch, outgoing, private_state, shared_names
from shared.model import Model, build_model


def configure(*overrides: str) -> Config:
    return load_config(DEFAULTS, ["data.name=synthetic", "encoder.width=8", *overrides])


def build(*overrides: str) -> Model:
    config = configure(*overrides)
    train, _ = load(config.data)
    return build_model(config, train.meta, ChannelStatistics.of(train))


@pytest.mark.parametrize("policy", ["average", "local"])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_array_either_leaves_or_stays_and_only_floats_of_the_encoder_leave(
    name: str, norm: str, policy: str
) -> None:
    model = build(f"encoder.name={name}", f"encoder.norm={norm}")
    leaves, stays = set(outgoing(model.encoder, policy)), set(private_state(model, policy))
    assert leaves | stays == set(model.state_dict())
    assert leaves & stays == set()
    assert leaves
    for key in leaves:
        assert key.startswith("encoder.")
        assert model.state_dict()[key].is_floating_point()
    parameters = {f"encoder.{key}" for key, _ in model.encoder.named_parameters()}
    assert parameters <= leaves


def test_batch_statistics_are_averaged_or_stay() -> None:
    model = build()
    statistics = {name for name in model.encoder.state_dict() if "running_" in name}
    assert statistics
    assert statistics <= set(shared_names(model.encoder, "average"))
    assert statistics.isdisjoint(shared_names(model.encoder, "local"))


def test_a_layer_whose_name_merely_looks_like_a_norm_leaves() -> None:
    model = build()
    model.encoder.running_mean_bn = torch.nn.Linear(2, 2)
    assert {"running_mean_bn.weight", "running_mean_bn.bias"} <= set(shared_names(model.encoder, "local"))


def test_incoming_copies_what_is_shared_and_touches_nothing_private() -> None:
    source, target = build("seed=1"), build("seed=2")
    with torch.no_grad():
        for value in source.state_dict().values():
            value.add_(1)
    private = {k: v.clone() for k, v in private_state(target, "local").items()}
    incoming(target.encoder, outgoing(source.encoder, "local"), "local")
    sent, received = outgoing(source.encoder, "local"), outgoing(target.encoder, "local")
    assert all(np.array_equal(sent[name], received[name]) for name in sent)
    assert all(torch.equal(value, private[name]) for name, value in private_state(target, "local").items())


def test_outgoing_arrays_are_copies() -> None:
    model = build()
    arrays = outgoing(model.encoder, "average")
    name = next(iter(arrays))
    arrays[name] += 1
    assert not np.array_equal(arrays[name], outgoing(model.encoder, "average")[name])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, k: a.pop(k), "missing"),
        (lambda a, k: a.update({"heads.x": a[k]}), "unknown arrays, the first is heads.x"),
        (lambda a, k: a.update({k: a[k][..., None]}), "shape"),
        (lambda a, k: a.update({k: np.full_like(a[k], np.nan)}), "NaN"),
        (lambda a, k: a.update({k: a[k].astype(np.int64)}), "int64"),
    ],
)
def test_a_mismatch_is_said_in_words(change: object, words: str) -> None:
    model = build()
    expected = outgoing(model.encoder, "average")
    arrays = dict(expected)
    assert mismatch(arrays, expected) == ""
    change(arrays, next(iter(expected)))  # type: ignore[operator]
    assert words in mismatch(arrays, expected)
    with pytest.raises(UserError, match="does not fit this model"):
        incoming(model.encoder, arrays, "average")


def test_a_manifest_adds_up_and_goes_on_from_its_state() -> None:
    arrays = {"encoder.a": np.zeros((2, 3), np.float32), "encoder.b": np.zeros(5, np.float32)}
    first = Manifest()
    first.count_arrays("down", arrays)
    first.count_arrays("up", arrays)
    second = Manifest(first.state())
    second.count_arrays("up", arrays)
    report = second.report()
    assert (report["bytes_up"], report["bytes_down"]) == (2 * 44, 44)
    row = next(r for r in report["crossed_the_wire"] if r["direction"] == "up" and r["name"] == "encoder.a")
    assert (row["times"], row["bytes"], row["shape"]) == (2, 48, [2, 3])
