"""Data sets by name, each as one pair of windows: training people and test people.

Several together are one pair, of the channels that all have (``load``), or a pair each, with its own channels
(``load_apart``), where an encoder takes any sensors.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from shared.data import cifar10, dsads, folder, images, motionsense, stl10, synthetic, uci_har, watch
from shared.data.conform import at_rate, common_spec, conform, pick
from shared.data.partition import each_person
from shared.data.parts import PartSettings, divide
from shared.data.person import Person, in_order
from shared.data.spec import Name
from shared.data.statistics import ChannelStatistics, warn_of_constant
from shared.data.windows import UNLABELLED, Meta, Windows
from shared.errors import UserError, choose
from shared.large import concatenate
from shared.settings import NO_IDENTITY, Settings

Split = tuple[Windows, Windows]
"""Windows of the training and of the test people."""

Loader = Callable[[Path | None], Split]
"""Reads a data set from a path (None: where the data set is by default) into training and test windows."""

DATASETS: dict[str, Loader] = {
    "uci_har": uci_har.load,
    "watch": watch.load,
    "motionsense": motionsense.load,
    "dsads": dsads.load,
    "folder": folder.load,
    "synthetic": synthetic.load,
}
"""Of windows with a time axis, by name."""

IMAGE_SETS: dict[str, Loader] = {
    "cifar10": cifar10.load,
    "stl10": stl10.load,
    "image_folder": images.load,
}
"""Of images, by name."""

SOURCES = {module.SOURCE.name: module.SOURCE for module in (uci_har, watch, motionsense, dsads, cifar10, stl10)}
"""Where the public ones are from, and on what terms."""


class DataSettings(Settings):
    """Which windows to use.

    Args:
        name: A key of ``DATASETS`` or of ``IMAGE_SETS``.
        sets: Keys of ``DATASETS`` to use together, in place of ``name``; see ``join``. Empty: ``name`` alone.
        path: Where the data set is, or None for its default place. Of several, where "folder" is.
        channels: To use, by name, in this order. Empty: all; of several data sets, those that all of them have, or
            each its own for an encoder that takes any sensors.
        holdout: People of the training part who become the test part, while the data set's own test people are
            left out: what is tuned is then tuned without them. Empty: the data set's own split.
        parts: How images that nobody owns are divided: the parts are the training people.
    """

    name: str
    sets: tuple[str, ...]
    path: Annotated[Path | None, NO_IDENTITY]
    channels: tuple[Name, ...]
    holdout: tuple[Person, ...]
    parts: PartSettings

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets."""
        return self.sets or (self.name,)

    @property
    def title(self) -> str:
        """What to call them."""
        return "+".join(self.names)


def load(settings: DataSettings) -> Split:
    """Load a data set as (train, test), split by person; channels that never change are warned of.

    Raises:
        UserError: An unknown data set, bad data, a person in both parts, or a holdout that names people who are
            not in the training part or leaves nobody to train on.
    """
    (split,) = _warned([_load(settings)])
    return split


def load_apart(settings: DataSettings) -> list[Split]:
    """Load data sets as (train, test) each, with the channels and the window length that each has.

    All have the rate of the first. People are called as by ``join``. A data set whose people are all held out has no
    training windows. One data set alone, or data sets of which channels are named, are as ``load`` returns them.

    Raises:
        UserError: As ``load``.
    """
    return _warned(_load_apart(settings))


def _warned(splits: list[Split]) -> list[Split]:
    for split in splits:
        statistics = {
            windows.people[0]: ChannelStatistics.of(windows) for part in split for windows in each_person(part)
        }
        warn_of_constant(statistics, split[0].meta.spec.channels)
    return splits


def _load(settings: DataSettings) -> Split:
    (split,) = _held_out(settings, [_all_of(settings)])
    return split


def _load_apart(settings: DataSettings) -> list[Split]:
    if len(settings.names) == 1 or settings.channels:
        return [_load(settings)]
    sets = _sets(settings)
    rate = next(iter(sets.values()))[0].meta.spec.time.rate
    return _held_out(settings, [_alone(name, split, rate) for name, split in sets.items()])


def _alone(name: str, split: Split, rate: float) -> Split:
    train, test = (conform(part, at_rate(part.meta.spec, rate)) for part in split)
    return _named(name, train), _named(name, test)


def _named(name: str, windows: Windows) -> Windows:
    """Call people after their data set, so that they are unique among several."""
    return replace(windows, person=np.char.add(f"{name}/", windows.person))


