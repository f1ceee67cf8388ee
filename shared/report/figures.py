"""The figures of the report that show scores and training logs."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Literal, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from shared.data.person import in_order
from shared.metrics import Row
from shared.report.drawing import INK, LINE, MUTED, PALETTE, PAPER, Look, Picture, canvas, picture
from shared.report.reading import Run
from shared.report.scores import Entry, Group, class_words, labels_words

T = TypeVar("T")

BAND = 0.16
"""Opacity of the band around a line."""

MOST_POINTS = 250
"""Steps drawn of a training log; of a longer one every second, third ... step is drawn, and the last."""


PERCENT_TICKS = (90, 50, 80, 95, 98, 100, 70, 99, 60, 85, 30, 0, 93, 97, 40, 20, 92, 94, 96, 91, 88, 86, 82)
"""Accuracies (percent) worth a tick, the most telling first; those too near to a chosen one are left out."""


def looks(runs: Sequence[Run]) -> dict[str, Look]:
    """Give each run, by name, a look of its own."""
    colours, dashes = cycle(PALETTE), cycle(["--", ":", "-."])
    markers = {"baseline": cycle("sXP"), "trained": cycle("oD^vp*")}
    given: dict[str, Look] = {}
    for run in runs:
        if run.kind == "baseline":
            given[run.name] = Look(MUTED, next(dashes), next(markers["baseline"]))
        else:
            given[run.name] = Look(next(colours), "-", next(markers["trained"]))
    return given


def accuracy(group: Group, looks: Mapping[str, Look], key: str) -> Picture:
    """Draw test accuracy against the number of labelled windows, with bands of one standard deviation over the seeds.

    Regimes that draw labels per person are joined by lines; shares of all windows, which are drawn otherwise, are
    markers of their own.
    """
    labels = {r: max(e.score(r).labels for e in group.entries if r in e.regimes) for r in group.regimes}
    with canvas(400, 300) as (figure, axes):
        for entry in group.entries:
            look = looks[entry.run.name]
            joined = [r for r in entry.regimes if not r.endswith("%")]
            _line_with_band(axes, entry, joined, labels, look)
            for regime in set(entry.regimes) - set(joined):
                score = entry.score(regime)
                axes.errorbar(
                    labels[regime], score.mean, score.std,
                    color=look.colour, marker=look.marker, ms=6, mfc=PAPER, lw=1.2, zorder=4,
                )  # fmt: skip
        axes.set(xscale="log", ylabel="test accuracy (%)", xlabel="labels per person and activity (logarithmic)")
        _regime_ticks(axes, labels)
        _stretch(axes, "y")
    words = "; ".join(
        f"{e.name}: " + ", ".join(f"{e.score(r)} % with {labels_words(r)}" for r in e.regimes) for e in group.entries
    )
    return picture(key, f"Accuracy against labels, {group.title}", words, figure)


def losses(runs: Sequence[Run], looks: Mapping[str, Look]) -> list[Picture]:
    """Draw each task's loss over the training, one picture a task; bands hold the middle 80 % of the clients."""
    drawn = []
    for number, task in enumerate(_tasks(runs, "loss.")):
        with canvas(320, 210) as (figure, axes):
            for run in runs:
                _log_line(axes, run.steps, f"loss.{task}", looks[run.name])
                _client_band(axes, run, f"loss.{task}", looks[run.name])
            axes.set(xlabel=_units(runs), ylabel="training loss")
            _whole_steps(axes)
        words = f"Training loss of the task {task} over {_units(runs)}s: " + _first_and_last(runs, f"loss.{task}")
        drawn.append(picture(f"loss-{number}", task, words, figure))
    return drawn


def weights(run: Run, number: int, look: Look) -> list[Picture]:
    """Draw the weight of each task over the training: every client's as a thin line, their mean as a thick one."""
    tasks = _tasks([run], "weight.")
    logs = list(run.clients.values()) if run.kind == "federated" else [run.steps]
    values = [row[f"weight.{task}"] for rows in logs for row in rows for task in tasks]
    drawn = []
    for index, task in enumerate(tasks):
        name = f"weight.{task}"
        with canvas(320, 190) as (figure, axes):
            if run.kind == "federated":
                for rows in logs:
                    axes.plot(*_thinned(rows, name), color=MUTED, lw=0.7, alpha=0.55)
            axes.plot(*_thinned(_mean_log(logs, name), name), color=look.colour, lw=2.2)
            axes.set(xlabel=run.unit, ylabel="weight of the loss", ylim=(min(values) / 1.15, 1.15 * max(values)))
            _whole_steps(axes)
            # Twice as much is as far everywhere: weights of tasks differ by a factor of ten and more.
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        last = [rows[-1][name] for rows in logs]
        words = (
            f"Weight of the task {task} in {run.name}: at the end {np.mean(last):.2f} on average, "
            f"from {min(last):.2f} to {max(last):.2f} over {len(logs)} logs"
        )
        drawn.append(picture(f"weight-{number}-{index}", task, words, figure))
    return drawn


