"""The linear probe: frozen encoders, no influence of test people, and scores that agree with scikit-learn."""

import copy
import io
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from shared.data import DataSettings, load
from shared.data.partition import draw_labels
from shared.data.parts import TEN_ALIKE
from shared.data.person import of_numbers
from shared.data.spec import InputSpec
from shared.data.windows import UNLABELLED, Meta, Windows
from shared.encoders import Encoder, build_encoder
from shared.errors import UserError
from shared.evaluate import (
    BASELINES,
    C_GRID,
    PROTOCOLS,
    Part,
    ProbeReport,
    ProbeResult,
    Representation,
    choose_C,
    draw_regime,
    embed,
    encoded,
    estimate_norm_statistics,
    evaluate_once,
    fit_linear_probe,
    print_table,
    probe,
)
from shared.evaluate import protocols as protocols_module
from shared.features import expert_features
from shared.seeding import seeded_initialisation
from tests.pretext import encoder_of

SETTINGS = encoder_of("fcn", 4, pooling="mean_max_std")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def split() -> tuple[Windows, Windows]:
    return load(DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE))


@pytest.fixture
def encoder(split: tuple[Windows, Windows]) -> Encoder:
    with seeded_initialisation(0):
        return build_encoder(SETTINGS, split[0].meta.spec)


def noisy(windows: Windows, noise: float = 1.5) -> np.ndarray:
    """Embeddings (N, 12) that tell the classes apart with some errors."""
    rng = np.random.default_rng(len(windows))
    z = np.eye(12)[windows.y] + noise * 0.5 * rng.standard_normal((len(windows), 12))
    return z.astype(np.float32)


def noisy_split(split: tuple[Windows, Windows]) -> tuple[Windows, np.ndarray, Windows, np.ndarray]:
    return split[0], noisy(split[0]), split[1], noisy(split[1])


def linear_probe(
    train: Windows, z_train: np.ndarray, test: Windows, z_test: np.ndarray, regime: str, seed: int
) -> ProbeResult:
    return evaluate_once("linear", Part(train, z_train), Part(test, z_test), None, regime, seed)


def state_bytes(module: nn.Module) -> dict[str, bytes]:
    tensors = dict(module.state_dict()) | dict(module.named_buffers())
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def garbled(windows: Windows, rows: np.ndarray) -> Windows:
    """The windows with other signals and other labels in the given rows."""
    x, y = windows.x.copy(), windows.y.copy()
    x[rows] = 1e3 * RNG.standard_normal(x[rows].shape)
    y[rows] = RNG.permutation((y[rows] + 1) % len(windows.meta.classes))
    return replace(windows, x=x, y=y)


# ----- frozen means frozen


def test_embed_is_the_encoder_in_evaluation_mode(encoder: Encoder, split: tuple[Windows, Windows]) -> None:
    x = split[0].x
    with torch.no_grad():
        expected = copy.deepcopy(encoder).eval()(torch.from_numpy(x)).numpy()
    encoder.train()
    found = embed(encoder, x, batch=100)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_embed_of_no_windows_and_of_one(encoder: Encoder, split: tuple[Windows, Windows]) -> None:
    assert embed(encoder, split[0].x[:0]).shape == (0, encoder.dim)
    assert embed(encoder, split[0].x[:1]).shape == (1, encoder.dim)


def test_embed_puts_every_training_flag_back_even_after_an_error(encoder: Encoder) -> None:
    encoder.train()
    encoder.backbone.eval()
    before = [module.training for module in encoder.modules()]
    with pytest.raises(UserError):
        embed(encoder, np.zeros((2, 1, 8), np.float32))
    assert [module.training for module in encoder.modules()] == before
    assert len(set(before)) == 2


def test_probing_does_not_change_a_byte_of_an_encoder_left_in_training_mode(
    encoder: Encoder, split: tuple[Windows, Windows]
) -> None:
    encoder.train()
    before = state_bytes(encoder)
    probe(encoded(encoder, *split), *split, seeds=[0], regimes=["1", "all"])
    assert state_bytes(encoder) == before
    assert encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())


