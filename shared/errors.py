"""Errors that a user can act on, and the one way a command line reports them."""

import errno
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType
from typing import NoReturn, TypeVar

from rich.console import Console
from rich.markup import escape

T = TypeVar("T")

_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a disk refuses with: no right to write, or no room."""


class UserError(Exception):
    """Bad input: the message names the thing, what was expected and what was found.

    Command lines print the message alone and exit with code 2.
    """


def choose(kind: str, table: Mapping[str, T], name: str) -> T:
    """Return ``table[name]``; an unknown name is a ``UserError`` that lists what there is."""
    if not isinstance(name, str) or name not in table:
        raise UserError(f"unknown {kind} {name!r}{nearest(str(name), table)}; expected one of: {', '.join(table)}")
    return table[name]


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest candidate, or an empty string."""
    match = get_close_matches(name, list(candidates), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""


@contextmanager
def refusals_named() -> Iterator[None]:
    """Raise as a ``UserError`` what a disk refuses in the block: no right to write, or no room.

    Libraries write too, and a disk can be full at any byte, so that this cannot be left to the places that write.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise UserError(": ".join(filter(None, ["cannot write", error.filename, error.strerror]))) from error


def run_command(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a command line's ``main(arguments)`` and exit: 0 done, 2 bad input, 130 interrupted, 143 terminated.

    SIGTERM and SIGHUP unwind as Ctrl-C does, so that what was started is stopped.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _unwind)
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback between the lines
    try:
        with refusals_named():
            main(sys.argv[1:])
    except UserError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; what was finished is saved")
        sys.exit(130)
    sys.exit(0)


def _unwind(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
