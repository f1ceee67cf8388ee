"""Data sets by name, each as one pair of windows: training people and test people."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from shared.data import folder, synthetic, uci_har, watch
from shared.data.partition import by_person, each_person
from shared.data.person import Person, in_order
from shared.data.statistics import ChannelStatistics, warn_of_constant
from shared.data.windows import Windows
from shared.errors import UserError, choose
from shared.settings import NO_IDENTITY, Settings

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
    path: Annotated[Path | None, NO_IDENTITY]
    holdout: tuple[Person, ...]


def load(settings: DataSettings) -> tuple[Windows, Windows]:
    """Load a data set as (train, test), split by person; channels that never change are warned of.

    Raises:
        UserError: An unknown data set, bad data, a person in both parts, or a holdout that names people who are
            not in the training part or leaves nobody to train on.
    """
    train, test = _load(settings)
    statistics = {
        windows.people[0]: ChannelStatistics.of(windows) for part in (train, test) for windows in each_person(part)
    }
    warn_of_constant(statistics, train.meta.spec.channels)
    return train, test


def _load(settings: DataSettings) -> tuple[Windows, Windows]:
    train, test = choose("data set", DATASETS, settings.name)(settings.path)
    if settings.holdout:
        rest = without(train.people, settings.holdout, train.meta.name)
        train, test = train.of(rest), train.of(list(settings.holdout))
    if both := in_order(set(train.people) & set(test.people)):
        raise UserError(f"{settings.name}: people {both} are in both the training and the test part")
    return train, test


def without(people: Sequence[str], holdout: Collection[str], name: str) -> list[str]:
    """Return the training people who stay when some are held out.

    Raises:
        UserError: A held-out person who is not there, or nobody left to train on.
    """
    if missing := in_order(set(holdout) - set(people)):
        raise UserError(f"{name}: unknown people {missing}; there are {list(people)}")
    rest = [person for person in people if person not in holdout]
    if not rest:
        raise UserError(f"{name}: holdout {in_order(holdout)} leaves nobody to train on")
    return rest


@dataclass(frozen=True)
class People:
    """People's windows, one person after another in the natural order of their ids.

    Args:
        ids: Of the people; the i-th is the client with partition-id i.
        read: Returns the windows of the person with an id.
    """

    ids: Sequence[str]
    read: Callable[[str], Windows]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, partition: int) -> Windows:
        return self.read(self.ids[partition])


def training_people(settings: DataSettings) -> People:
    """Return the training people, as the clients of a federation.

    Those who have a file each are read, and checked, when they are asked for, so that memory does not grow with their
    number; test people, who are no clients, are not read.

    Raises:
        UserError: As ``load``; about a file of one person, when it is read.
    """
    if settings.name == "folder":
        files = folder.PersonFiles(settings.path)
        train = [person for person in files.people if person not in files.test_people]
        if settings.holdout:
            train = without(train, settings.holdout, files.meta.name)
        return People(train, files.read)
    windows, _ = _load(settings)
    return People(windows.people, dict(zip(windows.people, by_person(windows), strict=True)).__getitem__)
