"""Take an encoder out of fedhar: ``python -m shared.export runs/NAME --format onnx int8 torchscript``.

Every exported file takes raw windows, float32 (N, C, T) in the units and at the rate of the encoder's card, any N: the
standardisation is inside. Formats:

- ``onnx``: ``encoder.onnx`` (embeddings) and ``classifier.onnx`` (probabilities of the activities), float32.
- ``int8``: ``encoder.int8.onnx`` and ``classifier.int8.onnx``. The weights of the backbone and of a hidden layer (a
  scale per output channel) and their activations (ranges of training windows) are 8-bit integers; the standardisation,
  the log-scaled input, the arithmetic of the first convolution, the pooling and the probe stay float32.
- ``torchscript``: ``encoder.pt`` for ``torch.jit.load``, which reads it with TorchScript's own reader and no Python
  pickle. It is a program for PyTorch all the same: load files of those you trust only.

An ONNX file's metadata and a TorchScript file's extra file hold a ``ModelCard`` as JSON under ``METADATA_KEY``.

Each file is run on the test people's windows and compared with PyTorch: what a user gets is what was measured. The
probe is the one of ``shared.evaluate``, fitted to all labels of the training people.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from torch import Tensor, nn
from torch.onnx.utils import register_custom_op_symbolic

from shared.checkpoint import EncoderCard, load_encoder, read_card
from shared.config import load_config
from shared.data import load
from shared.data.windows import Windows
from shared.encoders import Encoder
from shared.errors import UserError, choose, run_command
from shared.evaluate import (
    Classifier,
    LinearProbe,
    embed,
    estimate_norm_statistics,
    fit_linear_probe,
    linear_head,
    unseen_classes,
    with_turned_copies,
)
from shared.files import write_together
from shared.predict import INPUT, METADATA_KEY, ModelCard
from shared.seeding import make_generator

REPORT = "export.json"

OPSET = 17
register_custom_op_symbolic("aten::asinh", lambda graph, x: graph.op("Asinh", x), OPSET)  # torch lacks the word only
OUTPUTS = {"encoder": "embeddings", "classifier": "probabilities"}
"""Name of the output by the kind of model."""

CALIBRATION_WINDOWS = 1024
CALIBRATION_PERCENTILE = 99.95
"""How many of an activation's values, in percent, its 8 bits reach on either side; rare peaks are cut off. Among 99.8
to 100 it kept most decisions about training windows, with trained and untrained encoders of all kinds."""
QUANTISED_NODES = ("Conv", "Relu", "MatMul", "Gemm")
INT8_ENCODERS = ("fcn", "resnet1d", "transformer", "sensors")
"""Whose weights are those of convolutions and products; ONNX Runtime has no 8-bit LSTM with static ranges."""

BATCH = 256
WARM_UP, TIMED = 20, 300
"""Single windows that are run before, and while, the time is taken."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Raw windows (N, C, T) to embeddings or probabilities."""


@dataclass(frozen=True)
class Source:
    """What is exported, and the windows that it is calibrated and checked on.

    Args:
        encoder: In evaluation mode, on the CPU.
        card: What it expects.
        probe: Fitted to all labels of the training people.
        train: Training people's windows.
        test: Test people's windows.
    """

    encoder: Encoder
    card: EncoderCard
    probe: LinearProbe
    train: Windows
    test: Windows

    @property
    def models(self) -> dict[str, nn.Module]:
        """What is exported, by kind."""
        probe = self.probe.classifier
        classifier = Classifier(self.encoder, self.probe.scaler, linear_head(probe, probe.classes_.tolist()))
        return {"encoder": self.encoder, "classifier": nn.Sequential(classifier, nn.Softmax(dim=1)).eval()}

    def describe(self, kind: str) -> str:
        """Return the card of an exported model as JSON; a classifier names the classes that its probe knows."""
        known = self.probe.classifier.classes_ if kind == "classifier" else range(len(self.train.meta.classes))
        return ModelCard(
            kind=kind,
            data=self.card.data,
            spec=self.encoder.spec,
            classes=tuple(self.train.meta.classes[label] for label in known),
            config_digest=self.card.config_digest,
        ).model_dump_json()


