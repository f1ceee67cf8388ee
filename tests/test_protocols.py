"""Every protocol: same seed same table, encoders stay as they were, and test people influence nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from shared.data import DataSettings, load
from shared.data.parts import TEN_ALIKE
from shared.data.person import of_numbers
from shared.data.windows import Windows
from shared.encoders import Encoder
from shared.errors import UserError
from shared.evaluate import (
    BASELINES,
    PROTOCOLS,
    Fitted,
    Part,
    applicable,
    choose_k,
    embed,
    encoded,
    estimate_norm_statistics,
    evaluate_once,
    nearest_neighbours,
    probe,
)
from shared.evaluate import networks as networks_module
from shared.evaluate.networks import FINETUNE, HEAD, SUPERVISED
from shared.evaluate.representation import untrained
from tests.pretext import encoder_of

pytestmark = pytest.mark.numerics

SMALL = encoder_of("fcn", 4, pooling="mean_max_std")
ALL = list(PROTOCOLS)
FROZEN = ["linear", "knn", "head"]

Split = tuple[Windows, Windows]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few epochs show the same as many, except how good the networks get."""
    for name, recipe in (("HEAD", HEAD), ("FINETUNE", FINETUNE), ("SUPERVISED", SUPERVISED)):
        monkeypatch.setattr(networks_module, name, replace(recipe, updates=1, epochs=(3, 3)))


@pytest.fixture(scope="module")
def split() -> Split:
    return load(DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE))


@pytest.fixture(scope="module")
def har(uci_har_zip: Path) -> Split:
    """Six training and two test people of UCI HAR, every second window."""
    train, test = load(
        DataSettings(name="uci_har", sets=(), path=uci_har_zip, channels=(), holdout=(), parts=TEN_ALIKE)
    )
    return train.of(train.people[:6])[::2], test.of(test.people[:2])[::2]


def make_encoder(train: Windows, seed: int = 0) -> Encoder:
    encoder = untrained(SMALL, train, seed)
    estimate_norm_statistics(encoder, train.x)
    return encoder


def state_bytes(module: torch.nn.Module) -> dict[str, bytes]:
    tensors = dict(module.state_dict()) | dict(module.named_buffers())
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def garbled(windows: Windows) -> Windows:
    """The same people with other signals and other labels."""
    rng = np.random.default_rng(0)
    x = (1e3 * rng.standard_normal(windows.x.shape)).astype(np.float32)
    return replace(windows, x=x, y=rng.permutation((windows.y + 1) % len(windows.meta.classes)))


def parts(encoder: Encoder, split: Split) -> tuple[Part, Part]:
    return Part(split[0], embed(encoder, split[0].x)), Part(split[1], embed(encoder, split[1].x))


# ----- what holds for all


