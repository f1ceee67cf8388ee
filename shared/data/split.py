"""One file per training person: what each client of a deployed federation takes to its own machine."""

from pathlib import Path

from shared.data import DataSettings, load, load_apart
from shared.data.folder import new_folder, write_folder
from shared.data.partition import cut
from shared.data.person import in_order
from shared.errors import UserError


def split_people(settings: DataSettings, out: Path, virtual: tuple[int, int] | None = None) -> list[str]:
    """Write the training people's windows in the layout of ``shared.data.folder``, one file per person.

    The folder is a data set of its own, in which everybody trains; a client needs its person's file and
    ``dataset.json``. It appears whole or not at all. Of several data sets, each has a folder in it (``load_apart``).

    Args:
        settings: The data sets; people they hold out for tests are left out.
        out: A folder that does not exist yet.
        virtual: Cut the people into so many virtual ones, of so many windows each (``shared.data.partition.cut``).

    Returns:
        The people's ids in natural order: the i-th is the client with partition-id i.

    Raises:
        UserError: Bad data, more virtual people than can be cut, virtual people of several data sets, or a folder that
            exists or cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} exists already and is not overwritten; name a new folder")
    if len(settings.names) == 1:
        train, _ = load(settings)
        if virtual:
            train = cut(train, *virtual)
        write_folder(out, train, train[:0])
        return train.people
    if virtual:
        raise UserError(f"virtual people are made of one data set, found {', '.join(settings.names)}")
    parts = {name: train for name, (train, _) in zip(settings.names, load_apart(settings), strict=True) if len(train)}
    with new_folder(out) as temporary:
        for name, train in parts.items():
            write_folder(temporary / name, train, train[:0])
    return in_order(person for train in parts.values() for person in train.people)
