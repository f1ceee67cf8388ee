"""Who did what when: from a column of the recording, from a file of intervals, or the same all the time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from shared.data.importing.align import Floats
from shared.data.importing.table import ISO, Table, is_iso
from shared.data.person import in_order, person_id
from shared.errors import UserError

COLUMNS = ("start", "end", "label", "person")
"""Of a file of intervals; the last may be left out."""


@dataclass(frozen=True, eq=False)
class Track:
    """What a person did, from each start to the next.

    Args:
        starts: (K,) seconds, ascending.
        labels: Text (K,), "" where nobody knows.
    """

    starts: Floats
    labels: NDArray[np.str_]

    @classmethod
    def constant(cls, label: str) -> "Track":
        """Return the track of a person who did the same all the time."""
        return cls(np.array([-np.inf]), np.array([label]))

    @classmethod
    def of_samples(cls, time: Floats, labels: NDArray[np.str_]) -> "Track":
        """Return the track that a label at each sample (N,) tells."""
        known = np.isfinite(time)
        order = np.argsort(time[known], kind="stable")
        starts, found = time[known][order], labels[known][order]
        changes = np.append(True, found[1:] != found[:-1]) if len(found) else np.zeros(0, np.bool_)
        return cls(starts[changes], found[changes]) if len(found) else cls.constant("")

    def at(self, moments: Floats) -> NDArray[np.str_]:
        """Return the labels, text, at moments (s) of any shape."""
        rows = np.searchsorted(self.starts, moments, side="right") - 1
        return np.where(rows >= 0, self.labels[np.maximum(rows, 0)], "")


@dataclass
class Intervals:
    """What files of intervals tell.

    Args:
        place: What to call them in a message.
        rows: By person, "" for everybody: start, end (s) and label.
        used: People who were asked about.
    """

    place: str
    rows: dict[str, list[tuple[float, float, str]]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, tables: Sequence[Table]) -> "Intervals":
        """Read tables of intervals.

        Raises:
            UserError: A column is missing, several files do not say whose they are, an interval ends before it starts,
                or two of a person overlap.
        """
        intervals = cls(", ".join(table.place for table in tables))
        for table in tables:
            names = {name.strip().lower(): name for name in table.frame.columns}
            if missing := [name for name in COLUMNS[:3] if name not in names]:
                raise UserError(
                    f"{table.place}: expected the columns start, end, label and perhaps person, found no {missing[0]!r}"
                )
            unit = ISO if is_iso(table.texts(names["start"])[:5]) else "s"
            starts, ends = (table.times(names[name], unit) for name in COLUMNS[:2])
            if "person" not in names and len(tables) > 1:
                raise UserError(
                    f"{table.place}: expected a column person, because there are {len(tables)} files of intervals, "
                    f"found {', '.join(names)}: it tells whose they are"
                )
            people = table.texts(names["person"]) if "person" in names else [""] * len(table)
            rows = zip(starts.tolist(), ends.tolist(), table.texts(names["label"]), people, strict=True)
            for number, (start, end, label, person) in enumerate(rows):
                if not start < end:
                    raise table.refuse(
                        number, names["end"], f"a time after the start, {start:.12g} s, found {end:.12g} s"
                    )
                try:
                    owner = str(person_id(person)) if person else ""
                except ValueError as error:
                    raise UserError(f"{table.place}: {error}") from None
                intervals.rows.setdefault(owner, []).append((start, end, label))
        for person, own in intervals.rows.items():
            own.sort()
            for (_, end, label), (start, _, after) in pairwise(own):
                if start < end:
                    whose = f" of person {person}" if person else ""
                    raise UserError(
                        f"{intervals.place}: two intervals{whose} overlap: {label!r} ends at {end:.12g} s, and "
                        f"{after!r} starts at {start:.12g} s"
                    )
        return intervals

    def of(self, person: str) -> Track:
        """Return the track of a person: their own intervals, or else those of everybody."""
        self.used |= {person, ""}
        own = self.rows.get(person) or self.rows.get("")
        if own is None:
            return Track.constant("")
        edges = [(start, label) for start, _, label in own] + [(end, "") for _, end, _ in own]
        edges.sort(key=lambda edge: (edge[0], edge[1] != ""))  # where one ends and one starts, the start counts
        return Track(np.array([at for at, _ in edges]), np.array([label for _, label in edges]))

    def check_used(self) -> None:
        """Refuse intervals of people who have no recording.

        Raises:
            UserError: Names them.
        """
        if strangers := in_order(set(self.rows) - self.used):
            raise UserError(
                f"{self.place}: intervals of person {', '.join(strangers)}, who has no recording; there are recordings "
                f"of {', '.join(in_order(self.used - {''}))}"
            )