@pytest.mark.parametrize("protocol", ALL)
def test_the_same_seed_gives_the_same_results_on_real_windows(protocol: str, har: Split) -> None:
    state = torch.random.get_rng_state()
    one, again = (
        probe(encoded(make_encoder(har[0]), *har), *har, seeds=[3, 4], regimes=["2"], protocols=[protocol])
        for _ in range(2)
    )
    assert one.to_json() == again.to_json()
    assert one.results[0].confusion != one.results[1].confusion
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("protocol", ALL)
def test_the_given_encoder_stays_as_it_was_byte_by_byte(protocol: str, har: Split) -> None:
    encoder = make_encoder(har[0]).train()
    before = state_bytes(encoder)
    probe(encoded(encoder, *har), *har, seeds=[0], regimes=["1", "10%"], protocols=[protocol])
    assert state_bytes(encoder) == before
    assert all(module.training for module in encoder.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("protocol", ALL)
def test_one_regime_does_not_change_the_next(protocol: str, split: Split) -> None:
    encoder = make_encoder(split[0])
    both = probe(encoded(encoder, *split), *split, seeds=[0], regimes=["3", "1"], protocols=[protocol])
    alone = probe(encoded(encoder, *split), *split, seeds=[0], regimes=["1"], protocols=[protocol])
    assert both.of("1", protocol) == alone.of("1", protocol)


@pytest.mark.parametrize("protocol", ALL)
def test_test_people_influence_neither_choices_nor_what_is_fitted(
    protocol: str, har: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[Fitted] = []
    original = PROTOCOLS[protocol]

    def recorded(*arguments: object) -> Fitted:
        fits.append(original.fit(*arguments))  # type: ignore[arg-type]
        return fits[-1]

    monkeypatch.setitem(PROTOCOLS, protocol, replace(original, fit=recorded))
    train, test = har
    judged = [
        probe(
            encoded(make_encoder(train), train, people), train, people, seeds=[1], regimes=["1"], protocols=[protocol]
        )
        for people in (test, garbled(test))
    ]
    honest, fooled = fits
    assert honest.choices == fooled.choices
    assert honest.labels == fooled.labels
    others, _ = parts(make_encoder(train), (test, test))
    assert np.array_equal(honest.predict(others), fooled.predict(others))
    if "epochs" in honest.choices:
        assert _states(honest) == _states(fooled)
    assert judged[0].results[0].accuracy != judged[1].results[0].accuracy


def _states(fitted: Fitted) -> list[dict[str, bytes]]:
    """The bytes of every network that a fitted classifier holds."""
    cells = [cell.cell_contents for cell in fitted.predict.__closure__ or ()]
    return [state_bytes(cell.network) for cell in cells if hasattr(cell, "network")]


# ----- which protocol fits which representation


def test_protocols_that_train_a_network_need_one(split: Split) -> None:
    assert applicable(BASELINES["raw"](SMALL, *split), ALL) == FROZEN
    assert applicable(BASELINES["random"](SMALL, *split), ["head", "linear"]) == ["head", "linear"]
    assert applicable(BASELINES["supervised"](SMALL, *split), ["linear", "knn"]) == ["supervised"]
    with pytest.raises(UserError, match=r"finetune train a network.*expected one of: linear, knn, head"):
        applicable(BASELINES["raw"](SMALL, *split), ["finetune"])
    with pytest.raises(UserError, match=r"unknown protocol 'fintune' \(did you mean 'finetune'\?\)"):
        applicable(BASELINES["random"](SMALL, *split), ["linear", "fintune"])


def test_a_report_holds_every_protocol_regime_and_seed_once(split: Split) -> None:
    steps: list[None] = []
    report = probe(
        BASELINES["random"](SMALL, *split), *split, seeds=[0, 1], regimes=["1", "2"], protocols=ALL,
        advance=lambda: steps.append(None),
    )  # fmt: skip
    asked = [(seed, protocol, regime) for seed in (0, 1) for protocol in ALL for regime in ("1", "2")]
    assert [(row.seed, row.protocol, row.regime) for row in report.results] == asked
    assert len(steps) == len(asked)
    assert set(report.summary()) == set(ALL)
    chosen = {row.protocol: {n for n in ("C", "k", "epochs") if getattr(row, n) is not None} for row in report.results}
    assert chosen == {
        "linear": {"C"}, "knn": {"k"}, "finetune": {"C", "epochs"}, "supervised": {"epochs"}, "head": {"epochs"},
    }  # fmt: skip


def test_the_supervised_protocol_ignores_what_an_encoder_learned(split: Split) -> None:
    fits = [
        PROTOCOLS["supervised"].fit(Part(split[0], np.empty((len(split[0]), 0))), make_encoder(split[0], seed), "1", 0)
        for seed in (0, 1)
    ]
    assert _states(fits[0]) == _states(fits[1])


# ----- knn


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), k=st.sampled_from([1, 3, 5, 20]))
def test_knn_is_scikit_learns_where_no_vote_is_tied(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, 60)
    z = (np.eye(4)[y] + 0.7 * rng.standard_normal((60, 4))).astype(np.float32)
    queries = rng.standard_normal((40, 4)).astype(np.float32)
    reference = KNeighborsClassifier(k, metric="cosine").fit(z, y)
    top = np.sort(reference.predict_proba(queries), axis=1)
    clear = top[:, -1] > top[:, -2] + 1e-6
    found = nearest_neighbours(z, y, queries, (1, k, 60))[1]
    assert clear.sum() >= 5
    assert np.array_equal(found[clear], reference.predict(queries)[clear])


def test_the_more_similar_neighbours_win_a_tied_vote() -> None:
    z = np.array([[1, 0.1], [0, 1], [1, 0], [0.1, 1]], np.float32)
    y = np.array([2, 0, 2, 0])
    queries = np.array([[1, 0.5], [0.5, 1]], np.float32)
    assert nearest_neighbours(z, y, queries, (4,)).tolist() == [[2, 0]]


