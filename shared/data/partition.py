"""Who holds which windows, and which of them are labelled."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shared.data.person import numbered, of_numbers, person_seed
from shared.data.windows import Windows
from shared.errors import UserError


def by_person(windows: Windows) -> list[Windows]:
    """Split windows into one part per person, in the order of ``Windows.people``.

    Each part holds all windows of its person, in their original order, and no other window.
    """
    return list(each_person(windows))


def each_person(windows: Windows) -> Iterator[Windows]:
    """Yield what ``by_person`` returns, one part after another, which takes less memory."""
    _, places = numbered(windows.person)
    order = np.argsort(places, kind="stable")
    for rows in np.split(order, np.bincount(places).cumsum()[:-1]) if len(windows) else []:
        yield windows[rows]


def cut(windows: Windows, people: int, size: int) -> Windows:
    """Make many virtual people of few real ones: each is a run of consecutive windows of one real person.

    Real people are cut into nearly the same number of runs, which begin at even distances and overlap where there are
    not enough windows.

    Args:
        windows: Of the real people.
        people: Number of virtual people; their ids are "1" to ``people``.
        size: Windows of each.

    Raises:
        UserError: Fewer virtual people than real ones, or a real person with fewer windows than ``size``.
    """
    real, name = by_person(windows), windows.meta.name
    if size < 1 or not real or people < len(real):
        raise UserError(
            f"{name}: expected at least {len(real)} virtual people, one of each real person, and at least 1 window of "
            f"each; found {people} and {size}"
        )
    rows = []
    for part, runs in zip(real, np.array_split(np.arange(people), len(real)), strict=True):
        if len(part) < size:
            raise UserError(f"{name}: person {part.people[0]} has {len(part)} windows, fewer than the {size} asked for")
        starts = np.linspace(0, len(part) - size, len(runs)).round().astype(np.int64)
        own = np.flatnonzero(windows.person == part.people[0])
        rows.append(own[starts[:, None] + np.arange(size)].ravel())
    return replace(windows[np.concatenate(rows)], person=np.repeat(of_numbers(np.arange(1, people + 1)), size))


def draw_labels(windows: Windows, per_class: int | None, seed: int) -> NDArray[np.int64]:
    """Choose the windows of a label regime among the labelled ones: a number of windows per person and class.

    Each person and class has a generator of its own, so a person's draw does not depend on who else is there,
    and a draw of fewer labels is a part of a draw of more with the same seed.

    Args:
        windows: The windows to choose from.
        per_class: Windows per person and class; somebody who has fewer gives all. None: every labelled window.
        seed: Seed of the draw.

    Returns:
        Sorted int64 indices into ``windows``.

    Raises:
        UserError: ``per_class`` below 1.
    """
    if per_class is None:
        return np.flatnonzero(windows.labelled)
    if per_class < 1:
        raise UserError(f"labels per person and class must be at least 1, found {per_class}")
    chosen = [rows[:per_class] for rows in _shuffled_cells(windows, seed).values()]
    return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))


def draw_fraction(windows: Windows, fraction: float, seed: int) -> NDArray[np.int64]:
    """Choose a fraction of the labelled windows, stratified by class and, within it, by person.

    Each class gets its rounded share, at least one window; within a class the people's shares are rounded so
    that they sum to it, starting from a person drawn by the seed.

    Args:
        windows: The windows to choose from.
        fraction: Share of the labelled windows, above 0 and at most 1.
        seed: Seed of the draw.

    Returns:
        Sorted int64 indices into ``windows``.

    Raises:
        UserError: A fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"the fraction of labels must be above 0 and at most 1, found {fraction}")
    cells = _shuffled_cells(windows, seed)
    chosen = [np.empty(0, np.int64)]
    for label in np.unique(windows.y[windows.labelled]).tolist():
        rows = [cell for (_, of_label), cell in cells.items() if of_label == label]
        order = np.random.default_rng([seed, label]).permutation(len(rows))
        sizes = np.array([len(rows[i]) for i in order])
        share = max(1, round(fraction * int(sizes.sum()))) / sizes.sum()
        ends = np.rint(np.cumsum(sizes) * share).astype(np.int64)
        counts = np.diff(ends, prepend=0)
        chosen += [rows[i][:count] for i, count in zip(order, counts, strict=True)]
    return np.sort(np.concatenate(chosen))


def _shuffled_cells(windows: Windows, seed: int) -> dict[tuple[str, int], NDArray[np.int64]]:
    """Return the labelled rows of each (person, class), in an order drawn from (seed, person, class)."""
    if seed < 0:
        raise UserError(f"the seed must not be negative, found {seed}")
    cells = {}
    people, places = numbered(windows.person)
    present = np.stack([places, windows.y], axis=1)[windows.labelled]
    for place, label in np.unique(present, axis=0).tolist():
        rows = np.flatnonzero((places == place) & (windows.y == label))
        generator = np.random.default_rng([seed, person_seed(people[place]), label])
        cells[people[place], label] = generator.permutation(rows)
    return cells
