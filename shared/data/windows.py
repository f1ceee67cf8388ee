"""The one container for sensor windows: signals, labels, people and features travel together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from shared.data.person import in_order, person_id
from shared.data.spec import InputSpec
from shared.errors import UserError
from shared.large import finite_rows, take_rows

UNLABELLED = -1
"""The label of a window whose activity nobody has told."""


@dataclass(frozen=True)
class Meta:
    """What the numbers of a data set mean.

    Args:
        name: The data set.
        spec: What one window is.
        classes: Activity names; label k is ``classes[k]``.
        feature_names: Names of the F features that the data set ships, empty where it ships none.
    """

    name: str
    spec: InputSpec
    classes: tuple[str, ...]
    feature_names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Windows:
    """N windows, with everything known of each.

    Indexing (a slice, a boolean mask or an index array) keeps all fields together, so that no window can
    ever be paired with another one's label or person.

    Args:
        x: float32 (N, ``*meta.spec.shape``) in physical units, of images uint8 too; where it is large, in a file
            (``shared.large``).
        y: int64 (N,) labels: indices of ``meta.classes``, or ``UNLABELLED``.
        person: text (N,), the ids of people (``shared.data.person``).
        meta: What the numbers mean.
        features: float32 (N, F) shipped with the data set, or None.

    Raises:
        UserError: Shapes that do not fit together, or values that are not finite.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]
    person: NDArray[np.str_]
    meta: Meta
    features: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n, name = len(self.x), self.meta.name
        images = self.meta.spec.rate is None
        if self.x.shape != (n, *self.meta.spec.shape) or self.x.dtype not in (np.float32, *([np.uint8] * images)):
            wanted = ", ".join(map(str, ("N", *self.meta.spec.shape)))
            kinds = "images must be uint8 or float32" if images else "windows must be float32"
            raise UserError(f"{name}: {kinds} ({wanted}), found {self.x.dtype} of shape {self.x.shape}")
        if self.person.dtype.kind != "U":
            raise UserError(f"{name}: people must be text, found {self.person.dtype}")
        for one in np.unique(self.person).tolist():
            _check_spelling(one, name)
        columns = {"y": self.y, "person": self.person} | ({} if self.features is None else {"features": self.features})
        for field, value in columns.items():
            if len(value) != n:
                raise UserError(f"{name}: {n} windows, but {len(value)} rows of {field}")
        if n and not (self.y.min() >= UNLABELLED and self.y.max() < len(self.meta.classes)):
            raise UserError(f"{name}: {expected_labels(self.meta.classes)}, found {self.y.min()}..{self.y.max()}")
        bad = ~finite_rows(self.x)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"{name}: {int(bad.sum())} of {n} windows hold NaN or infinite values; the first is window {first} "
                f"of person {self.person[first]}"
            )

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> "Windows":
        features = None if self.features is None else take_rows(self.features, rows)
        return replace(
            self,
            x=take_rows(self.x, rows),
            y=self.y[rows],
            person=self.person[rows],
            features=features,
            meta=self.meta,
        )

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Which windows have a label, bool (N,)."""
        mask: NDArray[np.bool_] = self.y != UNLABELLED
        return mask

    @property
    def people(self) -> list[str]:
        """The ids of the people present, in natural order."""
        return in_order(np.unique(self.person).tolist())

    def of(self, people: list[str]) -> "Windows":
        """The windows of the named people, in their original order.

        Raises:
            UserError: A person who is not in the data.
        """
        if missing := in_order(set(people) - set(self.people)):
            raise UserError(f"{self.meta.name}: unknown people {missing}; there are {self.people}")
        return self[np.isin(self.person, people)]


def _check_spelling(person: str, name: str) -> None:
    try:
        spelling = person_id(person)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    if spelling != person:
        raise UserError(f"{name}: expected the person's id as {spelling!r}, found {person!r}")


def cut_recordings(
    recordings: Sequence[NDArray[np.floating[Any]]], y: NDArray[np.integer[Any]], person: NDArray[np.str_], meta: Meta
) -> Windows:
    """Cut recordings into windows that overlap by half; what is left at the end of a recording is dropped.

    Args:
        recordings: Each (time, C), at the rate of ``meta.spec``; one that is shorter than a window gives none.
        y: The label of each.
        person: The id of the person of each.
        meta: What the numbers mean.
    """
    samples = meta.spec.time.samples
    empty = np.empty((0, *meta.spec.shape), np.float32)
    parts = [
        sliding_window_view(signal, samples, axis=0)[:: samples // 2] if len(signal) >= samples else empty
        for signal in recordings
    ]
    counts = [len(part) for part in parts]
    return Windows(
        x=np.concatenate([empty, *parts]).astype(np.float32),
        y=np.repeat(y, counts).astype(np.int64),
        person=np.repeat(person, counts),
        meta=meta,
    )


def as_arrays(
    recordings: Sequence[NDArray[np.float32]], y: Sequence[int], person: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return recordings (time, C), their labels and people as arrays that a cache can keep."""
    return {
        "signals": np.concatenate(recordings),
        "lengths": np.array([len(signal) for signal in recordings]),
        "y": np.array(y),
        "person": np.array(person),
    }


def cut_and_split(
    arrays: Mapping[str, NDArray[Any]], meta: Meta, test_people: Sequence[str]
) -> tuple[Windows, Windows]:
    """Cut what ``as_arrays`` returned into windows of the training and of the test people."""
    recordings = np.split(arrays["signals"], arrays["lengths"].cumsum()[:-1])
    windows = cut_recordings(recordings, arrays["y"], arrays["person"], meta)
    test = np.isin(windows.person, test_people)
    return windows[~test], windows[test]


def expected_labels(classes: tuple[str, ...]) -> str:
    """Say which labels windows of these classes may have."""
    known = f"0..{len(classes) - 1} or " if classes else ""
    return f"expected labels {known}{UNLABELLED} (not labelled)"
