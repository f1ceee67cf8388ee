"""Data sets by name, each as one pair of windows: training people and test people."""

from collections.abc import Callable
from pathlib import Path

from shared.data import folder, synthetic, uci_har, watch
from shared.data.windows import Windows
from shared.errors import UserError, choose
from shared.settings import Settings

Loader = Callable[[Path | None], tuple[Windows, Windows]]
"""Reads a data set from a path (None: where the data set is by default) into training and test windows."""

DATASETS: dict[str, Loader] = {
    "uci_har": uci_har.load,
    "watch": watch.load,
    "folder": folder.load,
    "synthetic": synthetic.load,
}


class DataSettings(Settings):
    """Which windows to use.

    Args:
        name: A key of ``DATASETS``.
        path: Where the data set is, or None for its default place.
        holdout: People of the training part who become the test part, while the data set's own test people are
            left out: what is tuned is then tuned without them. Empty: the data set's own split.
    """

    name: str
    path: Path | None
    holdout: tuple[int, ...]


def load(settings: DataSettings) -> tuple[Windows, Windows]:
    """Load a data set as (train, test), split by person.

    Raises:
        UserError: An unknown data set, bad data, a person in both parts, or a holdout that names people who are
            not in the training part or leaves nobody to train on.
    """
    train, test = choose("data set", DATASETS, settings.name)(settings.path)
    if settings.holdout:
        train, test = hold_out(train, settings.holdout)
    if both := sorted(set(train.people) & set(test.people)):
        raise UserError(f"{settings.name}: people {both} are in both the training and the test part")
    return train, test


def hold_out(train: Windows, people: tuple[int, ...]) -> tuple[Windows, Windows]:
    """Split the training part into those who stay and the named people, who become the test part.

    Raises:
        UserError: A person who is not in the training part, or nobody left to train on.
    """
    test = train.of(list(people))
    rest = [person for person in train.people if person not in people]
    if not rest:
        raise UserError(f"{train.meta.name}: holdout {sorted(people)} leaves nobody to train on")
    return train.of(rest), test