def _held_out(settings: DataSettings, splits: list[Split]) -> list[Split]:
    """Make test people of those training people whom the settings hold out, and check that nobody is in both parts."""
    if settings.holdout:
        people = [person for train, _ in splits for person in train.people]
        rest = without(people, settings.holdout, "+".join(train.meta.name for train, _ in splits))
        parts = [(train, np.isin(train.person, rest)) for train, _ in splits]
        splits = [(train[stays], train[~stays]) for train, stays in parts]
    for train, test in splits:
        if both := in_order(set(train.people) & set(test.people)):
            raise UserError(f"{train.meta.name}: people {both} are in both the training and the test part")
    return splits


def _all_of(settings: DataSettings) -> Split:
    sets = _sets(settings)
    if len(sets) == 1:
        ((train, test),) = sets.values()
        if settings.names[0] in IMAGE_SETS:
            train = divide(train, settings.parts)
        return with_channels(train, settings.channels), with_channels(test, settings.channels)
    train = join({name: train for name, (train, _) in sets.items()}, settings.channels)
    test = join({name: test for name, (_, test) in sets.items()}, settings.channels)
    return train, test


def _sets(settings: DataSettings) -> dict[str, Split]:
    """Read the data sets as they are."""
    names = settings.names
    for knob, values in (("sets", names), ("channels", settings.channels)):
        if twice := sorted(name for name, count in Counter(values).items() if count > 1):
            raise UserError(f"data.{knob} names {', '.join(twice)} more than once")
    if len(names) > 1 and settings.path is not None and "folder" not in names:
        raise UserError(
            f"data.path is where one data set is, and data.sets names {', '.join(names)}: set data.path=null, and name "
            "the place of each by its environment variable, as FEDHAR_UCI_HAR"
        )
    paths = {name: settings.path if len(names) == 1 or name == "folder" else None for name in names}
    known = DATASETS | IMAGE_SETS if len(names) == 1 else DATASETS
    return {name: choose("data set", known, name)(path) for name, path in paths.items()}


def join(parts: Mapping[str, Windows], channels: Sequence[str] = ()) -> Windows:
    """Put windows of several data sets together.

    They are brought to the channels that all have (or to those that are named) in the units, the rate and the size of
    the first. Activities of the same name are the same. Person 3 of uci_har becomes ``uci_har/3``.

    Args:
        parts: Windows by the names of their data sets.
        channels: To use.

    Raises:
        UserError: Windows that cannot be brought to it, or no channel in common.
    """
    specs = [part.meta.spec for part in parts.values()]
    spec = pick(specs[0], channels) if channels else common_spec(specs)
    classes = tuple(dict.fromkeys(name for part in parts.values() for name in part.meta.classes))
    fitted = [_named(name, conform(part, spec)) for name, part in parts.items()]
    return Windows(
        x=concatenate((part.x for part in fitted), spec.shape, np.float32),
        y=np.concatenate([_relabelled(part, classes) for part in fitted]),
        person=np.concatenate([part.person for part in fitted]),
        meta=Meta("+".join(parts), spec, classes),
    )


def _relabelled(windows: Windows, classes: tuple[str, ...]) -> NDArray[np.int64]:
    places = np.array([*map(classes.index, windows.meta.classes), UNLABELLED])  # -1 is the last
    relabelled: NDArray[np.int64] = places[windows.y]
    return relabelled


def with_channels(windows: Windows, channels: Sequence[str]) -> Windows:
    """Return windows of the named channels; of all, where none is named.

    Raises:
        UserError: A channel that is not there, or is measured at several places.
    """
    return conform(windows, pick(windows.meta.spec, channels)) if channels else windows


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


def training_people(settings: DataSettings, apart: bool = False) -> People:
    """Return the training people, as the clients of a federation.

    Those who have a file each are read, and checked, when they are asked for, so that memory does not grow with their
    number; test people, who are no clients, are not read.

    Args:
        settings: The data.
        apart: Whether the people of each of several data sets have its own channels (``load_apart``).

    Raises:
        UserError: As ``load``; about a file of one person, when it is read.
    """
    if settings.names == ("folder",):
        files = folder.PersonFiles(settings.path)
        train = [person for person in files.people if person not in files.test_people]
        if settings.holdout:
            train = without(train, settings.holdout, files.meta.name)
        return People(train, lambda person: with_channels(files.read(person), settings.channels))
    splits = _load_apart(settings) if apart else [_load(settings)]
    people = {windows.people[0]: windows for train, _ in splits for windows in each_person(train)}
    return People(in_order(people), people.__getitem__)
