"""The benchmark of transfer: what is pre-trained, what is judged on what, and what is refused."""

from pathlib import Path

import pytest

from benchmarks.transfer import main, pretrainings
from shared.checkpoint import read_card
from shared.errors import UserError
from shared.evaluate import ProbeReport

TINY = ["encoder.width=4", "encoder.pooled_blocks=last", "centralized.epochs=1", "train.precision=float32"]


def test_encoders_are_pre_trained_on_each_data_set_on_all_and_on_all_but_each() -> None:
    found = {one.name: one.sets for one in pretrainings(["a", "b", "c"])}
    assert found == {
        "a": ("a",), "b": ("b",), "c": ("c",), "all": ("a", "b", "c"),
        "all-but-a": ("b", "c"), "all-but-b": ("a", "c"), "all-but-c": ("a", "b"),
    }  # fmt: skip
    assert [one.name for one in pretrainings(["a", "b"])] == ["a", "b", "all"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sets", "watch"], "--sets must name two data sets or more, each once; found watch"),
        (["--sets", "watch", "watch"], "each once; found watch watch"),
        (["--sets", "watch", "uci_hat"], r"unknown data set 'uci_hat' \(did you mean 'uci_har'"),
        (["--protocols", "knn"], "--protocols must name linear"),
        (["--seeds", "0"], "--seeds and --jobs must be at least 1"),
        (["encoder.name=fcn"], "encoder 'fcn' takes those that it was built for: set encoder.name=sensors"),
        (["data.holdout=[3]"], "data.holdout: expected people of data sets, as watch/3; found 3"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(arguments)


@pytest.mark.slow
def test_encoders_are_judged_on_data_sets_that_they_have_not_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDHAR_RUNS", str(tmp_path / "runs"))
    few = ["--sets", "watch", "synthetic", "--seeds", "1", "--ways", "centralized", "--out", str(tmp_path)]
    arguments = [*few, *TINY, "data.holdout=[watch/1, watch/2, synthetic/4]"]
    main(arguments)
    assert "training: transfer-all-centralized-0" in capsys.readouterr().out
    card = read_card(tmp_path / "runs" / "transfer-all-centralized-0")
    assert card.data == "synthetic + watch"
    on = tmp_path / "runs" / "transfer-on-watch"
    for name in ("features", "random", "synthetic-centralized-seeds"):
        folder = next(path for path in on.iterdir() if path.name.endswith(name))
        report = ProbeReport.model_validate_json((folder / "probe.json").read_bytes())
        assert report.test_people == ["1", "2"]
        assert report.train_people == ["3", "4", "5", "6", "7"]
        assert {(one.protocol, one.regime) for one in report.results} == {
            (protocol, regime) for protocol in ("linear", "knn") for regime in ("1", "all")
        }
    text = (tmp_path / "transfer.md").read_text()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.split("###")[1].splitlines()[4:] if line]
    assert rows == ["features", "random", "watch (in domain)", "synthetic", "all"]
    assert text.count("| synthetic | centralized | all | ") == 1
    assert (tmp_path / "transfer.svg").read_text().startswith("<?xml")
    main(arguments)
    told = capsys.readouterr().out
    assert "training: " not in told and "judging: " not in told, "nothing was left to do"
    with pytest.raises(UserError, match=r"made with other settings \(encoder.width: 4 -> 8"):
        main([*arguments, "encoder.width=8"])
