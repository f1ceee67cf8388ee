"""Exported files give what PyTorch gives, from raw windows, in any batch, and say what they are."""

import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import unprivileged
from numpy.typing import NDArray
from rich.console import Console

from shared.checkpoint import EncoderCard, save_encoder
from shared.config import load_config
from shared.data import load
from shared.data.folder import write_folder
from shared.data.spec import InputSpec
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Meta, Windows
from shared.encoders import ANY_SENSORS, ENCODERS, build_encoder
from shared.errors import UserError
from shared.evaluate import embed, estimate_norm_statistics, fit_linear_probe
from shared.export import (
    FORMATS,
    INT8_ENCODERS,
    Check,
    Source,
    build_int8,
    build_onnx,
    build_torchscript,
    check,
    export,
    load_onnx,
    load_torchscript,
    main,
    prepare,
    print_table,
)
from shared.predict import METADATA_KEY, ModelCard
from shared.seeding import seeded_initialisation


def make_run(
    folder: Path,
    data: str = "name: synthetic",
    encoder: str = "{name: fcn, width: 8, pooling: mean}",
    norm_statistics: str = "included",
) -> Path:
    """Write a run folder with an encoder that was never trained, but has the statistics of its data."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"name: tiny\ndata: {{{data}}}\nencoder: {encoder}\n")
    config = load_config(folder / "config.yaml")
    train, _ = load(config.data)
    with seeded_initialisation(1):
        network = build_encoder(config.encoder, train.meta.spec)
    statistics = ChannelStatistics.of(train)
    network.standardise(statistics.mean, statistics.std)
    if norm_statistics == "included":
        estimate_norm_statistics(network, train.x)
    card = EncoderCard.describe(network, train.meta, statistics, config.digest("centralized"), norm_statistics)
    save_encoder(folder, network, card)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return prepare(make_run(tmp_path_factory.mktemp("runs") / "tiny"), [], ["onnx"])


def outputs(content: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run an ONNX file as a stranger would, with nothing but onnxruntime."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("windows", "tensor(float)", ["N", *x.shape[1:]])
    ]
    found: NDArray[np.float32] = session.run(None, {"windows": x})[0]
    return found


@pytest.mark.numerics
@pytest.mark.parametrize(
    "more", ["norm: batch", "norm: group", "norm: group, hidden: 12", "pooled_blocks: every, hidden: 12"]
)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_gives_its_embeddings_of_raw_windows_in_any_batch(name: str, more: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", encoder=f"{{name: {name}, width: 8, {more}}}")
    source = prepare(run, [], ["onnx", "torchscript"])
    files = {artifact.file: artifact.content for artifact in build_onnx(source) + build_torchscript(source)}
    assert set(files) == {"encoder.onnx", "classifier.onnx", "encoder.pt"}
    for n in (1, 7, len(source.test)):
        x = source.test.x[:n]
        z = embed(source.encoder, x)
        np.testing.assert_allclose(outputs(files["encoder.onnx"], x), z, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(load_torchscript(files["encoder.pt"])(x), z, rtol=1e-4, atol=1e-4)
        p = source.probe.classifier.predict_proba(source.probe.scaler.transform(z))
        np.testing.assert_allclose(outputs(files["classifier.onnx"], x), p, atol=1e-4)


def of_classes(source: Source, classes: list[int]) -> Source:
    """The same encoder, with a probe that has seen some of the classes only."""
    train = source.train[np.isin(source.train.y, classes)]
    return replace(source, probe=fit_linear_probe(train, embed(source.encoder, train.x), "all", 0))


@pytest.mark.parametrize("classes", [[0, 1, 2, 3], [0, 2, 3], [1, 3]])
def test_a_classifier_names_the_classes_that_its_probe_knows(source: Source, classes: list[int]) -> None:
    fewer = of_classes(source, classes)
    content = next(artifact.content for artifact in build_onnx(fewer) if artifact.kind == "classifier")
    p = outputs(content, fewer.test.x)
    expected = fewer.probe.classifier.predict_proba(fewer.probe.scaler.transform(embed(fewer.encoder, fewer.test.x)))
    np.testing.assert_allclose(p, expected, atol=1e-4)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert card_of(content).classes == tuple(source.train.meta.classes[k] for k in classes)


def card_of(content: bytes) -> ModelCard:
    model = onnx.load_from_string(content)
    return ModelCard.from_json({entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY])


@pytest.mark.parametrize("build", [build_onnx, build_int8])
def test_a_file_says_what_it_is_and_asks_for_standard_operators(source: Source, build: Callable[..., list]) -> None:
    for artifact in build(source):
        card, meta = card_of(artifact.content), source.train.meta
        assert (card.kind, card.data, card.spec) == (artifact.kind, "synthetic", meta.spec)
        assert (card.classes, card.config_digest) == (meta.classes, source.card.config_digest)
        assert [entry.domain for entry in onnx.load_from_string(artifact.content).opset_import] == [""]


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated")
def test_torchscript_carries_its_card(source: Source) -> None:
    (artifact,) = build_torchscript(source)
    extra = {METADATA_KEY: ""}
    torch.jit.load(io.BytesIO(artifact.content), _extra_files=extra)
    assert ModelCard.from_json(extra[METADATA_KEY]).kind == "encoder"


# Untrained encoders leave many windows between two classes, most of all the residual network.
@pytest.mark.numerics
@pytest.mark.parametrize(
    ("encoder", "least"),
    [
        ("name: fcn", 0.99),
        ("name: fcn, hidden: 128", 0.99),
        ("name: fcn, pooled_blocks: every", 0.99),
        ("name: resnet1d", 0.97),
        ("name: transformer", 0.99),
    ],
)
def test_8_bits_keep_the_decisions_on_real_windows_of_new_people(encoder: str, least: float, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", data="name: watch", encoder=f"{{{encoder}, width: 32}}")
    exported = export(prepare(run, [], ["onnx", "int8"]), ["onnx", "int8"])
    float32, int8 = ([check for _, check in exported if check.format == name] for name in ("onnx", "int8"))
    for exact, rounded in zip(float32, int8, strict=True):
        assert exact.agreement > 0.999
        assert rounded.agreement > least
        assert rounded.passed == (rounded.agreement >= 0.99)
        assert abs(rounded.accuracy - exact.accuracy) < 0.015
        assert rounded.bytes < 0.5 * exact.bytes
        assert exact.largest_difference < 1e-4 < rounded.largest_difference
        assert min(exact.milliseconds, rounded.milliseconds) > 0


def test_8_bits_make_a_small_file_with_standardisation_and_pooling_in_float32(tmp_path: Path) -> None:
    source = prepare(make_run(tmp_path / "run", encoder="{name: fcn, width: 64, log_input: 0.03}"), [], ["int8"])
    small, large = build_int8(source)[0].content, build_onnx(source)[0].content
    assert len(small) < 0.4 * len(large)
    model = onnx.load_from_string(small)
    kinds = [node.op_type for node in model.graph.node if node.op_type != "DequantizeLinear"]
    first, last = kinds.index("QuantizeLinear"), len(kinds) - kinds[::-1].index("QuantizeLinear")
    assert kinds[:first] == ["Sub", "Div", "ReduceMean", "Sub", "Div", "Asinh", "Div", "Concat", "Conv", "Relu"]
    assert kinds[last:][:2] == ["ReduceMean", "ReduceMax"]
    assert len(small) < 1.25 * sum(parameter.numel() for parameter in source.encoder.parameters())
    weights = {
        tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 3 and tensor.dims[0] > 1
    }
    assert sorted(tensor.dims[0] for tensor in weights.values()) == [64, 128, 256]
    for name, tensor in weights.items():
        assert tensor.data_type == onnx.TensorProto.INT8
        scale = next(t for t in model.graph.initializer if t.name == name.replace("_quantized", "_scale"))
        assert list(scale.dims) == [tensor.dims[0]]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_8_bits_store_the_weights_of_a_hidden_layer_too(norm: str, tmp_path: Path) -> None:
    encoder = f"{{name: fcn, width: 8, norm: {norm}, hidden: 32}}"
    source = prepare(make_run(tmp_path / "run", encoder=encoder), [], ["int8"])
    for artifact in build_int8(source):
        model = onnx.load_from_string(artifact.content)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        (name,) = (name for name, tensor in tensors.items() if list(tensor.dims) == [96, 32])
        assert tensors[name].data_type == onnx.TensorProto.INT8
        assert list(tensors[name.replace("_quantized", "_scale")].dims) == [32]
        stored = onnx.numpy_helper.to_array(tensors[name])
        assert (abs(stored.astype(int)).max(axis=0) >= 63).all()  # each unit uses its whole range, of seven bits


def write_people(folder: Path, labels: list[list[int]], channels: int = 3, samples: int = 32) -> str:
    """Write a folder of own windows, with these labels for each training person, and return its overrides."""
    rng = np.random.default_rng(0)
    names = tuple(f"channel_{c}" for c in range(channels))
    meta = Meta("own", InputSpec(channels=names, units=("V",) * channels, size=(samples,), rate=50.0), ("rest", "move"))

    def windows(person: int, y: list[int]) -> Windows:
        scale = 0.1 + np.array(y)[:, None, None]
        x = rng.normal(0, scale, (len(y), channels, samples)).astype(np.float32)
        return Windows(x, np.array(y), np.full(len(y), str(person)), meta)

    people = [windows(person, y) for person, y in enumerate(labels, 1)]
    write_folder(folder, functools.reduce(merged, people), windows(len(people) + 1, [0, 1, 0]))
    return f"name: folder, path: {folder}"


@pytest.mark.parametrize("n", [3, 4, 255, 256, 257, 514, 770, 1025])
def test_any_number_of_training_windows_is_exported(n: int, tmp_path: Path) -> None:
    labels = [0, 1] * n
    run = make_run(tmp_path / "run", write_people(tmp_path / "data", [labels[: n // 2], labels[: n - n // 2]]))
    main([str(run), "--format", "onnx", "int8", "torchscript"])
    report = json.loads((run / "export.json").read_text())
    assert [row["passed"] for row in report["files"]] == [True] * 5


@pytest.mark.parametrize("n", [1, 2])
def test_one_training_window_is_enough_for_the_ranges_of_8_bits(n: int, source: Source) -> None:
    few = replace(source, train=source.train[:n])
    exact, rounded = (build(few)[0].content for build in (build_onnx, build_int8))
    x = few.train.x
    np.testing.assert_allclose(outputs(rounded, x), outputs(exact, x), atol=0.1 * np.abs(outputs(exact, x)).max())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0]], "labels of at least 2 people and 2 classes, found 1 people and 1 classes"),
        ([[0, 1]], "labels of at least 2 people and 2 classes, found 1 people and 2 classes"),
        ([[0], [0]], "labels of at least 2 people and 2 classes, found 2 people and 1 classes"),
        ([[0], [1]], "labels of 2 classes from one person, or of a third person; found 2 people with one class each"),
    ],
)
def test_too_few_windows_for_the_probe_are_one_readable_error(
    labels: list[list[int]], message: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", write_people(tmp_path / "data", labels))
    before = sorted(run.iterdir())
    with pytest.raises(UserError, match=message):
        main([str(run)])
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "channels", "samples"),
    [
        (name, channels, samples)
        for name in ENCODERS
        for channels, samples in ((1, 33), (3, 127), (6, 32))
        if channels % 3 == 0 or name not in ANY_SENSORS
    ],
)
def test_windows_of_any_size_are_exported(name: str, channels: int, samples: int, tmp_path: Path) -> None:
    data = write_people(tmp_path / "data", [[0, 1, 0, 1, 0]] * 2, channels, samples)
    if name in ANY_SENSORS:
        description = tmp_path / "data" / "dataset.json"
        worn = [f"{place}_body_acc_{axis}" for place in ("wrist", "waist") for axis in "xyz"][:channels]
        known = json.loads(description.read_text()) | {"channels": worn, "units": ["g"] * channels}
        description.write_text(json.dumps(known))
    run = make_run(tmp_path / "run", data, encoder=f"{{name: {name}, width: 8, hidden: 8}}")
    formats = ["onnx", "torchscript", *(["int8"] if name in INT8_ENCODERS else [])]
    checks = [check for _, check in export(prepare(run, [], formats), formats)]
    assert len(checks) == (5 if name in INT8_ENCODERS else 3)
    for row in checks:
        assert row.agreement == 1
        assert row.largest_difference < 1e-4 or row.format == "int8"


def test_test_people_have_no_part_in_what_is_exported(source: Source) -> None:
    other = replace(source.test, x=7 * source.test.x[::-1].copy())
    for build in (build_onnx, build_int8):
        assert build(source) == build(replace(source, test=other))


def test_missing_norm_statistics_are_estimated_on_training_windows_first(tmp_path: Path) -> None:
    complete = prepare(make_run(tmp_path / "with"), [], ["onnx"])
    estimated = prepare(make_run(tmp_path / "without", norm_statistics="missing"), [], ["onnx"])
    assert build_onnx(complete)[0] == build_onnx(estimated)[0]


def test_the_command_writes_and_reports_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    main([str(run), "seed=3"])
    main([str(run), "--format", "onnx", "int8", "torchscript"])
    files = ["encoder.onnx", "classifier.onnx", "encoder.int8.onnx", "classifier.int8.onnx", "encoder.pt"]
    assert {path.name for path in run.iterdir()} == {*before, *files, "export.json"}
    assert {name: (run / name).read_bytes() for name in before} == before

    report = json.loads((run / "export.json").read_text())
    assert [row["file"] for row in report["files"]] == files
    assert set(report["versions"]) == {"torch", "onnx", "onnxruntime"}
    _, test = load(load_config(run / "config.yaml").data)
    assert (report["test_people"], report["test_windows"]) == (test.people, len(test))
    printed = capsys.readouterr().out
    for row in report["files"]:
        assert row["bytes"] == (run / row["file"]).stat().st_size
        assert row["passed"] and row["agreement"] >= row["required_agreement"] == FORMATS[row["format"]].agreement
        assert f"{100 * row['accuracy']:.2f} %" in printed
        assert row["file"] in printed


def test_agreement_and_difference_are_of_this_file(source: Source) -> None:
    """A file of another encoder must not pass for this one's."""
    with seeded_initialisation(2):
        other = build_encoder(source.card.architecture, source.train.meta.spec)
    other.standardise(source.card.mean, source.card.std)
    artifact = build_onnx(replace(source, encoder=other.eval()))[0]
    z = embed(source.encoder, source.test.x)
    checked = check(source, z, "onnx", artifact)
    found = load_onnx(artifact.content)(source.test.x)
    assert checked.agreement == (source.probe.predict(found) == source.probe.predict(z)).mean() < 0.999
    assert checked.largest_difference == pytest.approx(np.abs(found - z).max(), rel=1e-4)
    assert not checked.passed