def test_k_is_chosen_with_people_held_out() -> None:
    """Each person's windows of a class are alike, and only many people together tell the class."""
    rng = np.random.default_rng(0)
    people, y = np.repeat(np.arange(30), 10), np.tile([0, 1], 150)
    own = rng.standard_normal((30, 2, 8)) + np.where(np.arange(2) == 0, -0.5, 0.5)[None, :, None]
    z = (own[people, y] + 0.05 * rng.standard_normal((300, 8))).astype(np.float32)
    inside = KNeighborsClassifier(1, metric="cosine")
    mixed = rng.permutation(300) % 2 == 0
    assert inside.fit(z[mixed], y[mixed]).score(z[~mixed], y[~mixed]) > 0.97
    assert choose_k(z, y, of_numbers(people)) >= 10


def test_k_cannot_exceed_the_labels(split: Split) -> None:
    train, test = parts(make_encoder(split[0]), split)
    assert evaluate_once("knn", train, test, None, "1%", 0).k <= 2


# ----- networks


def test_fine_tuning_starts_as_the_linear_probe(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks_module, "FINETUNE", replace(FINETUNE, epochs=(0, 0)))
    train, test = parts(make_encoder(split[0]), split)
    for regime in ("1", "all"):
        linear = evaluate_once("linear", train, test, None, regime, 0)
        tuned = evaluate_once("finetune", train, test, make_encoder(split[0]), regime, 0)
        assert tuned.epochs == 0
        assert tuned.confusion == linear.confusion


@pytest.mark.parametrize("kept", [[0, 3], [1, 2, 3]])
def test_two_or_three_classes_keep_their_own_labels(kept: list[int], split: Split) -> None:
    train, test = (part[np.isin(part.y, kept)] for part in split)
    material = parts(make_encoder(train), (train, test))
    for protocol in ALL:
        result = evaluate_once(protocol, *material, make_encoder(train), "6", 0)
        assert np.array(result.confusion)[:, np.setdiff1d(np.arange(4), kept)].sum() == 0


def test_a_class_that_held_out_people_alone_have(split: Split) -> None:
    """Class 3 is known of person 1 only: the fold that holds her out fits three classes of four."""
    train, test = split
    train = train[(train.y != 3) | (train.person == "1")]
    material = parts(make_encoder(train), (train, test))
    assert evaluate_once("finetune", *material, make_encoder(train), "2", 0).accuracy > 0.5


def test_the_epochs_are_those_that_held_out_people_are_classified_best_after(split: Split) -> None:
    """Labels without a meaning: nothing is learned about other people, and the fewest epochs win."""
    train, test = split
    lost = replace(train, y=np.zeros_like(train.y))
    lost.y[::7] = 1
    material = Part(lost, embed(make_encoder(train), lost.x)), Part(test, embed(make_encoder(train), test.x))
    assert evaluate_once("finetune", *material, make_encoder(train), "all", 0).epochs == 0


def test_weights_and_statistics_of_the_networks_do_change(split: Split) -> None:
    train, _ = parts(make_encoder(split[0]), split)
    encoder = make_encoder(split[0])
    start = state_bytes(encoder)
    for protocol, moved in (("finetune", False), ("supervised", True)):
        fitted = PROTOCOLS[protocol].fit(train, encoder, "all", 0)
        (state,) = _states(fitted)
        assert fitted.choices["epochs"] > 0
        for name, value in start.items():
            if name.endswith("weight"):
                assert state[f"encoder.{name}"] != value, (protocol, name)
            if name.endswith("running_mean"):
                assert (state[f"encoder.{name}"] != value) == moved, (protocol, name)


# ----- how good they get, with the recipes as they are


def test_networks_beat_chance_by_far_on_real_people(har: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks_module, "SUPERVISED", replace(SUPERVISED, epochs=(8, 8)))
    monkeypatch.setattr(networks_module, "HEAD", replace(HEAD, epochs=(8, 8)))
    train, test = har
    material = parts(make_encoder(train), har)
    chance = np.bincount(test.y).max() / len(test)
    for protocol in ("supervised", "head", "finetune"):
        result = evaluate_once(protocol, *material, make_encoder(train), "all", 0)
        assert result.accuracy > chance + 0.4, protocol
