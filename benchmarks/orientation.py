"""Devices worn another way: ``python -m benchmarks.orientation --config configs/uci_har.yaml``.

Trains the centralized baseline with windows as they were recorded, with windows turned at random, and with encoders
that align windows. A linear probe of each is judged on the test people's windows as they were recorded, and as if each
test person had worn the device another way. What is trained already, is not trained again.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.series import ONE_THREAD, REGIMES, ROOT, as_table, do, training
from shared.checkpoint import load_encoder
from shared.config import load_config
from shared.data import load
from shared.data.spec import InputSpec
from shared.data.windows import Windows
from shared.errors import UserError, run_command
from shared.evaluate import PROTOCOLS, Embeddings, Part, embed, with_turned_copies, with_turned_recordings
from shared.features import expert_features
from shared.files import write_atomic
from shared.runs import runs_root

COPIES = 2
"""Turned copies of each labelled window, where a classifier learns from them."""

Embed = Callable[[NDArray[np.float32]], Embeddings]


@dataclass(frozen=True)
class Setting:
    """A row of the table.

    Args:
        overrides: What is set for the training; None: nothing is trained, the features of an expert are judged.
        copies: Turned copies that the classifier learns from.
    """

    overrides: tuple[str, ...] | None
    copies: int


SETTINGS = {
    "as recorded": Setting((), 0),
    "turned copies": Setting((), COPIES),
    "re-oriented views": Setting(("views.reorient=rotate",), COPIES),
    "gravity": Setting(("encoder.align=gravity",), 0),
    "gravity, re-oriented views": Setting(("encoder.align=gravity", "views.reorient=rotate"), COPIES),
    "heading": Setting(("encoder.align=heading",), 0),
    "expert features": Setting(None, 0),
    "expert features, turned copies": Setting(None, COPIES),
}
"""The first is what the others are compared with."""


@dataclass(frozen=True)
class Scores:
    """Accuracy by regime: on windows as they were recorded, and the mean over draws of turned recordings."""

    recorded: dict[str, float]
    turned: dict[str, float]


def main(arguments: list[str]) -> None:
    """Train and judge, print the table and write it.

    Raises:
        UserError: Trainings that failed; says which.
    """
    options = _parser().parse_intermixed_args(arguments)
    if min(options.epochs, options.draws, options.jobs) < 1:
        raise UserError("--epochs, --draws and --jobs must be at least 1")
    budget = [f"centralized.epochs={options.epochs}", *ONE_THREAD, *options.overrides]
    config, console = load_config(options.config, budget), Console()
    folders = {s.overrides: _folder(config.name, s.overrides) for s in SETTINGS.values() if s.overrides is not None}
    trainings = [
        training(options.config, [*budget, *overrides], "centralized", folder) for overrides, folder in folders.items()
    ]
    do("training", trainings, options.jobs, console)
    train, test = load(config.data)
    turned = [with_turned_recordings(test, draw) for draw in range(options.draws)]
    rows = {}
    for name, setting in SETTINGS.items():
        run = None if setting.overrides is None else folders[setting.overrides]
        rows[name] = _judge(_embedding(run, train.meta.spec), setting.copies, train, test, turned)
        console.print(f"judged: {', '.join(_row(name, rows))}", highlight=False, markup=False, soft_wrap=True)
    table = _table(rows)
    console.print(table, highlight=False, markup=False, soft_wrap=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out / "orientation.md", table + "\n")
    console.print(f"wrote {options.out / 'orientation.md'}", highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.orientation",
        description="Measure what devices cost that are worn another way than those of the training people, and what "
        "re-oriented views and aligned windows gain and cost. Trainings that are done already are not done again.",
        epilog="example: python -m benchmarks.orientation --config configs/demo.yaml --epochs 3",
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the data set")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as data.holdout=[1,2]")
    parser.add_argument("--epochs", type=int, default=5, help="of each training (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=5, help="of turned recordings (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side (default: one a core)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", metavar="FOLDER", help="for orientation.md")
    return parser


def _folder(name: str, overrides: tuple[str, ...]) -> Path:
    words = [override.partition("=")[2] for override in overrides] or ["recorded"]
    return runs_root() / "-".join([name, "orientation", *words])


def _embedding(run: Path | None, spec: InputSpec) -> Embed:
    if run is None:
        return lambda x: expert_features(torch.from_numpy(x), spec).numpy()
    return partial(embed, load_encoder(run, spec)[0])


def _judge(embedding: Embed, copies: int, train: Windows, test: Windows, turned: list[Windows]) -> Scores:
    """Fit a linear probe of each regime once, and score it on windows as recorded and turned."""
    fitted_on = with_turned_copies(train, copies)
    part = Part(fitted_on, embedding(fitted_on.x), copies)
    tests = [Part(windows, embedding(windows.x)).labelled() for windows in (test, *turned)]
    recorded, after = {}, {}
    for regime in REGIMES:
        fitted = PROTOCOLS["linear"].fit(part, None, regime, 0)
        recorded[regime], *scores = (float((fitted.predict(one) == one.windows.y).mean()) for one in tests)
        after[regime] = float(np.mean(scores))
    return Scores(recorded, after)


def _table(rows: Mapping[str, Scores]) -> str:
    """Return accuracies in %, each with its difference to the first row in points, as Markdown."""
    heading = ["setting", *(f"{what}, {regime}" for regime in REGIMES for what in ("as recorded", "turned"))]
    return as_table([heading, *(_row(name, rows) for name in rows)])


def _row(name: str, rows: Mapping[str, Scores]) -> list[str]:
    row, first = rows[name], next(iter(rows.values()))
    return [name] + [
        f"{100 * scores[regime]:.1f} ({100 * (scores[regime] - reference[regime]):+.1f})"
        for regime in REGIMES
        for scores, reference in ((row.recorded, first.recorded), (row.turned, first.turned))
    ]


if __name__ == "__main__":
    run_command(main)