def people(group: Group, regime: str, looks: Mapping[str, Look], key: str) -> Picture:
    """Draw each test person's accuracy as a row of dots, one dot an encoder; the hardest person is on top."""
    entries = [entry for entry in group.entries if regime in entry.regimes]
    scores = {entry.name: entry.per_person(regime) for entry in entries}
    persons = in_order({p for score in scores.values() for p in score})
    means = {p: float(np.mean([score[p] for score in scores.values() if p in score])) for p in persons}
    order = sorted(persons, key=lambda p: -means[p])
    with canvas(400, 62 + 24 * len(order)) as (figure, axes):
        for row, person in enumerate(order):
            found = [score[person] for score in scores.values() if person in score]
            axes.plot([min(found), max(found)], [row, row], color=LINE, lw=4, solid_capstyle="round", zorder=1)
        for entry in entries:
            look, score, below = looks[entry.run.name], scores[entry.name], entry.run.kind == "baseline"
            rows = [row for row, person in enumerate(order) if person in score]
            axes.plot(
                [score[order[row]] for row in rows], rows, look.marker,
                color=look.colour, ms=6.5 if below else 7.5, mec=PAPER, mew=0.5, zorder=2 if below else 3,
            )  # fmt: skip
        axes.set_yticks(range(len(order)), [f"person {p}" for p in order], parse_math=False)  # an id may hold a $
        axes.set(xlabel="test accuracy (%)")
        axes.set_ylim(-0.7, len(order) - 0.3)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        _stretch(axes, "x")
    hardest = order[-1]
    words = f"Accuracy of {len(order)} test people. Hardest: person {hardest}, " + ", ".join(
        f"{name} {score[hardest]:.1f} %" for name, score in scores.items() if hardest in score
    )
    return picture(key, f"With {labels_words(regime)}", words, figure)


def confusion(entry: Entry, regime: str, classes: Sequence[str], key: str) -> Picture:
    """Draw what each activity was taken for: rows are the truth and add up to 100 %."""
    counts = entry.confusion(regime).astype(float)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names, size = [class_words(name) for name in classes], len(classes)
    longest = 5.4 * max(map(len, names))
    with canvas(longest + 38 * size + 26, 0.7 * longest + 38 * size + 34) as (figure, axes):
        for row, column in np.ndindex(size, size):
            colour = to_rgba(PALETTE[0], share[row, column] / 100)
            axes.add_patch(Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, fc=colour, ec=LINE, lw=0.5))
            if share[row, column] >= 0.5:
                ink = PAPER if share[row, column] > 55 else INK
                axes.text(column + 0.5, row + 0.5, f"{share[row, column]:.0f}", ha="center", va="center", color=ink)
        ticks = np.arange(size) + 0.5
        axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal", xlabel="taken for", ylabel="true activity")
        axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, names)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines.bottom.set_visible(False)
    return picture(key, entry.name, _worst_confusion(share, names), figure)


def _line_with_band(axes: Axes, entry: Entry, regimes: Sequence[str], labels: Mapping[str, float], look: Look) -> None:
    scores = [entry.score(regime) for regime in regimes]
    x, mean, std = ([labels[r] for r in regimes], np.array([s.mean for s in scores]), np.array([s.std for s in scores]))
    axes.fill_between(x, mean - std, mean + std, color=look.colour, alpha=BAND, lw=0)
    axes.plot(x, mean, color=look.colour, ls=look.dash, marker=look.marker, ms=6.5, mec=PAPER, mew=0.5, zorder=3)