# ----- test people influence nothing


def test_one_test_person_does_not_change_the_score_of_another(encoder: Encoder, split: tuple[Windows, Windows]) -> None:
    train, test = split
    first, second = test.people
    other = garbled(test, np.flatnonzero(test.person == first))
    for name, build in BASELINES.items():
        reports = [probe(build(SETTINGS, train, part), train, part, seeds=[0], regimes=["1"]) for part in (test, other)]
        honest, fooled = (report.results[0].per_person for report in reports)
        assert honest[second] == fooled[second], name
        assert honest[first] != fooled[first], name


def test_people_in_both_parts_are_refused(split: tuple[Windows, Windows]) -> None:
    train = split[0]
    with pytest.raises(UserError, match=r"people \['1'\] are in both"):
        linear_probe(train, noisy(train), train.of(["1"]), noisy(train.of(["1"])), "all", 0)


# ----- the labels


def test_the_scaler_sees_all_windows_and_the_classifier_the_drawn_ones(split: tuple[Windows, Windows]) -> None:
    train, z = split[0], noisy(split[0])
    fitted = fit_linear_probe(train, z, "2", 5)
    rows = draw_labels(train, 2, 5)
    assert fitted.labels == len(rows) == 2 * 4 * 4
    np.testing.assert_allclose(fitted.scaler.mean_, z.astype(np.float64).mean(axis=0), rtol=1e-5)
    reference = LogisticRegression(C=fitted.C, tol=1e-8, max_iter=5000)
    reference.fit(((z - z.mean(axis=0)) / z.std(axis=0))[rows], train.y[rows])
    np.testing.assert_allclose(fitted.classifier.coef_, reference.coef_, atol=5e-3)


@pytest.mark.parametrize(("regime", "count"), [("1", 16), ("6", 96), ("100", 384), ("10%", 40), ("all", 384)])
def test_the_number_of_labels_of_a_regime(split: tuple[Windows, Windows], regime: str, count: int) -> None:
    assert len(draw_regime(split[0], regime, 0)) == count


@pytest.mark.parametrize("regime", ["0", "-1", "many", "1.5", "", "all%", "0%", "101%"])
def test_an_unknown_regime_is_refused_before_any_work(split: tuple[Windows, Windows], regime: str) -> None:
    def never(seed: int) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("embeddings were computed")

    with pytest.raises(UserError):
        probe(Representation(never), *split, seeds=[0], regimes=["1", regime])


# ----- C


def test_c_is_as_good_on_held_out_people_as_that_of_a_grid_search(split: tuple[Windows, Windows]) -> None:
    train, z = split[0], StandardScaler().fit_transform(noisy(split[0]))
    search = GridSearchCV(
        LogisticRegression(max_iter=5000), {"C": C_GRID}, cv=GroupKFold(3), scoring="neg_log_loss"
    ).fit(z, train.y, groups=train.person)
    losses = dict(zip(C_GRID, -search.cv_results_["mean_test_score"], strict=True))
    assert C_GRID[0] < search.best_params_["C"] < C_GRID[-1]
    assert losses[choose_C(z, train.y, train.person)] <= 1.01 * min(losses.values())
    assert 1.05 * min(losses.values()) < max(losses.values())


def test_a_class_that_one_person_alone_shows_does_not_choose_c() -> None:
    """With that person held out it cannot be fitted: it has no probability, and says nothing about C."""
    rng = np.random.default_rng(2)
    people, y = np.repeat(np.arange(9), 20), np.tile([0, 1], 90)
    z = rng.standard_normal((180, 8))
    z[:, 0] += 1.5 * y
    alone = (
        np.append(z, np.full((5, 8), 3.0), axis=0),
        np.append(y, np.full(5, 2)),
        of_numbers(np.append(people, np.full(5, 0))),
    )
    assert C_GRID[0] < choose_C(z, y, of_numbers(people)) < C_GRID[-1]
    assert abs(C_GRID.index(choose_C(*alone)) - C_GRID.index(choose_C(z, y, of_numbers(people)))) <= 1


