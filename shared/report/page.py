"""Fill the template: every section gets its figures, its numbers, or the command that would fill it."""

import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from math import prod
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shared.checkpoint import read_card
from shared.collapse import SIGNS, common_complaint, signs_of
from shared.config import Config, differences
from shared.metrics import Row
from shared.report import figures
from shared.report.drawing import Look, Picture
from shared.report.maps import draw_maps
from shared.report.reading import Run, data_name
from shared.report.scores import Group, answer, compare, group, labels_words

MARKER = Markup('<meta name="generator" content="fedhar report">')
"""Tells a report from any other page."""

MOST_NAMES = 3
"""More encoders are not named in the title."""

BASELINES = "raw features random"
"""What the command to judge baselines asks for."""


def render(runs: Sequence[Run], sample: int) -> str:
    """Return the page as HTML.

    Args:
        runs: What it is about.
        sample: Most test windows in the maps; 0 for no maps.
    """
    environment = Environment(
        loader=PackageLoader("shared.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"megabytes": _megabytes, "duration": _duration, "thousands": _thousands}
    look, groups = figures.looks(runs), group(runs)
    trained = [run for run in runs if run.steps]
    return environment.get_template("template.html").render(
        marker=MARKER,
        title=_title(runs),
        runs=runs,
        swatch=_swatches(look),
        answer=answer(groups),
        facts=_facts(groups),
        groups=groups,
        comparisons=[compare(one) for one in groups],
        spreads=[run for run in runs if run.probe is not None and run.probe.embeddings is not None],
        notes=dict.fromkeys(chain(*(run.probe.notes for run in runs if run.probe is not None))),
        accuracy=[figures.accuracy(g, look, f"accuracy-{n}") for n, g in enumerate(groups)],
        labels_words=labels_words,
        unjudged=_unjudged(runs),
        trained=trained,
        losses=figures.losses(trained, look) if trained else [],
        weights=_weights(trained, look),
        signs=_signs(trained),
        unfinished=_unfinished(runs),
        people=_people(groups, look),
        confusions=_confusions(groups),
        maps=draw_maps(runs, sample),
        wire=[_wire(run) for run in runs if run.exchange is not None],
        pooled=[run for run in runs if run.kind == "centralized"],
        times=[_time(run) for run in trained],
        configurations=_configurations(runs),
    )


def _swatches(look: Mapping[str, Look]) -> Callable[[str, bool], Markup]:
    """Return what draws a run's swatch; each is drawn anew, because ids on a page must differ."""
    numbers = count()
    return lambda name, line: look[name].swatch(f"swatch-{next(numbers)}", line)


@dataclass(frozen=True)
class Weights:
    """A run's pictures of its task weights."""

    run: Run
    pictures: list[Picture]


@dataclass(frozen=True)
class Signs:
    """What a task shows of a collapse at the end of a training: means over the clients, and what they say in words."""

    run: Run
    task: str
    found: dict[str, float]
    words: list[str]


@dataclass(frozen=True)
class Time:
    """What a training cost: steps done and planned, seconds, and the bytes of its largest training process."""

    run: Run
    seconds: float
    median: float
    people: int
    client_seconds: float | None
    memory: int | None


@dataclass(frozen=True)
class Wire:
    """What crossed the wire in a federated run.

    Args:
        run: The run.
        replies: How many times a client sent its encoder.
        up: Bytes that clients sent, all together.
        down: Bytes that clients received, all together.
        arrays: The encoder's arrays that left, each with its shape, times and bytes.
        numbers: Everything else that left.
        stays: What did not leave.
        windows_bytes: Size of all training windows that stayed, as float32; None where it cannot be known.
    """

    run: Run
    replies: int
    up: int
    down: int
    arrays: list[Row]
    numbers: list[Row]
    stays: list[str]
    windows_bytes: int | None


def _title(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs if run.kind != "baseline"] or [run.name for run in runs]
    return f"{_listed(names) if len(names) <= MOST_NAMES else f'{len(names)} encoders'} on {data_name(runs[0])}"


def _facts(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """What the scores are about, as pairs of a number and its meaning."""
    if not groups:
        return []
    main = groups[0]
    report = main.entries[0].run.probe
    if report is None:
        return []
    tested = int(main.entries[0].confusion(main.entries[0].regimes[-1]).sum())
    seeds = main.entries[0].score(main.entries[0].regimes[-1]).seeds
    return [
        (_thousands(tested // seeds), "test windows"),
        (str(len(report.test_people)), "test people, never trained on"),
        (str(len(report.train_people)), "training people"),
        (str(len(report.classes)), "activities"),
        (str(seeds), "seed" if seeds == 1 else "seeds"),
    ]


def _unjudged(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Commands that would fill what is missing of the scores, each with its reason."""
    probe, missing = "python -m centralized_baseline.probe", []
    if lacking := [run for run in runs if run.probe is None and run.finished]:
        folders = " ".join(_path(run) for run in lacking)
        missing.append((f"Not judged yet: {_listed([run.name for run in lacking])}", f"{probe} --encoder {folders}"))
    configured = [run for run in runs if run.config is not None]
    if configured and not any(run.kind == "baseline" for run in runs):
        config = _path(configured[0], "config.yaml")
        missing.append(("No baseline is shown for comparison", f"{probe} --config {config} --encoder {BASELINES}"))
    return missing


def _unfinished(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Commands that finish a training, if nobody is at it, each with its reason."""
    return [
        (
            f"{run.name} has done {len(run.steps)} of {run.planned} {run.unit}s",
            f"python -m {_program(run)} --config {_path(run, 'config.yaml')} "
            f"--name {shlex.quote(run.folder.resolve().name)} --resume",
        )
        for run in runs
        if run.config is not None and not run.finished
    ]


def _program(run: Run) -> str:
    """What goes on with a run; where clients keep their state elsewhere, they must be asked again."""
    if run.kind == "centralized":
        return "centralized_baseline"
    return "simulation" if run.clients or not run.steps else "deployment --superlink HOST:PORT --credentials DIR"


def _weights(runs: Sequence[Run], look: Mapping[str, Look]) -> list[Weights]:
    shown = [Weights(run, figures.weights(run, n, look[run.name])) for n, run in enumerate(runs)]
    return [item for item in shown if item.pictures]


def _signs(runs: Sequence[Run]) -> list[Signs]:
    found = []
    for run in runs:
        rows = [log[-1] for log in run.clients.values() if log] or run.steps[-1:]
        for task in (key.removeprefix("loss.") for key in rows[0] if key.startswith("loss.")):
            told = {sign: [of[sign] for row in rows if sign in (of := signs_of(row, task))] for sign in SIGNS}
            if values := {sign: statistics.fmean(of_clients) for sign, of_clients in told.items() if of_clients}:
                found.append(Signs(run, task, values, common_complaint(rows, task)))
    return found


def _people(groups: Sequence[Group], look: Mapping[str, Look]) -> list[Picture]:
    if not groups:
        return []
    main = groups[0]
    return [
        figures.people(main, regime, look, f"people-{n}")
        for n, regime in enumerate(dict.fromkeys([main.last, main.first]))
    ]


def _confusions(groups: Sequence[Group]) -> list[Picture]:
    if not groups:
        return []
    return [
        figures.confusion(entry, groups[0].last, entry.run.probe.classes, f"confusion-{n}")
        for n, entry in enumerate(groups[0].entries)
        if groups[0].last in entry.regimes and entry.run.probe is not None
    ]


def _wire(run: Run) -> Wire:
    exchange: dict[str, Any] = run.exchange or {}
    left = [row for row in exchange["crossed_the_wire"] if row["direction"] == "up"]
    arrays = sorted((row for row in left if row["kind"] == "array"), key=lambda row: -row["bytes"])
    return Wire(
        run=run,
        replies=max((row["times"] for row in arrays), default=0),
        up=exchange["bytes_up"],
        down=exchange["bytes_down"],
        arrays=arrays,
        numbers=[row for row in left if row["kind"] != "array"],
        stays=exchange["stays_on_the_device"],
        windows_bytes=_windows_bytes(run, left),
    )


def _windows_bytes(run: Run, left: Sequence[Row]) -> int | None:
    """Four bytes a value of every window, of the shape that the card tells; None where people may have others."""
    windows: int = sum(rows[-1]["num-examples"] for rows in run.people.values() if rows)
    if not run.finished or not windows:
        return None
    card = read_card(run.folder)
    return None if card.any_sensors else 4 * windows * prod(card.spec.shape)


def _time(run: Run) -> Time:
    seconds = [row["seconds"] for row in run.steps]
    own = [row for rows in run.clients.values() for row in rows]
    memory = [row["memory"] for row in [*run.steps, *own] if "memory" in row]
    client_seconds = [row["seconds"] for rows in run.people.values() for row in rows]
    return Time(
        run=run,
        seconds=sum(seconds),
        median=statistics.median(seconds),
        people=len(run.people),
        client_seconds=sum(client_seconds) if client_seconds else None,
        memory=max(memory) if memory else None,
    )


def _configurations(runs: Sequence[Run]) -> dict[str, Any]:
    """The keys in which the configurations differ, with their values by run, and each configuration as YAML."""
    known = {run.name: run.config for run in runs if run.config is not None}
    configs = list(known.values())
    keys = dict.fromkeys(d.partition(":")[0] for config in configs[1:] for d in differences(configs[0], config))
    return {
        "names": list(known),
        "differing": [(key, [_value(config, key) for config in configs]) for key in keys],
        "yaml": {name: config.to_yaml() for name, config in known.items()},
    }


def _value(config: Config, key: str) -> str:
    value: Any = config.to_dict()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _path(run: Run, *below: str) -> str:
    return shlex.quote(str(run.folder.joinpath(*below)))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _thousands(number: int) -> str:
    """Group digits by thin spaces."""
    return f"{number:,}".replace(",", "\u202f")


def _megabytes(size: float) -> str:
    """Bytes in the unit that reads best: kB below a tenth of a megabyte."""
    if size < 1e5:
        return f"{size / 1e3:.1f}\u202fkB"
    return f"{size / 1e6:.2f}\u202fMB" if size < 1e7 else f"{_thousands(round(size / 1e6))}\u202fMB"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}\u202fmin {rest:02d}\u202fs"
    return f"{minutes // 60}\u202fh {minutes % 60:02d}\u202fmin"