def test_a_broken_promise_is_said_in_the_table(source: Source) -> None:
    kept = Check("encoder.onnx", "onnx", 1000, 1e-6, 1.0, 0.999, True, 0.95, 0.1)
    broken = Check("encoder.int8.onnx", "int8", 500, 2.0, 0.9812, 0.99, False, 0.94, 0.1)
    console = Console(file=io.StringIO(), width=140)
    print_table(source, [kept, broken], console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert any("encoder.int8.onnx" in line and "WARNING: 98.12 %, must be at least 99 %" in line for line in lines)
    assert not any("encoder.onnx" in line and "WARNING" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnxx"], r"unknown format 'onnxx' \(did you mean 'onnx'\?\); expected one of: onnx, int8"),
        (["data.channels=[total_acc_x]"], "the encoder does not fit the data set"),
        (["data.nam=watch"], "unknown key 'data.nam'"),
    ],
)
def test_bad_input_is_one_readable_error_and_writes_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = sorted(run.iterdir())
    with pytest.raises(UserError, match=message):
        main([str(run), *arguments])
    assert sorted(run.iterdir()) == before


def test_an_lstm_has_no_8_bit_format(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", encoder="{name: conv_lstm, width: 4}")
    with pytest.raises(UserError, match=r"int8 is for the encoders fcn, .*, sensors, found conv_lstm"):
        main([str(run)])
    assert not (run / "encoder.onnx").exists()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml"):
        main([str(tmp_path)])


def test_data_without_test_people_cannot_be_checked(tmp_path: Path, source: Source) -> None:
    everybody = merged(source.train, source.test)
    write_folder(tmp_path / "data", everybody, everybody[:0])
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="synthetic has no test people"):
        main([str(run), "data.name=folder", f"data.path={tmp_path / 'data'}"])


def merged(first: Windows, second: Windows) -> Windows:
    return replace(
        first,
        x=np.concatenate([first.x, second.x]),
        y=np.concatenate([first.y, second.y]),
        person=np.concatenate([first.person, second.person]),
    )


@pytest.mark.parametrize("file", ["encoder.onnx", "classifier.int8.onnx", "export.json"])
def test_where_one_file_cannot_be_written_all_stay_as_they_were(file: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    main([str(run)])
    (run / file).unlink()
    (run / file).mkdir()
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    with pytest.raises(UserError, match=f"cannot write .*{file}: it is a folder or a device"):
        main([str(run), "seed=3"])
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_a_read_only_run_folder_is_one_readable_error(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = sorted(run.iterdir())
    run.chmod(0o555)
    command = [*unprivileged(), sys.executable, "-m", "shared.export", str(run), "--format", "onnx"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    run.chmod(0o755)
    assert (done.returncode, sorted(run.iterdir())) == (2, before)
    assert done.stderr == f"error: cannot write {run / 'export.json'}: Permission denied\n"
