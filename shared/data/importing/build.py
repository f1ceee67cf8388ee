"""From files and a recipe to the windows of a data set, with all that was found on the way."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from shared.data.importing.align import ABSOLUTE
from shared.data.importing.cutting import Cut, check_left, cut
from shared.data.importing.labels import Intervals
from shared.data.importing.reading import read_table
from shared.data.importing.recipe import Recipe
from shared.data.importing.recordings import Reader, group
from shared.data.importing.sources import Source
from shared.data.person import in_order, numbered
from shared.data.spec import InputSpec
from shared.data.windows import UNLABELLED, Meta, Windows
from shared.errors import UserError
from shared.large import Stack, blocks, take_rows


@dataclass(frozen=True, eq=False)
class Imported:
    """A data set made of recordings.

    Args:
        recipe: That it was made by.
        windows: Of all people.
        cuts: By recording, without their windows.
        notes: What a user should know, in words.
    """

    recipe: Recipe
    windows: Windows
    cuts: list[Cut]
    notes: list[str]

    @property
    def parts(self) -> tuple[Windows, Windows]:
        """The windows of the training people and of the test people."""
        test = np.isin(self.windows.person, self.recipe.test_people)
        return self.windows[~test], self.windows[test]


def build(sources: Sequence[Source], recipe: Recipe, console: Console) -> Imported:
    """Read recordings and cut them into windows.

    Args:
        sources: The files.
        recipe: What they mean.
        console: Where to show progress.

    Raises:
        UserError: A file that does not fit the recipe, recordings of one person that overlap, intervals or test people
            without a recording, or no window.
    """
    parts, label_files, others = group(sources, recipe)
    if recipe.label_file and not label_files:
        raise UserError(f"expected a file named {recipe.label_file!r} with intervals, as the recipe tells; found none")
    intervals = Intervals.read([read_table(file, file.read()) for file in label_files]) if label_files else None
    reader = Reader(recipe, intervals)
    shown = track(parts, "reading", console=console, transient=True, disable=not console.is_terminal)
    windows, cuts = Stack((len(recipe.channels), recipe.window), np.float32), []
    for recording in (recording for one in shown for recording in reader.read(one)):
        made = cut(recording, recipe)
        for block in blocks(made.x):
            windows.append(block)
        cuts.append(replace(made, x=windows.empty))
    if intervals is not None:
        intervals.check_used()
    _check_overlaps(cuts, by_intervals=intervals is not None)
    check_left(cuts, recipe)
    notes = [*reader.twice]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        notes.append(f"not read, because the recipe does not fit: {others[0].place}{more}")
    return Imported(recipe, _join(cuts, windows.array(), recipe), cuts, notes)


def _check_overlaps(cuts: Iterable[Cut], by_intervals: bool) -> None:
    """Refuse two recordings of one person at one time, where times can be compared or intervals need it."""
    last: dict[str, Cut] = {}
    for one in sorted(cuts, key=lambda one: one.found.start):
        before = last.get(one.person)
        comparable = by_intervals or one.found.start > ABSOLUTE
        if before is not None and comparable and one.found.start < before.found.start + before.found.seconds:
            raise UserError(
                f"{before.name} and {one.name} are of person {one.person} and overlap in time, from "
                f"{one.found.start:.12g} s on: give one of them to another person, or leave it out"
            )
        last[one.person] = one


def _join(cuts: Sequence[Cut], x: NDArray[np.float32], recipe: Recipe) -> Windows:
    """Return all windows, person by person.

    Args:
        cuts: By recording.
        x: Windows of the recordings, in their order.
        recipe: What they are.
    """
    person = np.repeat([one.person for one in cuts], [len(one.labels) for one in cuts])
    people, places = numbered(person)
    if missing := in_order(set(recipe.test_people) - set(people)):
        raise UserError(f"test_people {missing} have no windows; there are windows of {', '.join(people)}")
    order = np.argsort(places, kind="stable")
    labels = np.concatenate([one.labels for one in cuts])[order]
    classes = _classes(labels, recipe)
    channels = recipe.channels
    spec = InputSpec(
        channels=tuple(channels), units=tuple(channels.values()), size=(recipe.window,), rate=recipe.target_rate
    )
    return Windows(
        x=take_rows(x, order),
        y=_numbers(labels, classes),
        person=person[order],
        meta=Meta(recipe.name, spec, classes),
    )


def _classes(labels: NDArray[np.str_], recipe: Recipe) -> tuple[str, ...]:
    """Return the activities: in the order in which the recipe names them, then by name."""
    found = set(labels.tolist()) - {""}
    told = [label for label in dict.fromkeys(recipe.labels.values()) if label is not None and label in found]
    return (*told, *in_order(found - set(told)))


def _numbers(labels: NDArray[np.str_], classes: tuple[str, ...]) -> NDArray[np.int64]:
    number = {name: place for place, name in enumerate(classes)} | {"": UNLABELLED}
    found, inverse = np.unique(labels, return_inverse=True)
    return np.array([number[label] for label in found.tolist()], np.int64)[inverse]
