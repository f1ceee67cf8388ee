"""The probe's command line: runs and baselines in, reports and one table out."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from centralized_baseline.probe import main
from shared.checkpoint import EncoderCard, load_encoder, save_encoder
from shared.config import load_config
from shared.data import load
from shared.data.statistics import ChannelStatistics
from shared.encoders import build_encoder
from shared.errors import UserError
from shared.evaluate import ProbeReport, encoded, estimate_norm_statistics, paired_difference, probe
from shared.seeding import seeded_initialisation

YAML = """
name: tiny
data: {name: synthetic}
encoder: {width: 4}
"""
FEW = ["--seeds", "2", "--regimes", "1", "all"]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDHAR_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML)
    return path


def make_run(folder: Path, config_file: Path, norm_statistics: str = "included", overrides: Sequence[str] = ()) -> Path:
    """Write a run folder with an encoder that has seen some data, as training leaves one."""
    config = load_config(config_file, overrides)
    train, _ = load(config.data)
    with seeded_initialisation(config.seed):
        encoder = build_encoder(config.encoder, train.meta.spec)
    statistics = ChannelStatistics.of(train)
    encoder.standardise(statistics.mean, statistics.std)
    if norm_statistics == "included":
        estimate_norm_statistics(encoder, train.x)
    card = EncoderCard.describe(encoder, train.meta, statistics, config.digest("centralized"), norm_statistics)
    save_encoder(folder, encoder, card)
    (folder / "config.yaml").write_text(config.to_yaml())
    return folder


def read(path: Path) -> ProbeReport:
    return ProbeReport.model_validate_json(path.read_text())


@pytest.mark.slow
def test_a_run_beside_all_baselines(runs: Path, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(runs / "mine", config_file)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    main(["--encoder", str(run), "random", "features", "raw", "--config", str(config_file), *FEW])

    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name != "probe.json"} == before
    folders = ("mine", "tiny-random", "tiny-features", "tiny-raw")
    assert sorted(path.name for path in runs.iterdir()) == sorted(folders)
    reports = {name: read(runs / name / "probe.json") for name in folders}
    assert all(report.seeds == [0, 1] and report.regimes == ["1", "all"] for report in reports.values())
    assert reports["tiny-raw"].dim == 6 * 64

    split = load(load_config(config_file).data)
    encoder, _ = load_encoder(run)
    direct = probe(encoded(encoder, *split), *split, seeds=[0, 1], regimes=["1", "all"])
    assert reports["mine"] == direct

    printed = capsys.readouterr().out
    for name, report in reports.items():
        accuracy = json.loads((runs / name / "probe.json").read_text())["summary"]["linear"]["all"]["accuracy"]
        assert f"{100 * accuracy['mean']:.1f}" in printed
        assert accuracy["mean"] == report.summary()["linear"]["all"]["accuracy"]["mean"]


@pytest.mark.slow
def test_trainings_that_differ_by_their_seed_are_one_row(
    runs: Path, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = ["included", "missing", "included"]
    series = [
        make_run(
            runs / f"mine-{seed}", config_file, policy, overrides=[f"seed={seed + 5}", f"train.threads={seed + 1}"]
        )
        for seed, policy in enumerate(policies)
    ]
    protocols = ["linear", "finetune"]
    main(["--encoder", str(runs / "mine-{seed}"), str(series[0]), *FEW, "--protocols", *protocols])
    report = read(runs / "mine-seeds" / "probe.json")
    assert report.trainings == ["../mine-0", "../mine-1"]
    assert read(series[0] / "probe.json").trainings == []
    table = capsys.readouterr().out.split("wrote")[-1]
    assert "mine-{seed}" in "".join(table.split())

    split = load(load_config(config_file).data)
    for seed, (run, policy) in enumerate(zip(series[:2], policies, strict=False)):
        encoder, _ = load_encoder(run)
        if policy == "missing":
            estimate_norm_statistics(encoder, split[0].x)
        alone = probe(encoded(encoder, *split), *split, seeds=[seed], regimes=["1", "all"], protocols=protocols)
        assert [result for result in report.results if result.seed == seed] == alone.results
    first, second = report.of("all")
    assert first.confusion != second.confusion


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=0"], r"mine-0 and \S+mine-1 must differ by their seeds; found 0 in both"),
        (["seed=1", "centralized.batch_size=8"], r"by their seeds alone; found centralized.batch_size: 128 -> 8$"),
    ],
)
def test_a_series_must_be_one_configuration_with_several_seeds(
    runs: Path, config_file: Path, overrides: list[str], message: str
) -> None:
    make_run(runs / "mine-0", config_file)
    make_run(runs / "mine-1", config_file, overrides=[*overrides, "name=another"])
    with pytest.raises(UserError, match=message):
        main(["--encoder", str(runs / "mine-{seed}"), "centralized.batch_size=64", *FEW])
    assert not (runs / "mine-seeds").exists()


def test_a_series_must_be_trained_alike(runs: Path, config_file: Path) -> None:
    make_run(runs / "mine-0", config_file)
    (make_run(runs / "mine-1", config_file, overrides=["seed=1"]) / "exchange.json").write_text("{}")
    with pytest.raises(UserError, match="found one federated and one centralized"):
        main(["--encoder", str(runs / "mine-{seed}"), *FEW])


def test_the_report_of_a_series_is_in_the_way_of_no_run(runs: Path, config_file: Path) -> None:
    for name, seed in (("0", 0), ("1", 1), ("seeds", 2)):
        make_run(runs / f"mine-{name}", config_file, overrides=[f"seed={seed}"])
    with pytest.raises(UserError, match=r"mine-seeds/probe\.json, in the folder of another run"):
        main(["--encoder", str(runs / "mine-{seed}"), *FEW])
    with pytest.raises(UserError, match="must be in the last part of a path"):
        main(["--encoder", str(runs / "{seed}" / "mine"), *FEW])


def test_a_training_that_a_series_lacks_is_named(runs: Path, config_file: Path) -> None:
    make_run(runs / "mine-0", config_file)
    with pytest.raises(UserError, match=r"2 run folders, one for each of --seeds 2; found none called mine-1$"):
        main(["--encoder", str(runs / "mine-{seed}"), *FEW])


@pytest.mark.slow
def test_protocols_apply_where_they_can(runs: Path, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(runs / "mine", config_file)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    candidates = ["raw", str(run), "supervised", "--config", str(config_file)]
    main(["--encoder", *candidates, "--protocols", "linear", "knn", "finetune", "--seeds", "1", "--regimes", "1"])

    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name != "probe.json"} == before
    reports = {name: read(runs / name / "probe.json") for name in ("mine", "tiny-raw", "tiny-supervised")}
    assert {name: report.protocols for name, report in reports.items()} == {
        "mine": ["linear", "knn", "finetune"],
        "tiny-raw": ["linear", "knn"],
        "tiny-supervised": ["supervised"],
    }
    assert reports["mine"].embeddings is not None
    assert reports["mine"].embeddings.effective_rank > 1
    assert reports["tiny-supervised"].embeddings is None
    assert reports["tiny-supervised"].dim == reports["mine"].dim

    printed = " ".join(capsys.readouterr().out.split())
    assert "raw: finetune left out, judged by linear, knn" in printed
    for protocol, title in (("linear", "Linear probe"), ("knn", "Nearest neighbours"), ("finetune", "Fine-tuned")):
        assert title in printed
        difference = paired_difference(reports["tiny-supervised"], reports["mine"], "1", protocol)
        if protocol == "finetune":
            assert f"supervised {100 * difference[0]:+.1f} {100 * difference[1]:+.1f}" in printed
    assert printed.count("Difference to raw") == 2


def test_out_and_overrides(runs: Path, config_file: Path, tmp_path: Path) -> None:
    run = make_run(runs / "mine", config_file)
    main(["--encoder", str(run), "data.holdout=[1,2]", "--out", str(tmp_path / "elsewhere"), *FEW])
    report = read(tmp_path / "elsewhere" / "mine" / "probe.json")
    assert (report.train_people, report.test_people) == (["3", "4"], ["1", "2"])
    assert not (run / "probe.json").exists()


def test_missing_norm_statistics_are_estimated_on_training_windows(runs: Path, config_file: Path) -> None:
    with_statistics = make_run(runs / "with", config_file)
    without = make_run(runs / "without", config_file, norm_statistics="missing")
    assert not torch.equal(*(_running_mean(run) for run in (with_statistics, without)))
    main(["--encoder", str(with_statistics), str(without), *FEW])
    assert read(with_statistics / "probe.json") == read(without / "probe.json")


def _running_mean(run: Path) -> torch.Tensor:
    return next(v for k, v in load_encoder(run)[0].state_dict().items() if k.endswith("running_mean"))


def test_an_encoder_that_does_not_fit_the_data_is_refused_by_name(runs: Path, config_file: Path) -> None:
    run = make_run(runs / "mine", config_file)
    with pytest.raises(UserError, match=r"'watch'.*'synthetic';.*missing channels: gyro_x"):
        main(["--encoder", str(run), "data.name=watch", "data.channels=[total_acc_x,total_acc_y,total_acc_z]", *FEW])
    assert not (run / "probe.json").exists()


def test_an_encoder_is_judged_on_another_data_set_whose_windows_are_brought_to_it(
    runs: Path, config_file: Path
) -> None:
    run = make_run(runs / "mine", config_file)
    main(["--encoder", str(run), "data.name=watch", *FEW])
    report = read(run / "probe.json")
    assert (report.data, report.test_people) == ("watch", ["8", "9", "10"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["featurs"], r"unknown encoder 'featurs' \(did you mean 'features'\?\)"),
        (["raw"], "'raw' needs --config FILE"),
        (["raw", "--config", "{config}", "--seeds", "0"], "--seeds must be at least 1, found 0"),
        (["raw", "--config", "{config}", "--regimes", "1", "some"], "unknown label regime 'some'"),
        (["raw", "--config", "{config}", "--protocols", "lnear"], r"unknown protocol 'lnear' \(did you mean 'linear'"),
        (
            ["raw", "--config", "{config}", "--protocols", "finetune"],
            "encoder 'raw': protocols finetune train a network",
        ),
        (["raw", "--config", "{config}", "data.nme=watch"], "did you mean 'data.name'|did you mean 'name'"),
        (["{empty}"], "config.yaml"),
        (["{empty}", "--method", "byol"], "--method byol is for baselines"),
        (["raw", "--config", "{config}", "--method", "bjol"], r"unknown method 'bjol' \(did you mean 'byol'"),
    ],
)
def test_bad_input_is_one_readable_error(
    arguments: list[str], message: str, config_file: Path, tmp_path: Path, runs: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"config": config_file, "empty": tmp_path / "empty"}
    with pytest.raises(UserError, match=message):
        main(["--encoder", *(argument.format(**places) for argument in arguments)])
    assert not runs.exists()


def test_an_unfinished_run_has_no_encoder_yet(runs: Path, config_file: Path) -> None:
    run = make_run(runs / "mine", config_file)
    (run / "encoder.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no encoder: expected encoder.safetensors"):
        main(["--encoder", str(run), *FEW])


def test_runs_of_one_name_cannot_overwrite_each_other(runs: Path, config_file: Path, tmp_path: Path) -> None:
    first, second = make_run(runs / "a" / "mine", config_file), make_run(runs / "b" / "mine", config_file)
    with pytest.raises(UserError, match="overwrite each other"):
        main(["--encoder", str(first), str(second), "--out", str(tmp_path / "out"), *FEW])
    assert not (tmp_path / "out").exists()
