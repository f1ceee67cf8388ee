"""Choose between settings with training people held out: ``python -m centralized_baseline.crossval``.

The training people who have labels are split into groups that take turns to be the test part. For each group the
centralized baseline is trained on everybody else and probed on the group. The data set's own test people are in no part
of it, so that whatever is tuned here can still be judged on them.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict
from rich import box
from rich.console import Console
from rich.table import Column, Table

from centralized_baseline.__main__ import train_centralized
from shared.checkpoint import load_encoder
from shared.config import Config, load_config
from shared.data import load
from shared.data.person import in_order
from shared.errors import UserError, run_command
from shared.evaluate import ProbeReport, bootstrap_mean, draw_regime, encoded, mean_std, probe, with_turned_copies
from shared.files import write_atomic
from shared.runs import opened_run, run_folder, run_parser

RESULT = "crossval.json"

REGIMES = ("1", "2", "6", "all")
"""Label regimes of the probes, where the command line names no others."""


class Variant(BaseModel):
    """One combination of the settings that are compared.

    Args:
        settings: ``key=value`` for each setting, as the command line takes them.
        reports: The linear probe of each fold, judged on its held-out people.
    """

    model_config = ConfigDict(frozen=True)

    settings: list[str]
    reports: list[ProbeReport]

    @property
    def name(self) -> str:
        """What the list below the table calls it."""
        return " ".join(self.settings) or "as configured"

    def accuracy(self, regime: str) -> dict[str, float]:
        """Mean and population standard deviation over the folds."""
        return mean_std([report.summary()["linear"][regime]["accuracy"]["mean"] for report in self.reports])

    def person_accuracy(self, regime: str) -> dict[str, float]:
        """Accuracy of each person, who is held out in exactly one fold."""
        return {person: value for report in self.reports for person, value in report.person_accuracy(regime).items()}


def main(arguments: list[str]) -> None:
    """Train and probe every variant in every fold, print a table and write ``crossval.json``.

    Raises:
        UserError: Settings that do not fit, too few people for the folds, or a folder that cannot be used.
    """
    options = _parser().parse_intermixed_args(arguments)
    if options.seeds < 1:
        raise UserError(f"--seeds must be at least 1, found {options.seeds}")
    base = load_config(options.config, options.overrides, options.method)
    settings = _combinations(options.set) + [_together(variant) for variant in options.variant]
    configs = [load_config(options.config, [*options.overrides, *variant], options.method) for variant in settings]
    _check_data(base, configs)
    train, _ = load(base.data)
    for regime in options.regimes:
        draw_regime(train, regime, seed=0)  # refuses a bad one before the work is done
    folds = split_people(train[train.labelled].people, options.folds, base.seed)
    folder = run_folder(options, base)
    variants = []
    with opened_run(folder, base, "centralized", resume=options.resume, force=options.force):
        for number, (variant, config) in enumerate(zip(settings, configs, strict=True), 1):
            held_out = [
                _judge_fold(config, people, folder / f"variant-{number}" / f"fold-{fold}", options)
                for fold, people in enumerate(folds, 1)
            ]
            variants.append(Variant(settings=variant, reports=held_out))
            write_atomic(folder / RESULT, _to_json(folds, variants, options.regimes))
    console = Console()
    console.print(_table(variants, options.regimes, folds))
    for fold, report in enumerate(variants[0].reports, 1):
        for note in report.notes:
            console.print(f"note on fold {fold}: {note}", highlight=False, markup=False, soft_wrap=True)
    for number, one in enumerate(variants, 1):
        console.print(f"{number:>4}  {one.name}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"wrote {folder / RESULT}", highlight=False, markup=False, soft_wrap=True)


def split_people(people: Sequence[str], folds: int, seed: int) -> list[tuple[str, ...]]:
    """Split people into ``folds`` groups of nearly equal size, in an order drawn from the seed.

    Raises:
        UserError: Fewer than two folds, or fewer people than folds.
    """
    if not 2 <= folds <= len(people):
        raise UserError(f"--folds must be 2 to {len(people)}, the number of training people with labels, found {folds}")
    order = np.random.default_rng(seed).permutation(people)
    return [tuple(in_order(part.tolist())) for part in np.array_split(order, folds)]


def _check_data(base: Config, configs: Sequence[Config]) -> None:
    """Refuse variants of other data, and people who are held out already."""
    for config in (base, *configs):
        if config.data.holdout:
            raise UserError(
                f"data.holdout must be empty, because cross-validation sets it; found {list(config.data.holdout)}"
            )
        if config.data != base.data:
            raise UserError(
                "variants must have the same data: --set and --variant cannot change what is in the block data"
            )


def _parser() -> argparse.ArgumentParser:
    parser = run_parser(
        "centralized_baseline.crossval",
        suffix="crossval",
        description="Compare settings with training people held out. The real test people are never looked at, so that "
        "this is the way to tune.",
    )
    parser.epilog = (
        "example: python -m centralized_baseline.crossval --config configs/demo.yaml centralized.epochs=5 "
        "--set encoder.width=32,64"
    )
    parser.add_argument("--folds", type=int, default=3, help="groups of training people (default: %(default)s)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="key=v1,v2",
        help="values of a setting to compare; of several --set, every combination",
    )
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="'key=v key=v'",
        help="one more variant, of settings that go together; may be repeated",
    )
    parser.add_argument("--seeds", type=int, default=3, help="draws of labels a probe (default: %(default)s)")
    parser.add_argument(
        "--regimes",
        nargs="+",
        default=REGIMES,
        metavar="R",
        help=f"labels per person and class, a percentage of all labels, or all (default: {' '.join(REGIMES)})",
    )
    return parser


def _combinations(choices: Sequence[str]) -> list[list[str]]:
    """Return every combination of ``key=v1,v2`` as ``key=value`` overrides; of nothing, one without any.

    Values are YAML, as elsewhere on the command line: lists among them need their brackets.

    Raises:
        UserError: Something that is not of that form.
    """
    alternatives = []
    for text in choices:
        key, equals, values = text.partition("=")
        try:
            parsed: list[Any] = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            parsed = []
        if not key or not equals or not parsed:
            raise UserError(f"--set {text!r} is not of the form key=v1,v2, such as encoder.width=32,64")
        alternatives.append([f"{key}={json.dumps(value)}" for value in parsed])
    return [list(combination) for combination in product(*alternatives)]


def _together(text: str) -> list[str]:
    """Return the settings of one variant, split as a shell would."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--variant {text!r} cannot be split into key=value: {error}") from None