def test_somebody_whose_only_class_nobody_else_shows_is_not_judged() -> None:
    """Three people are three folds; the one that holds the third person out has nothing to judge."""
    rng = np.random.default_rng(3)
    people, y = np.repeat(np.arange(3), 40), np.concatenate([np.tile([0, 1], 40), np.full(40, 2)])
    z = rng.standard_normal((120, 8))
    z[:, 0] += 1.5 * y
    assert C_GRID[0] < choose_C(z, y, of_numbers(people)) < C_GRID[-1]


def test_c_is_chosen_with_people_held_out() -> None:
    """Everybody does each class in a way of their own, which a weak penalty learns by heart.

    That is best for people one has seen and worst for anybody else.
    """
    rng = np.random.default_rng(1)
    people, y = np.repeat(np.arange(30), 10), np.tile([0, 1], 150)
    own = rng.standard_normal((30, 2, 30))
    z = own[people, y] + 0.5 * rng.standard_normal((300, 30))
    z[:, 0] += 1.5 * (2 * y - 1)
    mixed = rng.permutation(300) % 3
    inside = {C: _loss_of_folds(z, y, mixed, C) for C in C_GRID}
    across = {C: _loss_of_folds(z, y, people % 3, C) for C in C_GRID}
    chosen = choose_C(z, y, of_numbers(people))
    assert chosen <= 3e-2 < 1e-1 <= min(inside, key=inside.__getitem__)
    assert across[chosen] <= min(across.values()) + 0.01 < across[C_GRID[-1]] - 0.05


def _loss_of_folds(z: np.ndarray, y: np.ndarray, fold: np.ndarray, C: float) -> float:
    fits = [LogisticRegression(C=C, max_iter=5000).fit(z[fold != k], y[fold != k]) for k in range(3)]
    judged = [log_loss(y[fold == k], fit.predict_proba(z[fold == k])) for k, fit in enumerate(fits)]
    return float(np.mean(judged))


def test_too_few_people_or_classes_to_choose_c(split: tuple[Windows, Windows]) -> None:
    train = split[0]
    for part, found in ((train.of(["1"]), "found 1 people"), (train[train.y == 0], "and 1 classes")):
        with pytest.raises(UserError, match=found):
            fit_linear_probe(part, noisy(part), "all", 0)
    alone = train[(train.person == "1") & (train.y == 0) | (train.person == "2") & (train.y == 1)]
    with pytest.raises(UserError, match="2 people with one class each"):
        fit_linear_probe(alone, noisy(alone), "all", 0)


def test_embeddings_that_do_not_belong_to_the_windows(split: tuple[Windows, Windows]) -> None:
    train, z, test, z_test = noisy_split(split)
    broken = z_test.copy()
    broken[3, 2] = np.nan
    for arguments, message in (
        ((train, z[1:], test, z_test), r"expected \(384, D\)"),
        ((train, z, test, broken), "NaN"),
        ((train, z, test[:0], z_test[:0]), "no windows"),
    ):
        with pytest.raises(UserError, match=message):
            linear_probe(*arguments, "1", 0)


# ----- windows without a label


def unlabelled(windows: Windows) -> Windows:
    return replace(windows, y=np.full(len(windows), UNLABELLED))


def joined(a: Windows, b: Windows) -> Windows:
    fields = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in ("x", "y", "person")}
    return Windows(**fields, meta=a.meta)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), regime=st.sampled_from(["1", "3", "10%", "all"]), kept=st.integers(1, 192))