def _regime_ticks(axes: Axes, labels: Mapping[str, float]) -> None:
    """Name the regimes below, and the shares of all windows above."""
    for axis, chosen in (
        (axes.xaxis, [r for r in labels if not r.endswith("%")]),
        (axes.secondary_xaxis("top").xaxis, [r for r in labels if r.endswith("%")]),
    ):
        axis.set_ticks([labels[r] for r in chosen], [r.replace("%", " %") for r in chosen])
        axis.set_minor_locator(NullLocator())


def _stretch(axes: Axes, side: Literal["x", "y"]) -> None:
    """Stretch an axis of percent towards 100, so that 97 and 98 stay apart where a baseline has 50."""
    (axes.set_xscale if side == "x" else axes.set_yscale)("function", functions=(_errors, _accuracies))
    axis = axes.xaxis if side == "x" else axes.yaxis
    low, high = _errors(axes.dataLim.intervalx if side == "x" else axes.dataLim.intervaly)
    room = 0.05 * (high - low) or 0.1
    low, high = low - room, high + room
    (axes.set_xlim if side == "x" else axes.set_ylim)(*_accuracies(np.array([low, high])))
    chosen: list[int] = []
    for tick in PERCENT_TICKS:
        place = _errors(np.array(tick))
        if low <= place <= high and all(abs(place - _errors(np.array(t))) > (high - low) / 12 for t in chosen):
            chosen.append(tick)
    axis.set_ticks(chosen)
    axis.set_minor_locator(NullLocator())


def _errors(accuracy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus the logarithm of the errors in percent, plus one point so that no error has a place too."""
    return np.asarray(-np.log(np.maximum(101 - accuracy, 1e-3)))


def _accuracies(place: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(101 - np.exp(-place))


def _tasks(runs: Iterable[Run], prefix: str) -> list[str]:
    """The tasks that the runs' logs speak of, in the order of their first mention."""
    rows = [row for run in runs for row in [*run.steps, *(r for log in run.clients.values() for r in log)]]
    return list(dict.fromkeys(key.removeprefix(prefix) for row in rows for key in row if key.startswith(prefix)))


def _units(runs: Iterable[Run]) -> str:
    return " or ".join(sorted({run.unit for run in runs if run.steps}, reverse=True))


def _log_line(axes: Axes, rows: Sequence[Row], name: str, look: Look) -> None:
    axes.plot(*_thinned(rows, name), color=look.colour, ls=look.dash)


def _client_band(axes: Axes, run: Run, name: str, look: Look) -> None:
    """Shade from the 10th to the 90th percentile of the clients' losses."""
    by_round: dict[int, list[float]] = {}
    for row in (row for rows in run.people.values() for row in rows if name in row):
        by_round.setdefault(row["round"], []).append(row[name])
    rounds = _some(sorted(by_round))
    if rounds:
        low, high = np.array([np.percentile(by_round[r], (10, 90)) for r in rounds]).T
        axes.fill_between(rounds, low, high, color=look.colour, alpha=BAND, lw=0)


def _thinned(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    kept = _some([row for row in rows if name in row])
    return [row["round"] for row in kept], [row[name] for row in kept]


def _some(items: Sequence[T]) -> list[T]:
    """Every k-th item, so that at most MOST_POINTS are left, and the last."""
    step = -(-len(items) // MOST_POINTS) or 1
    return [*items[:-1:step], *items[-1:]]


def _mean_log(logs: Sequence[Sequence[Row]], name: str) -> list[Row]:
    by_step: dict[int, list[float]] = {}
    for row in (row for rows in logs for row in rows if name in row):
        by_step.setdefault(row["round"], []).append(row[name])
    return [{"round": step, name: float(np.mean(values))} for step, values in sorted(by_step.items())]


def _whole_steps(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _first_and_last(runs: Iterable[Run], name: str) -> str:
    courses = [(run.name, [row[name] for row in run.steps if name in row]) for run in runs]
    return "; ".join(f"{run} from {values[0]:.3f} to {values[-1]:.3f}" for run, values in courses if values)


def _worst_confusion(share: NDArray[np.float64], names: Sequence[str]) -> str:
    wrong = share - np.diag(np.diag(share))
    row, column = (int(index) for index in np.unravel_index(int(wrong.argmax()), wrong.shape))
    right = ", ".join(f"{name} {share[i, i]:.0f} %" for i, name in enumerate(names))
    if not wrong.any():
        return f"Recognised: {right}. Nothing is confused."
    return f"Recognised: {right}. Most confused: {names[row]} taken for {names[column]}, {wrong[row, column]:.0f} %."