def _judge_fold(config: Config, people: tuple[str, ...], folder: Path, options: argparse.Namespace) -> ProbeReport:
    """Train without some people, in a run folder of its own, and probe the encoder on them."""
    data = config.data.model_copy(update={"holdout": people})
    train_centralized(config.model_copy(update={"data": data}), folder, resume=(folder / "config.yaml").is_file())
    train, test = load(data)
    encoder, _ = load_encoder(folder)
    copies = config.probe.turned_copies
    train = with_turned_copies(train, copies)
    seeds = range(options.seeds)
    return probe(encoded(encoder, train, test), train, test, seeds=seeds, regimes=options.regimes, copies=copies)


def _to_json(folds: Sequence[tuple[str, ...]], variants: Sequence[Variant], regimes: Sequence[str]) -> str:
    content = {
        "folds": folds,
        "variants": [
            variant.model_dump(mode="json") | {"accuracy": {regime: variant.accuracy(regime) for regime in regimes}}
            for variant in variants
        ],
    }
    return json.dumps(content) + "\n"


def _table(variants: Sequence[Variant], regimes: Sequence[str], folds: Sequence[tuple[str, ...]]) -> Table:
    """Return mean ± spread of the accuracy in percent by variant, and how it compares with the first, by person."""
    first, last = variants[0], "all" if "all" in regimes else regimes[-1]
    table = Table(
        Column("variant", justify="right"),
        title=f"Linear probe of held-out training people: accuracy in %, mean ± deviation over {len(folds)} folds",
        caption=f"difference: to the first variant in regime {last!r}, percentage points, mean over people and its "
        "95 % bootstrap interval",
        box=box.SIMPLE_HEAD,
    )
    for heading in (*regimes, "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, variant in enumerate(variants, 1):
        scores = [variant.accuracy(regime) for regime in regimes]
        table.add_row(
            str(number),
            *(f"{100 * score['mean']:.1f} ±{100 * score['std']:.1f}" for score in scores),
            "" if variant is first else _difference(variant, first, last),
        )
    return table


def _difference(variant: Variant, first: Variant, regime: str) -> str:
    before = first.person_accuracy(regime)
    mean, low, high = bootstrap_mean({p: value - before[p] for p, value in variant.person_accuracy(regime).items()})
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


if __name__ == "__main__":
    run_command(main)