class Artifact(NamedTuple):
    """An exported file: its name, what it is a model of, and its bytes."""

    file: str
    kind: str
    content: bytes


class Format(NamedTuple):
    """A way to export.

    Args:
        build: Makes the files.
        load: Makes a file's bytes runnable, on one thread.
        agreement: Share of the probe's decisions on test windows that must stay as they were.
    """

    build: Callable[[Source], list[Artifact]]
    load: Callable[[bytes], Run]
    agreement: float


@dataclass(frozen=True)
class Check:
    """How a file does on the test people's windows, beside PyTorch.

    Args:
        file: Its name.
        format: A key of ``FORMATS``.
        bytes: Its size.
        largest_difference: Of an encoder's embeddings or a classifier's probabilities, absolute.
        agreement: Share of the windows that the probe decides as it does with PyTorch.
        required_agreement: What its format promises.
        passed: Whether it keeps the promise.
        accuracy: Share of the labelled windows that are right; None where none is labelled.
        milliseconds: Median time of a single window on one thread.
    """

    file: str
    format: str
    bytes: int
    largest_difference: float
    agreement: float
    required_agreement: float
    passed: bool
    accuracy: float | None
    milliseconds: float


def main(arguments: list[str]) -> None:
    """Export the encoder of a run, check every file, write them all and print what was measured.

    Raises:
        UserError: A run without an encoder, an unknown format or one that the encoder cannot have, or bad data.
    """
    options = _parser().parse_args(arguments)
    console = Console()
    with console.status("fitting the probe", spinner="line"):
        source = prepare(options.run, options.overrides, options.format)
    with console.status("exporting and checking", spinner="line"):
        exported = export(source, options.format)
    checks = [check for _, check in exported]
    files = {artifact.file: artifact.content for artifact, _ in exported} | {REPORT: to_json(source, checks).encode()}
    write_together({options.run / name: content for name, content in files.items()})
    print_table(source, checks, console)
    console.print(f"wrote {options.run / REPORT}", highlight=False, markup=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m shared.export",
        description="Write a run's encoder, and a classifier made of it and a linear probe, for use without fedhar.",
        epilog="example: python -m shared.export runs/uci_har-federated-0 data.path=uci-har.zip --format onnx int8",
    )
    parser.add_argument("run", type=Path, help="run folder; the files are written into it")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to its configuration, as data.path")
    parser.add_argument(
        "--format", nargs="+", default=["onnx", "int8"], metavar="F", help=f"{', '.join(FORMATS)} (default: onnx int8)"
    )
    return parser


def prepare(run: Path, overrides: Sequence[str], formats: Sequence[str]) -> Source:
    """Load a run's encoder and data, and fit its probe.

    Raises:
        UserError: See ``main``; also data without test people, on whom nothing could be checked.
    """
    config = load_config(run / "config.yaml", overrides)
    card = read_card(run)
    _check_formats(formats, card.architecture.name)
    train, test = load(config.data)
    if not len(test):
        raise UserError(f"{test.meta.name} has no test people: exported files are checked on their windows")
    train, test = card.fit(train), card.fit(test)
    encoder, _ = load_encoder(run, train.meta.spec)
    if card.norm_statistics == "missing":
        estimate_norm_statistics(encoder, train.x)
    fitted = with_turned_copies(train, config.probe.turned_copies)
    probe = fit_linear_probe(fitted, embed(encoder, fitted.x), "all", config.seed, config.probe.turned_copies)
    return Source(encoder, card, probe, train, test)


def _check_formats(formats: Sequence[str], encoder: str) -> None:
    for name in formats:
        choose("format", FORMATS, name)
    if "int8" in formats and encoder not in INT8_ENCODERS:
        raise UserError(
            f"format int8 is for the encoders {', '.join(INT8_ENCODERS)}, found {encoder}: most of its weights would "
            "stay float32; use --format onnx"
        )


def export(source: Source, formats: Sequence[str]) -> list[tuple[Artifact, Check]]:
    """Build the files of the named formats in memory and check each of them."""
    with _one_thread():
        reference = embed(source.encoder, source.test.x)
        return [
            (artifact, check(source, reference, name, artifact))
            for name in dict.fromkeys(formats)
            for artifact in FORMATS[name].build(source)
        ]


