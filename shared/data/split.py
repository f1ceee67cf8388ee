"""One file per training person: what each client of a deployed federation takes to its own machine."""

from pathlib import Path

from shared.data import DataSettings, load
from shared.data.folder import write_folder
from shared.errors import UserError


def split_people(settings: DataSettings, out: Path) -> list[int]:
    """Write the training people's windows in the layout of ``shared.data.folder``, one file per person.

    The folder is a data set of its own, in which everybody trains; a client needs its person's file and
    ``dataset.json``. It appears whole or not at all.

    Args:
        settings: The data set; people it holds out for tests are left out.
        out: A folder that does not exist yet.

    Returns:
        The people's ids in ascending order: the i-th is the client with partition-id i.

    Raises:
        UserError: Bad data, or a folder that exists or cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} exists already and is not overwritten; name a new folder")
    train, _ = load(settings)
    write_folder(out, train, train[:0])
    return train.people
