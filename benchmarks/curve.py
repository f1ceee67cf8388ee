"""What rounds and bytes buy: ``python -m benchmarks.curve --config configs/uci_har.yaml``.

A federation is run with each way of uploading, and its encoder is probed after some of the rounds, on the test people:
accuracy against rounds, and against what a client has sent by then.
"""

import argparse
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from threading import Event, Thread

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from shared.checkpoint import Snapshot, load_encoder, load_snapshot
from shared.config import DEFAULTS, Config, add_method_option, load_config
from shared.data import load
from shared.errors import UserError, run_command
from shared.evaluate import draw_regime, encoded, probe, unseen_classes, with_turned_copies
from shared.exchange import PREFIX, Manifest, incoming
from shared.files import write_atomic
from simulation.__main__ import simulate

_LOOK_SECONDS = 0.05

_ROUNDS = (0, 1, 2, 3, 5, 8, 12, 16, 20, 30, 40)
"""Looked at where ``--at`` names no others, as far as a run has them, and its last one."""


@dataclass(frozen=True)
class Point:
    """An encoder on its way: bytes that a client has sent up by then, and accuracy (mean, deviation) by regime."""

    upload: str
    round: int
    sent: float
    accuracy: dict[str, tuple[float, float]]


def main(arguments: list[str]) -> None:
    """Run the federations, probe their encoders, print a table and draw the chart.

    Raises:
        UserError: Rounds to look at that the run does not have, or a run that failed.
    """
    options = _parser().parse_intermixed_args(arguments)
    uploads = [f"federation.upload={upload}" for upload in options.uploads]
    configs = [load_config(options.config, [*options.overrides, upload], options.method) for upload in uploads]
    rounds = configs[0].federation.rounds
    options.at = options.at or [*(number for number in _ROUNDS if number < rounds), rounds]
    if missing := [number for number in options.at if not 0 <= number <= rounds]:
        raise UserError(f"--at: there is no round {missing[0]} in a run of {rounds} rounds")
    if options.seeds < 1:
        raise UserError(f"--seeds must be at least 1, found {options.seeds}")
    train, test = load(configs[0].data)
    for regime in options.regimes:
        draw_regime(train, regime, seed=0)  # refuses a bad one before the work is done
    console, points = Console(), [point for config in configs for point in _follow(config, options)]
    console.print(_table(points, options.regimes))
    for note in unseen_classes(train, test):
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    write_atomic(options.out, _chart(points, options.regimes))
    console.print(f"wrote {options.out}", highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.curve",
        description="Probe a federation's encoder after some of its rounds: accuracy by rounds, and by bytes sent.",
        epilog="example: python -m benchmarks.curve --config configs/uci_har.yaml --regimes 1 all",
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    add_method_option(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as federation.rounds=20")
    parser.add_argument("--uploads", nargs="+", default=["float32", "int4"], help="values of federation.upload")
    parser.add_argument(
        "--at", type=int, nargs="+", help="rounds to look at (default: some, closer at first, and the last)"
    )
    parser.add_argument("--regimes", nargs="+", default=["1", "all"], help="labels per person and class")
    parser.add_argument("--seeds", type=int, default=5, help="draws of labels (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=DEFAULTS.parents[1] / "benchmarks" / "curve.svg", help="the chart")
    return parser


def _follow(config: Config, options: argparse.Namespace) -> list[Point]:
    """Run a federation and probe what it had after the rounds of ``--at``."""
    copies = config.probe.turned_copies
    train, test = load(config.data)
    people, train = len(train.people), with_turned_copies(train, copies)
    with tempfile.TemporaryDirectory(prefix="fedhar-") as scratch:
        run, kept = Path(scratch) / config.federation.upload, Path(scratch) / "kept"
        with _keeping(run / "checkpoint", kept, options.at):
            simulate(config, run, "inprocess")
        encoder, _ = load_encoder(run)
        points = []
        for number in options.at:
            snapshot = _load(kept / str(number), number)
            arrays = {name: value.numpy() for name, value in snapshot.tensors.items() if name.startswith(PREFIX)}
            incoming(encoder, arrays, config.federation.norm_statistics)
            report = probe(
                encoded(encoder, train, test),
                train,
                test,
                seeds=range(options.seeds),
                regimes=options.regimes,
                copies=copies,
            )
            scores = {regime: score["accuracy"] for regime, score in report.summary()["linear"].items()}
            sent = Manifest(snapshot.meta["exchange"]).report()["bytes_up"] / people
            accuracy = {regime: (score["mean"], score["std"]) for regime, score in scores.items()}
            points.append(Point(config.federation.upload, number, sent, accuracy))
    return points


@contextmanager
def _keeping(checkpoints: Path, kept: Path, rounds: Sequence[int]) -> Iterator[None]:
    """Copy the checkpoints of some rounds as they appear; a run itself keeps the last three."""
    ended = Event()

    def look() -> None:
        for number in rounds:
            file = checkpoints / f"step-{number:06d}.safetensors"
            if not (target := kept / str(number) / file.name).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # not there yet, or gone already; the table then lacks the point
                    shutil.copy(file, target)

    def keep_looking() -> None:
        while not ended.wait(_LOOK_SECONDS):
            look()

    thread = Thread(target=keep_looking)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()


def _load(folder: Path, number: int) -> Snapshot:
    if (snapshot := load_snapshot(folder)) is None:
        raise UserError(f"the checkpoint of round {number} was gone before it could be copied")
    return snapshot


def _table(points: Sequence[Point], regimes: Sequence[str]) -> Table:
    table = Table(title="accuracy in % of a linear probe, mean ± deviation over draws of labels")
    for heading in ("upload", "round", "sent by a client, MB", *regimes):
        table.add_column(heading, justify="right")
    for point in points:
        scores = (f"{100 * mean:.1f} ±{100 * std:.1f}" for mean, std in point.accuracy.values())
        table.add_row(point.upload, str(point.round), f"{point.sent / 1e6:.2f}", *scores)
    return table


def _chart(points: Sequence[Point], regimes: Sequence[str]) -> str:
    """Draw accuracy by rounds and by megabytes, as SVG: a colour for each upload, a line style for each regime."""
    figure = Figure((9, 3.6), layout="constrained")
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    for colour, upload in enumerate(dict.fromkeys(point.upload for point in points)):
        own = [point for point in points if point.upload == upload]
        sending = [point for point in own if point.round]  # a logarithm has no place for the untrained encoder
        for style, regime in zip(cycle(("-", "--", ":", "-.")), regimes, strict=False):
            look = {"color": f"C{colour}", "ls": style, "marker": "o", "ms": 3, "capsize": 2}
            for axes, shown, x in (
                (by_round, own, [point.round for point in own]),
                (by_bytes, sending, [point.sent / 1e6 for point in sending]),
            ):
                scores = 100 * np.array([point.accuracy[regime] for point in shown]).reshape(-1, 2)
                axes.errorbar(x, scores[:, 0], scores[:, 1], label=f"{upload}, {regime}", **look)
    by_round.set(xlabel="rounds", ylabel="accuracy on the test people, %")
    by_bytes.set(xscale="log", xlabel="sent up by a client so far, MB")
    by_round.legend(title="upload, labels")
    for axes in (by_round, by_bytes):
        axes.grid(alpha=0.3)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


if __name__ == "__main__":
    run_command(main)