def build_onnx(source: Source) -> list[Artifact]:
    """Return the float32 ONNX files."""
    return [
        Artifact(f"{kind}.onnx", kind, _described(_to_onnx(module, kind, source), source.describe(kind)))
        for kind, module in source.models.items()
    ]


def build_int8(source: Source) -> list[Artifact]:
    """Return the ONNX files with 8-bit backbones."""
    return [
        Artifact(
            f"{kind}.int8.onnx",
            kind,
            _described(_quantised(_to_onnx(module, kind, source), source.train), source.describe(kind)),
        )
        for kind, module in source.models.items()
    ]


def build_torchscript(source: Source) -> list[Artifact]:
    """Return the encoder as TorchScript."""
    content = io.BytesIO()
    with _exporting(), torch.no_grad():
        traced = torch.jit.trace(source.encoder, _example(source))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, content, {METADATA_KEY: source.describe("encoder")})
    return [Artifact("encoder.pt", "encoder", content.getvalue())]


def load_onnx(content: bytes) -> Run:
    """Return an ONNX model as a function."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = session.run(None, {INPUT: x})[0]
        return output

    return run


def load_torchscript(content: bytes) -> Run:
    """Return a TorchScript model as a function; the caller sees to the number of threads."""
    with _exporting():
        module = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            output: NDArray[np.float32] = module(torch.from_numpy(x)).numpy()
        return output

    return run


FORMATS: dict[str, Format] = {
    "onnx": Format(build_onnx, load_onnx, 0.999),
    "int8": Format(build_int8, load_onnx, 0.99),
    "torchscript": Format(build_torchscript, load_torchscript, 0.999),
}
"""Formats by name."""


def check(source: Source, reference: NDArray[np.float32], name: str, artifact: Artifact) -> Check:
    """Run a file on the test people's windows.

    Args:
        source: What was exported.
        reference: float32 (N, D), PyTorch's embeddings of the test windows.
        name: Of the format.
        artifact: The file.
    """
    chosen, test, probe = FORMATS[name], source.test, source.probe
    run = chosen.load(artifact.content)
    output = np.concatenate([run(part) for part in np.array_split(test.x, -(-len(test) // BATCH))])
    if artifact.kind == "classifier":
        expected = probe.classifier.predict_proba(probe.scaler.transform(reference))
        decided = probe.classifier.classes_[output.argmax(axis=1)]
    else:
        expected, decided = reference, probe.predict(output)
    agreement = float((decided == probe.predict(reference)).mean())
    return Check(
        file=artifact.file,
        format=name,
        bytes=len(artifact.content),
        largest_difference=float(np.abs(output - expected).max()),
        agreement=agreement,
        required_agreement=chosen.agreement,
        passed=agreement >= chosen.agreement,
        accuracy=float((decided == test.y)[test.labelled].mean()) if test.labelled.any() else None,
        milliseconds=_milliseconds(run, test.x),
    )


def to_json(source: Source, checks: Sequence[Check]) -> str:
    """Return what was measured, on what and with which versions, as ``export.json`` holds it."""
    report = {
        "data": source.test.meta.name,
        "test_people": source.test.people,
        "test_windows": len(source.test),
        "probe": {"labels": source.probe.labels, "C": source.probe.C},
        "versions": {module.__name__: module.__version__ for module in (torch, onnx, onnxruntime)},
        "files": [asdict(check) for check in checks],
    }
    return json.dumps(report, indent=2) + "\n"


def print_table(source: Source, checks: Sequence[Check], console: Console) -> None:
    """Print one row per file; one that breaks its format's promise is said to do so."""
    table = Table(
        Column("file", no_wrap=True),
        *(
            Column(name, justify="right")
            for name in ("kB", "ms a window", "largest difference", "accuracy", "agreement")
        ),
        title=f"Exported files beside PyTorch ({source.test.meta.name}, {len(source.test)} windows of "
        f"{len(source.test.people)} test people)",
        caption="one thread, one window at a time (median); agreement: decisions of the probe that stay the same",
        box=box.SIMPLE_HEAD,
    )
    for row in checks:
        agreement = f"{100 * row.agreement:.2f} %"
        warning = f"[bold red]WARNING: {agreement}, must be at least {100 * row.required_agreement:g} %[/]"
        table.add_row(
            escape(row.file),
            f"{row.bytes / 1000:.0f}",
            f"{row.milliseconds:.3f}",
            f"{row.largest_difference:.1e}",
            "-" if row.accuracy is None else f"{100 * row.accuracy:.2f} %",
            agreement if row.passed else warning,
        )
    console.print(table)
    for note in unseen_classes(source.train, source.test):
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def _to_onnx(module: nn.Module, kind: str, source: Source) -> onnx.ModelProto:
    """Trace a model to ONNX with a dynamic batch.

    PyTorch's older exporter is used: unlike the newer one it needs no packages beyond onnx.
    """
    output = OUTPUTS[kind]
    with _exporting(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            (_example(source),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[output],
            dynamic_axes={INPUT: {0: "N"}, output: {0: "N"}},
        )
        return onnx.load(path)


def _quantised(model: onnx.ModelProto, train: Windows) -> onnx.ModelProto:
    """Give the backbone 8-bit weights and activations (Jacob et al. 2018, section 2), by quantise-dequantise pairs.

    The first convolution computes in float32, with weights stored in 8 bits: 256 steps for the whole range of a sensor
    are too few to tell sitting from standing. Other weights use 7 of their 8 bits, because older x86 processors add
    pairs of products in 16 bits, where full ones overflow: the file then gives the same on every processor.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # the calibration chats
        original, prepared, quantised = (
            Path(folder) / f"{name}.onnx" for name in ("original", "prepared", "quantised")
        )
        onnx.save(model, original)
        quant_pre_process(original, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        backbone = [node for node in nodes if "backbone." in node.name]
        first = next(node for node in backbone if node.op_type == "Conv")
        hidden = [node for node in nodes if node.op_type in ("Gemm", "MatMul") and "/hidden." in node.input[0]]
        quantize_static(
            prepared,
            quantised,
            _Calibration(train),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED_NODES),
            nodes_to_quantize=[node.name for node in (*backbone, *hidden) if node is not first],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": CALIBRATION_PERCENTILE},
        )
        return _with_stored_weights(onnx.load(quantised), first.name)


def _with_stored_weights(model: onnx.ModelProto, convolution: str) -> onnx.ModelProto:
    """Store the weights of one convolution as 8-bit integers with a scale per output channel."""
    node = next(node for node in model.graph.node if node.name == convolution)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    values = onnx.numpy_helper.to_array(weights)
    scale = np.maximum(np.abs(values).max(axis=(1, 2)) / 127, np.finfo(np.float32).tiny)
    stored = {
        f"{weights.name}_quantized": np.rint(values / scale[:, None, None]).astype(np.int8),
        f"{weights.name}_scale": scale,
        f"{weights.name}_zero_point": np.zeros(len(scale), np.int8),
    }
    model.graph.initializer.remove(weights)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in stored.items())
    model.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", [*stored], [weights.name], axis=0))
    return model


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Training windows, drawn from all people, in one batch: ONNX Runtime stacks batches, which asks for equal sizes.

    It keeps the activations of all batches at once in any case, so that smaller ones would save no memory.
    """

    def __init__(self, train: Windows) -> None:
        order = torch.randperm(len(train), generator=make_generator("calibration")).numpy()
        self._batches = iter([train.x[order[:CALIBRATION_WINDOWS]]])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next batch by the name of the input, or None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _described(model: onnx.ModelProto, card: str) -> bytes:
    """Return a checked ONNX file that carries its card and asks a runtime for no more operators than it uses."""
    used = {node.domain for node in model.graph.node}
    operators = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(operators)
    onnx.helper.set_model_props(model, {METADATA_KEY: card})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _example(source: Source) -> Tensor:
    return torch.from_numpy(source.train.x[:1])


def _milliseconds(run: Run, x: NDArray[np.float32]) -> float:
    """Return the median time of one window."""
    times = []
    for index in range(WARM_UP + TIMED):
        window = x[index % len(x)][np.newaxis]
        start = time.perf_counter()
        run(window)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[WARM_UP:])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch use one thread, as a phone would, and put its number of threads back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _exporting() -> Iterator[None]:
    """Silence tracers: they warn of shape checks that they leave out and of their age; what they make is checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    run_command(main)
