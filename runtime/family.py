"""A command that takes with it all that it started: ``python runtime/family.py FOLDER COMMAND...``.

Runs the command until it ends or until standard input does, which happens as soon as whoever started this is gone,
also by ``kill -9``. Then every process of the family is ended and the folder is removed. The family is what descends
from the command, and what has its FLWR_HOME in the folder. The first finds Ray's agents, whose titles overwrite their
environment; the second finds what was started beside the command.
"""

import ctypes
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

_LOOK_SECONDS = 0.2
_POLITE_SECONDS = 4.0
"""From SIGTERM to SIGKILL, so that a driver of Ray can take leave of a cluster."""

_MERCILESS_SECONDS = 30.0
"""Of SIGKILL to whoever is left, until what the system does not end is given up."""

_PR_SET_CHILD_SUBREAPER = 36
"""Of Linux's ``prctl``: orphans below this process become its children, not those of process 1."""


def main() -> None:
    """Run the command line's command, and leave nothing of it behind."""
    folder, *command = sys.argv[1:]
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _unwind)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        while process.poll() is None and not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            pass
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # nothing stops this now
        _end(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _unwind(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def _end(home: str) -> None:
    """End the family: politely first, then without mercy until nobody is left who can be ended."""
    left = _family(home)
    for member in left:
        with suppress(psutil.Error):
            member.terminate()
    left = psutil.wait_procs(left, _POLITE_SECONDS)[1] + _family(home)
    deadline = time.monotonic() + _MERCILESS_SECONDS
    while left and time.monotonic() < deadline:
        for member in left:
            with suppress(psutil.Error):
                member.kill()
        left = psutil.wait_procs(left, _LOOK_SECONDS)[1] + _family(home)


def _family(home: str) -> list[psutil.Process]:
    ourselves = psutil.Process()
    others = (other for other in psutil.process_iter() if other != ourselves and _has_home(other, home))
    return list({*ourselves.children(recursive=True), *others})


def _has_home(process: psutil.Process, home: str) -> bool:
    try:
        return Path(process.environ().get("FLWR_HOME", "/")).is_relative_to(home)
    except psutil.Error:  # gone, or somebody else's
        return False


if __name__ == "__main__":
    main()
