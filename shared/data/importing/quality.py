"""What was imported, to be looked at before anything is trained: a page and a table in the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from scipy.signal import periodogram

from shared.data.importing.build import Imported
from shared.data.importing.cutting import Cut
from shared.data.importing.recipe_file import to_yaml
from shared.data.importing.worn import Left
from shared.data.windows import UNLABELLED, Windows
from shared.plausible import Triad
from shared.report.drawing import PALETTE, Picture, canvas, picture

MOST_PICTURES = 12
"""Sensors and sample windows that are drawn."""
MOST_ROWS = 200
"""People and recordings that are listed."""


@dataclass(frozen=True)
class Row:
    """What is known of a person, or of a recording.

    Args:
        name: Of it.
        recordings: How many.
        seconds: From the first to the last sample, all together.
        counts: Windows, by class and, last, without a label.
        rates: Lowest and highest rate (Hz).
        uneven: Largest share of uneven steps.
        gaps: How many, and seconds in them.
        filled: Samples that were interpolated.
        left: Share of the time that was left out, by reason.
        lost: Windows that were left out because of lost samples.
    """

    name: str
    recordings: int
    seconds: float
    counts: list[int]
    rates: tuple[float, float]
    uneven: float
    gaps: tuple[int, float]
    filled: int
    left: dict[str, float]
    lost: int

    @property
    def time(self) -> str:
        """As hours, minutes and seconds."""
        return _hours(self.seconds)

    @property
    def windows(self) -> int:
        """All of them."""
        return sum(self.counts)


def show(imported: Imported, console: Console) -> None:
    """Print who did what for how long, and what was found and left out."""
    windows = imported.windows
    console.print(f"[bold]{windows.meta.name}[/]: {_sentence(imported)}", highlight=False, soft_wrap=True)
    table = Table("person", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("time", *windows.meta.classes, "no label", "Hz", "gaps", "left out"):
        table.add_column(heading.replace("_", " "), justify="right")
    for row in _people(imported)[:MOST_ROWS]:
        left = "-" if not any(row.left.values()) else f"{100 * sum(row.left.values()):.1f} %"
        cells = (row.time, *map(str, row.counts), _rates(row), str(row.gaps[0]), left)
        table.add_row(row.name, *cells)
    console.print(table)
    for note in notes(imported):
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def render(imported: Imported) -> str:
    """Return the quality page as HTML in one file."""
    environment = Environment(
        loader=PrefixLoader(
            {"here": PackageLoader("shared.data.importing", ""), "report": PackageLoader("shared.report", "")}
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    windows = imported.windows
    recordings = [_row(cut.name, [cut], windows.meta.classes) for cut in imported.cuts]
    odd = [row for row in recordings if row.gaps[0] or row.filled or row.lost or any(row.left.values())]
    labelled = float(windows.labelled.mean())
    return environment.get_template("here/quality.html").render(
        name=windows.meta.name,
        sentence=_sentence(imported),
        facts=[
            (str(len(windows.people)), "people"),
            (_hours(sum(row.seconds for row in recordings)), "hours, minutes, seconds recorded"),
            (str(len(windows)), "windows"),
            (f"{100 * labelled:.0f} %", "of them labelled"),
        ],
        classes=windows.meta.classes,
        people=_people(imported),
        recordings=odd,
        most=MOST_ROWS,
        reasons=[reason.value for reason in Left if any(row.left[reason.value] for row in recordings)],
        rates=_rates,
        notes=notes(imported),
        spectra=_spectra(windows),
        samples=_samples(windows),
        recipe=to_yaml(imported.recipe),
    )


def _sentence(imported: Imported) -> str:
    windows, recipe = imported.windows, imported.recipe
    units = ", ".join(f"{name} in {sensor.unit}" for name, sensor in recipe.sensors.items())
    people, recordings = len(windows.people), len(imported.cuts)
    return (
        f"{len(windows)} windows of {recipe.seconds:.4g} s ({recipe.window} samples at {recipe.target_rate:g} Hz, a "
        f"new one every {recipe.step}) from {recordings} recording{'s' if recordings > 1 else ''} of {people} "
        f"{'people' if people > 1 else 'person'}; read {units}"
    )


def notes(imported: Imported) -> list[str]:
    """Say what a user should know of, in words."""
    told = list(imported.notes)
    found = [cut.found for cut in imported.cuts]
    total = sum(one.seconds for one in found)
    if gaps := [b - a for one in found for a, b in one.gaps]:
        told.append(f"gaps that were cut out: {len(gaps)}, {sum(gaps):.1f} s together")
    for reason in Left:
        if seconds := sum(b - a for one in found for a, b in one.left.get(reason, [])):
            told.append(f"left out because {reason.value}: {seconds:.1f} s, {100 * seconds / total:.1f} % of the time")
    for what, count in (
        ("lost samples that were interpolated", sum(one.filled for one in found)),
        ("samples that came late and were put in order", sum(one.sorted for one in found)),
        ("samples dropped because they repeat a time", sum(one.repeated for one in found)),
        ("windows left out because more than a tenth of them is lost", sum(len(cut.lost) for cut in imported.cuts)),
        ("recordings that give no window", sum(not len(cut.labels) for cut in imported.cuts)),
    ):
        if count:
            told.append(f"{what}: {count}")
    if missing := sorted(set(imported.recipe.labels.values()) - {None, *imported.windows.meta.classes}, key=str):
        told.append(f"no window has the label {', '.join(map(str, missing))}, which the recipe names")
    return told


def _people(imported: Imported) -> list[Row]:
    classes = imported.windows.meta.classes
    return [
        _row(person, [cut for cut in imported.cuts if cut.person == person], classes)
        for person in imported.windows.people
    ]


def _row(name: str, cuts: Sequence[Cut], classes: Sequence[str]) -> Row:
    found = [cut.found for cut in cuts]
    seconds = sum(one.seconds for one in found)
    labels = np.concatenate([cut.labels for cut in cuts])
    rates = [rate for one in found for rate in one.rates.values()]
    gaps = [b - a for one in found for a, b in one.gaps]
    left = {reason.value: sum(b - a for one in found for a, b in one.left.get(reason, [])) / seconds for reason in Left}
    return Row(
        name=name,
        recordings=len(cuts),
        seconds=seconds,
        counts=[int((labels == label).sum()) for label in (*classes, "")],
        rates=(min(rates), max(rates)),
        uneven=max(share for one in found for share in one.uneven.values()),
        gaps=(len(gaps), sum(gaps)),
        filled=sum(one.filled for one in found),
        left=left,
        lost=sum(len(cut.lost) for cut in cuts),
    )


def _hours(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _rates(row: Row) -> str:
    low, high = (f"{rate:.4g}" for rate in row.rates)
    return low if low == high else f"{low} to {high}"


def _spectra(windows: Windows) -> list[Picture]:
    """Draw how the power of each sensor is spread over frequencies."""
    drawn = []
    for number, triad in enumerate(windows.meta.spec.triads[:MOST_PICTURES]):
        name = _sensor(windows, triad)
        x = windows.x[:: max(1, len(windows) // 2000), list(triad.channels)]
        frequency, power = periodogram(x, windows.meta.spec.time.rate, "hann", axis=-1)
        mean = power.sum(axis=1).mean(axis=0)[1:]
        with canvas(320, 190) as (figure, axes):
            axes.plot(frequency[1:], mean, color=PALETTE[0])
            axes.set(xlabel="Hz", ylabel="power density", yscale="log")
        most = frequency[1:][mean.argmax()]
        drawn.append(picture(f"spectrum-{number}", name, f"Spectrum of {name}: most power at {most:.2f} Hz", figure))
    return drawn


def _samples(windows: Windows) -> list[Picture]:
    """Draw a window of each activity, of the first three-axis sensor."""
    triads = windows.meta.spec.triads
    if not triads:
        return []
    drawn: list[Picture] = []
    name = _sensor(windows, triads[0])
    classes = (*windows.meta.classes, "no label")
    for label in [*range(len(windows.meta.classes)), UNLABELLED]:
        rows: NDArray[np.int64] = np.flatnonzero(windows.y == label)
        if not len(rows) or len(drawn) == MOST_PICTURES:
            continue
        row = int(rows[len(rows) // 2])
        with canvas(320, 190) as (figure, axes):
            for axis, channel in enumerate(triads[0].channels):
                time = np.arange(windows.x.shape[2]) / windows.meta.spec.time.rate
                axes.plot(time, windows.x[row, channel], color=PALETTE[axis], label="xyz"[axis], lw=1.3)
            axes.set(xlabel="s", ylabel=f"{name} ({windows.meta.spec.units[triads[0].channels[0]]})")
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=9, borderpad=0)
        title = f"{classes[label]}, person {windows.person[row]}"
        drawn.append(picture(f"window-{len(drawn)}", title, f"x, y and z of {name} in a window: {title}", figure))
    return drawn


def _sensor(windows: Windows, triad: Triad) -> str:
    return windows.meta.spec.channels[triad.channels[0]].removesuffix("_x")