def test_windows_without_a_label_change_no_score(
    split: tuple[Windows, Windows], seed: int, regime: str, kept: int
) -> None:
    train, z, test, z_test = noisy_split(split)
    rows = np.random.default_rng(seed).permutation(len(test))[:kept]
    stranger = replace(unlabelled(test[rows]), person=np.full(kept, "99"))
    for protocol in ("linear", "knn"):
        plain = evaluate_once(protocol, Part(train, z), Part(test, z_test), None, regime, seed)
        more = Part(joined(stranger, test), np.concatenate([z_test[rows], z_test]))
        twice = Part(joined(unlabelled(train), train), np.concatenate([z, z]))  # the same mean and spread
        assert evaluate_once(protocol, Part(train, z), more, None, regime, seed) == plain
        assert evaluate_once(protocol, twice, Part(test, z_test), None, regime, seed) == plain


def test_people_without_labels_are_counted_nowhere_but_in_the_standardisation(split: tuple[Windows, Windows]) -> None:
    train, test = split
    y = np.where(train.person == "1", UNLABELLED, train.y)
    lost = np.where(test.person == "5", UNLABELLED, test.y)
    report = probe(
        BASELINES["raw"](SETTINGS, train, test),
        replace(train, y=y),
        replace(test, y=lost),
        seeds=[0],
        regimes=["2", "all"],
    )
    assert (report.train_people, report.test_people) == (train.people[1:], ["6"])
    assert [result.labels for result in report.results] == [3 * 4 * 2, 3 * 96]
    assert all(set(result.per_person) == {"6"} and np.sum(result.confusion) == 96 for result in report.results)
    assert report.notes == []


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_without_any_label_the_reason_is_told(protocol: str, encoder: Encoder, split: tuple[Windows, Windows]) -> None:
    train, test = split
    for pair, message in (
        ((unlabelled(train), test), "no window of the training people is labelled: a probe needs labels of at least 2"),
        ((train, unlabelled(test)), "no window of the test people is labelled: nothing can be scored"),
    ):
        with pytest.raises(UserError, match=message):
            probe(encoded(encoder, *pair), *pair, seeds=[0], regimes=["1"], protocols=[protocol])


def test_a_class_that_test_people_alone_have_is_told(split: tuple[Windows, Windows], tmp_path: Path) -> None:
    train, test = split
    known = replace(train, y=np.where(train.y == 1, UNLABELLED, train.y))
    report = probe(BASELINES["raw"](SETTINGS, train, test), known, test, seeds=[0], regimes=["1", "all"])
    note = "running has no labelled training window: its 48 test windows count as wrong"
    assert json.loads(report.to_json())["notes"] == [note]
    assert np.array(report.results[0].confusion)[1, 1] == 0
    text = io.StringIO()
    print_table({"one": report, "two": report}, Console(file=text, width=200))
    assert text.getvalue().count(note) == 1


# ----- the scores


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), regime=st.sampled_from(["1", "3", "all"]), kept=st.integers(30, 192))
def test_scores_agree_with_each_other(split: tuple[Windows, Windows], seed: int, regime: str, kept: int) -> None:
    train, z, test, z_test = noisy_split(split)
    rows = np.sort(np.random.default_rng(seed).permutation(len(test))[:kept])  # people and classes of unequal size
    part = test[rows]
    result = linear_probe(train, z, part, z_test[rows], regime, seed)
    confusion = np.array(result.confusion)
    sizes = np.array([(part.person == person).sum() for person in part.people])
    assert confusion.sum(axis=1).tolist() == np.bincount(part.y, minlength=4).tolist()
    assert result.accuracy == pytest.approx(np.trace(confusion) / kept)
    assert list(result.per_person) == part.people
    assert result.accuracy == pytest.approx(np.average(list(result.per_person.values()), weights=sizes))
    assert result.per_person[result.worst_person] == min(result.per_person.values())
    predicted = fit_linear_probe(train, z, regime, seed).predict(z_test[rows])
    assert result.macro_f1 == pytest.approx(f1_score(part.y, predicted, average="macro"))


def test_macro_f1_is_over_the_classes_that_the_test_people_have(split: tuple[Windows, Windows]) -> None:
    train, z, test, z_test = noisy_split(split)
    rows = np.flatnonzero(test.y < 2)
    result = linear_probe(train, z, test[rows], z_test[rows], "all", 0)
    confusion = np.array(result.confusion)
    hits, predicted, true = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    assert result.macro_f1 == pytest.approx((2 * hits / (predicted + true).clip(1))[:2].mean())


