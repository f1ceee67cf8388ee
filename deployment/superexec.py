"""Flower's SuperExec, whose ClientApps start in no time: each is a fork of this process, which has imported torch.

A SuperNode starts ``flower-superexec`` from its PATH, and that starts a new Python for every message, whose imports
cost three seconds of processor time, often more than the training. ``deployment/bin`` first on the PATH puts this in
its place; the command line is Flower's. This is the only file that touches Flower's SuperExec from within; a test fails
clearly when Flower moves it.
"""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

from flwr.supercore.cli import flower_superexec
from flwr.supercore.exit.exit_handler import registered_exit_handlers
from flwr.supercore.superexec.executor import subprocess_executor


def main() -> None:
    """Run Flower's SuperExec with our way of starting a process."""
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # run as a file, this package's own folder is there
    _import_all()
    signal.signal(signal.SIGCHLD, _bury)
    take_over()
    flower_superexec()


def take_over() -> None:
    """Let Flower's executor of processes, which asks the module ``subprocess`` for them, have forks."""
    vars(subprocess_executor)["subprocess"] = SimpleNamespace(Popen=_fork)


def _import_all() -> None:
    """Import what a ClientApp imports, and forget this project's part of it: a run brings its own code."""
    import_module("client.app")
    import_module("flwr.supernode.cli")
    import_module("torch._dynamo")  # torch.optim imports it when the first optimizer is made
    for name in list(sys.modules):
        if name.partition(".")[0] in {"client", "shared"}:
            del sys.modules[name]


def _fork(command: Sequence[str]) -> None:
    """Start a command of Flower's, such as "flwr-clientapp", in a fork of this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork() == 0:
        _become(command)


def _become(command: Sequence[str]) -> NoReturn:
    """Play the command in this forked process, and leave nothing of the SuperExec to run after it."""
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    registered_exit_handlers.clear()
    sys.argv = list(command)
    code: object = 1
    try:
        (script,) = entry_points(group="console_scripts", name=command[0])
        script.load()()
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _bury(number: int, frame: object) -> None:
    """Collect the forks that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
