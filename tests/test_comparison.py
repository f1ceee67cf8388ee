"""Paired differences and collapse, against direct references, and what the tables show of them."""

import io
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import f1_score

from shared.data import DataSettings, load
from shared.data.parts import TEN_ALIKE
from shared.errors import UserError
from shared.evaluate import (
    ProbeReport,
    ProbeResult,
    Representation,
    bootstrap_mean,
    effective_rank,
    paired_difference,
    print_table,
    probe,
    spread,
)


def report(accuracies: list[list[float]], protocol: str = "linear", regime: str = "all") -> ProbeReport:
    """A report of one seed for each list, of one accuracy for each person."""
    results = [
        ProbeResult(
            protocol=protocol,
            regime=regime,
            seed=seed,
            labels=8,
            accuracy=float(np.mean(people)),
            macro_f1=0.5,
            confusion=[[1, 0], [0, 1]],
            per_person={str(number): score for number, score in enumerate(people)},
            worst_person="0",
        )
        for seed, people in enumerate(accuracies)
    ]
    people = [str(number) for number in range(len(accuracies[0]))]
    return ProbeReport(
        data="made up", classes=["a", "b"], train_people=["99"], test_people=people, dim=3, results=results
    )


# ----- paired differences


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=12))
def test_the_interval_is_that_of_a_direct_bootstrap(rows: list[tuple[float, ...]]) -> None:
    a0, a1, b0, b1 = (list(column) for column in zip(*rows, strict=True))
    mean, low, high = paired_difference(report([a0, a1]), report([b0, b1]), "all")
    differences = (np.array(a0) + np.array(a1)) / 2 - (np.array(b0) + np.array(b1)) / 2
    generator = np.random.default_rng(0)
    drawn = [differences[people].mean() for people in generator.integers(len(rows), size=(10_000, len(rows)))]
    assert mean == pytest.approx(differences.mean())
    assert low == pytest.approx(np.percentile(drawn, 2.5))
    assert high == pytest.approx(np.percentile(drawn, 97.5))
    reverse = paired_difference(report([b0, b1]), report([a0, a1]), "all")
    assert reverse == pytest.approx((-mean, -high, -low))


def test_pairing_tells_a_small_difference_between_very_different_people() -> None:
    people = np.linspace(0.6, 0.99, 9)
    mean, low, high = paired_difference(report([list(people + 0.01)]), report([list(people)]), "all")
    assert low == pytest.approx(mean) == pytest.approx(high) == pytest.approx(0.01)


def test_the_interval_is_about_as_wide_as_the_central_limit_theorem_says() -> None:
    values = np.random.default_rng(3).normal(0.02, 0.05, 400)
    mean, low, high = bootstrap_mean({str(person): value for person, value in enumerate(values)})
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert low < mean < high


def test_a_supervised_baseline_stands_in_every_comparison() -> None:
    mean, _, _ = paired_difference(report([[0.9, 0.8]]), report([[0.5, 0.6]], protocol="supervised"), "all", "linear")
    assert mean == pytest.approx(0.3)


def test_reports_that_cannot_be_compared() -> None:
    with pytest.raises(UserError, match="expected the same test people"):
        paired_difference(report([[0.9, 0.8]]), report([[0.5]]), "all")
    with pytest.raises(UserError, match=r"no protocol 'knn' in regime 'all'; found linear in all"):
        paired_difference(report([[0.9]]), report([[0.5]]), "all", "knn")
    with pytest.raises(UserError, match="in regime '2'"):
        paired_difference(report([[0.9]]), report([[0.5]]), "2")


# ----- the tables


def shown(reports: dict[str, ProbeReport]) -> str:
    output = io.StringIO()
    print_table(reports, Console(file=output, width=80))
    return " ".join(output.getvalue().split())


def test_each_encoder_is_compared_with_the_first() -> None:
    text = shown({"one": report([[0.5, 0.7]]), "two": report([[0.6, 0.7]]), "three": report([[0.5, 0.4]])})
    assert "Difference to one in percentage points" in text
    assert "two +5.0 +0.0 +10.0" in text
    assert "three -15.0 -30.0 +0.0" in text
    assert "Difference" not in shown({"one": report([[0.5, 0.7]])})


def test_a_table_for_each_protocol_with_the_supervised_baseline_in_all() -> None:
    both = report([[0.5, 0.7]])
    both = both.model_copy(update={"results": both.results + report([[0.3, 0.3]], "knn").results})
    text = shown({"one": both, "supervised": report([[0.91, 0.91]], "supervised"), "raw": report([[0.2, 0.2]])})
    assert text.count("91.0") == 2 + 2  # accuracy and the worst person
    assert text.index("Linear probe") < text.index("Nearest neighbours")
    assert text.count("20.0") == 2
    assert "Supervised network" not in text
    assert "Supervised network" in shown({"supervised": report([[0.9, 0.9]], "supervised")})


# ----- per class


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_f1_of_each_class_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    y, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (y, predicted), 1)
    result = report([[0.5]]).results[0].model_copy(update={"confusion": confusion.tolist()})
    expected = f1_score(y, predicted, labels=range(4), average=None, zero_division=0)
    for label, (found, reference) in enumerate(zip(result.per_class_f1, expected, strict=True)):
        assert found == (pytest.approx(reference) if label in y else None)
    assert "per_class_f1" in result.model_dump()


# ----- collapse


@given(st.integers(2, 30), st.integers(2, 12), st.integers(0, 100))
def test_effective_rank_is_that_of_a_singular_value_decomposition(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = (rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * 10 ** rng.uniform(-2, 2, d)).astype(np.float32)
    scaled = (z - z.mean(axis=0, dtype=np.float64)) / z.std(axis=0, dtype=np.float64)
    values = np.linalg.svd(scaled, compute_uv=False)
    shares = values[values > 1e-9] / values.sum()
    assert effective_rank(z) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert effective_rank(3 * z + 1) == pytest.approx(effective_rank(z), rel=1e-2)


def test_effective_rank_of_known_cases() -> None:
    rng = np.random.default_rng(0)
    assert effective_rank(rng.standard_normal((20_000, 16)).astype(np.float32)) == pytest.approx(16, rel=0.01)
    line = np.outer(rng.standard_normal(500), rng.standard_normal(8)).astype(np.float32)
    assert effective_rank(line) == pytest.approx(1, abs=1e-2)
    assert effective_rank(np.ones((50, 4), np.float32)) == 0


def test_collapsed_embeddings_are_recorded_and_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    split = load(DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE))
    rng = np.random.default_rng(0)
    healthy = tuple(rng.standard_normal((len(part), 12)).astype(np.float32) for part in split)
    collapsed = tuple(np.concatenate([z[:, [0, 0, 0]], 5 + 1e-4 * z[:, 3:]], axis=1) for z in healthy)
    with caplog.at_level(logging.WARNING):
        found = probe(Representation(lambda seed: healthy), *split, seeds=[0], regimes=["1"]).embeddings
        assert found == spread(healthy[0])
        assert found is not None and found.warnings == []
        assert not caplog.records
        bad = probe(Representation(lambda seed: collapsed), *split, seeds=[0], regimes=["1"]).embeddings
    assert bad is not None
    assert bad.constant == 9
    np.testing.assert_allclose(bad.std, collapsed[0].std(axis=0), rtol=1e-3)
    assert [record.getMessage() for record in caplog.records] == [f"synthetic: {text}" for text in bad.warnings]
    assert "effective rank of 1.0 in 12 dimensions" in bad.warnings[0]
    assert "9 of 12 dimensions" in bad.warnings[1]