def test_the_same_seed_gives_the_same_report_and_another_seed_another_draw(
    encoder: Encoder, split: tuple[Windows, Windows]
) -> None:
    for representation in (encoded(encoder, *split), BASELINES["random"](SETTINGS, *split)):
        one, again = (probe(representation, *split, seeds=[4, 5], regimes=["1", "all"]) for _ in range(2))
        assert one.to_json() == again.to_json()
        first, second = one.of("1")
        assert first.confusion != second.confusion


def test_regime_all_is_fitted_once_where_the_seed_changes_nothing(
    split: tuple[Windows, Windows], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def counted(*arguments: object) -> ProbeResult:
        calls.append(str(arguments[4]))
        return evaluate_once(*arguments)

    monkeypatch.setattr(protocols_module, "evaluate_once", counted)
    z = noisy(split[0]), noisy(split[1])
    steps: list[None] = []
    for seeded, expected in ((False, ["1", "all", "1", "1"]), (True, ["1", "all"] * 3)):
        report = probe(
            Representation(lambda seed: z, seeded=seeded),
            *split,
            seeds=[0, 1, 2],
            regimes=["1", "all"],
            advance=lambda: steps.append(None),
        )
        assert calls == expected
        assert [row.seed for row in report.of("all")] == [0, 1, 2]
        assert len({tuple(row.per_person.values()) for row in report.of("all")}) == 1
        calls.clear()
    assert len(steps) == 12


def test_random_encoders_differ_by_seed_and_leave_the_global_generator_alone(
    split: tuple[Windows, Windows],
) -> None:
    representation = BASELINES["random"](SETTINGS, *split)
    state = torch.random.get_rng_state()
    first, second, again = (representation.embed(seed)[1] for seed in (0, 1, 0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(first, again)
    assert not np.allclose(first, second)
    assert representation.seeded


# ----- the report


def made_up(accuracies: list[float], regime: str = "all") -> ProbeReport:
    rows = [
        ProbeResult(
            protocol="linear",
            regime=regime,
            seed=seed,
            labels=8,
            C=0.1,
            accuracy=accuracy,
            macro_f1=accuracy / 2,
            confusion=[[1, 0], [0, 1]],
            per_person={"7": accuracy, "9": 1 - accuracy},
            worst_person="7",
        )
        for seed, accuracy in enumerate(accuracies)
    ]
    return ProbeReport(
        data="made up", classes=["a", "b"], train_people=["1"], test_people=["7", "9"], dim=3, results=rows
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_summary_is_mean_and_population_deviation(accuracies: list[float]) -> None:
    report = made_up(accuracies)
    scores = report.summary()["linear"]["all"]
    for name, values in (("accuracy", accuracies), ("macro_f1", [a / 2 for a in accuracies])):
        assert scores[name]["mean"] == pytest.approx(statistics.fmean(values))
        assert scores[name]["std"] == pytest.approx(statistics.pstdev(values), abs=1e-9)
    mean = statistics.fmean(accuracies)
    assert report.worst_person("all")[1] == pytest.approx(min(mean, 1 - mean))


def test_a_report_survives_json(split: tuple[Windows, Windows]) -> None:
    report = probe(BASELINES["raw"](SETTINGS, *split), *split, seeds=[0, 1], regimes=["1", "10%"])
    text = report.to_json()
    assert ProbeReport.model_validate_json(text) == report
    assert json.loads(text)["summary"] == report.summary()
    assert (report.regimes, report.seeds, report.dim) == (["1", "10%"], [0, 1], 6 * 64)


def test_the_table_shows_percent_and_fits_eighty_columns() -> None:
    regimes = [made_up([0.9, 0.8, 0.7], regime).results for regime in ("1", "2", "3", "4", "5", "6", "all")]
    wide = made_up([0.9]).model_copy(update={"results": [row for rows in regimes for row in rows]})
    output = io.StringIO()
    names = ["runs/a-name-that-is-much-too-long", "raw"]
    print_table({names[0]: wide, names[1]: made_up([0.5])}, Console(file=output, width=80))
    text = output.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "runs/a-name-that-is-" in text
    assert "much-too-long" in text
    assert text.count("80.0") == 7
    assert text.count("±8.2") == 7
    assert text.count("±4.1") == 1
    assert "9: 20.0" in text
    assert "made up, 2 test people, 3 seeds" in " ".join(text.split())
    with pytest.raises(UserError, match="no label regime in common"):
        print_table({"a": made_up([0.5], "1"), "b": made_up([0.5], "2")})


# ----- BatchNorm statistics that never left the clients


def test_norm_statistics_are_those_of_the_windows_that_the_encoder_will_see() -> None:
    layer = nn.BatchNorm1d(2, momentum=0.3)
    model = nn.Sequential(nn.Dropout(0.5), layer).train()
    x = np.random.default_rng(0).normal([[3.0], [-1.0]], [[2.0], [0.5]], (60, 2, 16)).astype(np.float32)
    x[30:] += 5  # people differ, and the windows come sorted by person
    estimate_norm_statistics(model, x, batch=100)
    np.testing.assert_allclose(layer.running_mean, x.mean(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, x.var(axis=(0, 2), ddof=1), rtol=1e-4)
    estimate_norm_statistics(model, x, batch=20)
    np.testing.assert_allclose(layer.running_mean, x.mean(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, x.var(axis=(0, 2), ddof=1), rtol=0.2)
    assert layer.momentum == 0.3
    assert not any(module.training for module in model.modules())
    with pytest.raises(UserError, match="no windows"):
        estimate_norm_statistics(model, x[:0])


def test_estimating_norm_statistics_changes_no_weight(encoder: Encoder, split: tuple[Windows, Windows]) -> None:
    weights = {name: value.detach().clone() for name, value in encoder.named_parameters()}
    before = embed(encoder, split[0].x)
    estimate_norm_statistics(encoder, split[0].x)
    once = state_bytes(encoder)
    estimate_norm_statistics(encoder, split[0].x)
    assert state_bytes(encoder) == once
    assert all(torch.equal(value, weights[name]) for name, value in encoder.named_parameters())
    assert not np.allclose(embed(encoder, split[0].x), before, rtol=0.05)


# ----- real data


def test_the_probe_of_expert_features_agrees_with_scikit_learn_on_uci_har(uci_har_zip: Path) -> None:
    train, test = load(
        DataSettings(name="uci_har", sets=(), path=uci_har_zip, channels=(), holdout=(), parts=TEN_ALIKE)
    )
    train, test = train.of(train.people[:8])[::3], test.of(test.people[:3])[::2]
    z, z_test = (expert_features(torch.from_numpy(part.x), part.meta.spec).numpy() for part in (train, test))
    reference = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": [0.001, 0.01, 0.1, 1]},
        cv=GroupKFold(3),
    ).fit(z.astype(np.float64), train.y, groups=train.person)
    result = linear_probe(train, z, test, z_test, "all", 0)
    assert result.accuracy == pytest.approx(reference.score(z_test, test.y), abs=0.015)
    assert result.accuracy > 0.85


def test_windows_of_one_channel_can_be_probed() -> None:
    meta = Meta("one", InputSpec(channels=("total_acc_x",), units=("g",), size=(32,), rate=50.0), ("still", "moving"))
    y = np.tile([0, 1], 40)
    x = (y[:, None, None] * RNG.standard_normal((80, 1, 32))).astype(np.float32)
    windows = Windows(x, y, of_numbers(np.repeat(np.arange(8), 10)), meta)
    train, test = windows.of(list("0123")), windows.of(list("4567"))
    report = probe(BASELINES["random"](SETTINGS, train, test), train, test, seeds=[0], regimes=["2"])
    assert report.results[0].accuracy > 0.85
