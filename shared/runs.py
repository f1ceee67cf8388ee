"""Run folders: made once, never overwritten by accident, and the same layout however a run was started."""

import argparse
import errno
import fcntl
import os
import platform
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, TextIO

import psutil

from shared.config import DEFAULTS, NAME_PATTERN, Config, add_method_option, differences, load_config
from shared.errors import UserError
from shared.files import write_atomic
from shared.settings import Way

FAILURE = "failure.txt"
"""In the run folder of a run that failed: why, in words."""

EXCHANGE = "exchange.json"
"""In the run folder of a federated run, and of no other: what crossed the wire."""

LOCKS = ".locks"
"""Beside run folders: whose process is at work on which."""

_ENDING_SECONDS = 30.0
"""For the processes of a command that was killed to end."""

_LOOK_SECONDS = 0.1


def runs_root() -> Path:
    """Return the folder of all runs: FEDHAR_RUNS, or ``runs`` below the current folder."""
    return Path(os.environ.get("FEDHAR_RUNS", "runs")).expanduser().resolve()


def run_parser(module: str, suffix: str, description: str) -> argparse.ArgumentParser:
    """Return the command line that every way of training has in common.

    Args:
        module: Run by ``python -m``.
        suffix: Ends the default name of a run, after the configuration's name.
        description: What the command does, in a sentence.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"example: python -m {module} --config configs/demo.yaml --name try seed=1 tasks.features.enabled=false",
    )
    parser.set_defaults(suffix=suffix)
    parser.add_argument("--config", required=True, type=Path, help="YAML file; configs/default.yaml explains all keys")
    add_method_option(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes, such as train.batch_size=32")
    parser.add_argument("--name", help=f"folder below runs/ (default: the configuration's name and -{suffix})")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--resume", action="store_true", help="continue an interrupted run from its last checkpoint")
    kept.add_argument("--force", action="store_true", help="replace an existing run of this name")
    return parser


def run_folder(options: argparse.Namespace, config: Config) -> Path:
    """Return the folder that the options of ``run_parser`` name.

    Raises:
        UserError: A name that would lead out of the folder of all runs.
    """
    name = options.name or f"{config.name}-{options.suffix}"
    if not re.fullmatch(NAME_PATTERN, name):
        raise UserError(
            f"--name is the plain name of a folder below {runs_root()} (letters, digits, '.', '_', '-'), found {name!r}"
        )
    return runs_root() / name


def open_run(folder: Path, config: Config, way: Way, *, resume: bool, force: bool) -> None:
    """Make a run folder with its resolved ``config.yaml``, or open an existing one to resume.

    A run that is resumed goes on with the new configuration, which may differ from the old one where the encoder does
    not depend on it in this way of training: ``config.yaml`` is replaced.

    Raises:
        UserError: The folder exists and neither ``resume`` nor ``force`` was asked for, there is nothing to resume,
            or the run to resume would have given another encoder (the differences are listed).
    """
    config_path = folder / "config.yaml"
    if resume:
        if not config_path.is_file():
            raise UserError(f"cannot resume: there is no run in {folder}")
        if changed := differences(load_config(config_path), config, way):
            raise UserError(f"cannot resume {folder} with another configuration: {'; '.join(changed)}")
        write_atomic(config_path, config.to_yaml())  # or the folder cannot be written, and this says so
        return
    if folder.exists():
        if not config_path.is_file():
            raise UserError(f"{folder} exists already and is not a run: choose another --name")
        if not force:
            raise UserError(
                f"the run {folder} exists already: choose another --name, continue it with --resume, "
                "or replace it with --force"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"cannot replace the run folder {folder}: {os.strerror(errno.EACCES)}")
    # Whole before it takes the old one's place, so that nothing is lost where it cannot be made.
    fresh = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)  # of a command that was killed here
        fresh.mkdir(parents=True)
        write_atomic(fresh / config_path.name, config.to_yaml())
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error.strerror}: {error.filename}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def opened_run(folder: Path, config: Config, way: Way, *, resume: bool, force: bool) -> Iterator[int]:
    """Open a run folder as ``open_run`` does, and keep it for this command while the block runs.

    Yields the file descriptor of the lock: a process that inherits it keeps the folder, too, until it ends.

    Raises:
        UserError: As ``open_run``; or another command or a server is at work on the folder.
    """
    with locked(folder, "command") as lock:
        with locked(folder, "server"):
            open_run(folder, config, way, resume=resume, force=force)
        yield lock


@contextmanager
def locked(folder: Path, role: Literal["command", "server"]) -> Iterator[int]:
    """Keep a run folder for this process while the block runs: two of one role must not write into one.

    The lock goes with the process, however that ends, and with those that inherited its file descriptor, which is
    yielded. It is a file in ``.locks`` beside the folder, so that the folder can be replaced; the file stays. A lock
    whose holder on this machine has died is waited for: what the holder started is ending.

    Raises:
        UserError: Another process has it.
    """
    path = folder.parent / LOCKS / f"{folder.name}.{role}"
    deadline = time.monotonic() + _ENDING_SECONDS
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _give_to_owner(path.parent, folder.parent)
        while not (file := _try_to_lock(path)):
            if _holder_lives(path) or time.monotonic() > deadline:
                raise UserError(f"another process is at work on the run {folder}: wait for its end, or stop it")
            time.sleep(_LOOK_SECONDS)
    except OSError as error:
        raise UserError(f"cannot lock the run folder {folder} by {path}: {error.strerror}") from None
    with file:
        yield file.fileno()


def _try_to_lock(path: Path) -> TextIO | None:
    """Return the locked file, which then names this process; None where another process has it."""
    with ExitStack() as stack:
        file = stack.enter_context(path.open("a", encoding="utf-8"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        _give_to_owner(path, path.parent)
        file.truncate(0)
        file.write(f"{os.getpid()} {platform.node()}")
        file.flush()
        stack.pop_all()
        return file


def _give_to_owner(path: Path, of: Path) -> None:
    """Let root's lock not keep out whose folder it is: in containers root opens what the server's user goes on with."""
    if os.geteuid() == 0:
        owner = of.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _holder_lives(lock: Path) -> bool:
    """Whether the process that a lock names goes on; of one on another machine nothing is known, and it counts."""
    try:
        pid, _, machine = lock.read_text(encoding="utf-8").partition(" ")
        return machine != platform.node() or psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.NoSuchProcess):
        return False


def from_run_config(run_config: Mapping[str, object], run_id: int) -> tuple[Config, Path]:
    """Return the configuration and the run folder that a Flower run names, for its ServerApp and its ClientApps.

    Args:
        run_config: ``config``: a YAML file, absolute or below the project; ``method``: laid over it, or "";
            ``overrides``: ``key=value`` separated by spaces; ``run-dir``: an absolute folder, or "" for
            ``fedhar/NAME-RUN_ID`` in the user's data folder.
        run_id: Flower's number of the run.

    Raises:
        UserError: A relative ``run-dir``: Flower runs a copy of the project, where nobody would look for results.
    """
    path = Path(str(run_config["config"])).expanduser()
    config = load_config(
        path if path.is_absolute() else DEFAULTS.parents[1] / path,
        shlex.split(str(run_config["overrides"])),
        str(run_config["method"]) or None,
    )
    if not (named := str(run_config["run-dir"])):
        data_home = Path(os.environ.get("XDG_DATA_HOME", "~/.local/share")).expanduser()
        return config, data_home / "fedhar" / f"{config.name}-{run_id}"
    folder = Path(named).expanduser()
    if not folder.is_absolute():
        raise UserError(f"run-dir must be an absolute path, found {named!r}")
    return config, folder
