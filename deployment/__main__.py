"""Run a federation on a SuperLink: ``python -m deployment --config configs/demo.yaml --superlink HOST:PORT ...``.

Registers the clients' public keys, waits for the clients, submits the run, follows it, and brings its folder home.
"""

import argparse
import json
import os
import shlex
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from runtime.superlink import SuperLink
from shared.config import DEFAULTS, Config, load_config
from shared.errors import UserError, run_command
from shared.progress import RunProgress, RunWatcher
from shared.runs import FAILURE, locked, opened_run, run_folder, run_parser, runs_root

_LOOK_SECONDS = 2.0
_TLS_SECONDS = 10.0
_LOST_SECONDS = 120.0
"""A SuperLink that was restarted needs a minute to notice that the server of an interrupted run is gone."""

_REGISTERED = "already in use"
"""What Flower says of a public key that it knows."""


def main(arguments: list[str]) -> None:
    """Parse the command line, run the federation and tell where its results are.

    Raises:
        UserError: A run folder that cannot be used, too few clients, another run in progress, or a run that failed.
    """
    options = _parse(arguments)
    config = load_config(options.config, options.overrides, options.method)
    folder = run_folder(options, config)
    place = (options.server_runs or runs_root()) / folder.name
    with tempfile.TemporaryDirectory(prefix="fedhar-") as home:
        superlink = SuperLink(Path(home), options.superlink, options.credentials / "ca.crt")
        console = Console(stderr=True)
        patience = _LOST_SECONDS if options.resume else 0.0
        _refuse_a_second_run(superlink, options.superlink, options.credentials / "ca.crt", patience, console)
        register_clients(superlink, options.credentials, console)
        if options.registered:
            options.registered.touch()
        _wait_for_clients(superlink, config, console)
        with opened_run(folder, config, "federated", resume=options.resume, force=options.force):
            with locked(place, "server"):
                _make_room(folder, place, resume=options.resume)
            with _brought_home(place, folder):
                _run(superlink, config, place, console)
    console.print(f"done: {folder}", highlight=False, soft_wrap=True)


def _refuse_a_second_run(
    superlink: SuperLink, address: str, authority: Path, patience: float, console: Console
) -> None:
    """The clients work for one run at a time, and two runs must not write into one folder."""
    deadline = time.monotonic() + patience
    while True:
        answer = superlink.ask("ls")
        if not answer.get("success"):
            why = _try_tls(address, authority) or answer.get("error-message", answer)
            raise UserError(f"the SuperLink at {address} cannot be asked: {why}")
        busy = [run for run in answer["runs"] if not str(run["status"]).startswith("finished")]
        if not busy:
            return
        state = f"the SuperLink is busy with run {busy[0]['run-id']}, which is {busy[0]['status']}"
        if time.monotonic() > deadline:
            raise UserError(f"{state}: wait for its end, or restart the SuperLink, which ends it within two minutes")
        console.print(f"{state}; waiting for its end", highlight=False)
        time.sleep(_LOOK_SECONDS)


def _try_tls(address: str, authority: Path) -> str:
    """Say why no TLS connection comes about, which Flower does not tell; "" if one does."""
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=authority)
        with (
            socket.create_connection((host.strip("[]"), int(port)), _TLS_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")),
        ):
            return ""
    except (OSError, ValueError) as error:
        return f"{error} (trusting {authority})"


def register_clients(superlink: SuperLink, credentials: Path, console: Console) -> None:
    """Make every public key in the folder known to the SuperLink; those it knows stay as they are.

    Raises:
        UserError: A folder without public keys, or a key that Flower does not take.
    """
    keys = sorted(credentials.glob("*.pub"))
    if not keys:
        raise UserError(f"{credentials} holds no public keys (*.pub) of clients")
    answers = superlink.ask_each([("supernode", "register", str(key), "--name", key.stem) for key in keys])
    for key, answer in zip(keys, answers, strict=True):
        if not answer.get("success") and _REGISTERED not in str(answer):
            raise UserError(f"cannot register {key}: {answer.get('error-message', answer)}")
    console.print(f"{len(keys)} clients are registered", highlight=False)


def _wait_for_clients(superlink: SuperLink, config: Config, console: Console) -> None:
    """Wait until all registered clients are online; go on without some where the configuration allows it."""
    deadline = time.monotonic() + config.federation.join_timeout
    while True:
        answer = superlink.ask("supernode", "list")
        if not answer.get("success"):
            raise UserError(f"the SuperLink does not list its clients: {answer.get('error-message', answer)}")
        nodes = [node["status"] for node in answer["nodes"]]
        online, registered = nodes.count("online"), len(nodes) - nodes.count("unregistered")
        if online == registered or time.monotonic() > deadline:
            break
        time.sleep(_LOOK_SECONDS)
    if online < config.federation.min_clients:
        raise UserError(
            f"{online} of {registered} registered clients are online after {config.federation.join_timeout:g} s "
            f"(federation.join_timeout), and {config.federation.min_clients} are needed (federation.min_clients)"
        )
    console.print(f"{online} of {registered} registered clients are online", highlight=False)


def _make_room(folder: Path, place: Path, *, resume: bool) -> None:
    """Make the server's folder of the run fit: what is there already is of the run to resume, or goes."""
    if place == folder:
        return
    (place / FAILURE).unlink(missing_ok=True)  # of an earlier start
    if not resume and place.exists():
        shutil.rmtree(place)
    elif resume and not (place / "config.yaml").is_file():
        _copy(folder, place)


@contextmanager
def _brought_home(place: Path, folder: Path) -> Iterator[None]:
    """Replace the folder by the server's one when the block ends, well or not; its failure becomes the error."""
    try:
        yield
    except UserError as error:
        failure = place / FAILURE
        reason = failure.read_text(encoding="utf-8").strip() if failure.is_file() else str(error)
        raise UserError(reason) from None
    finally:
        if place != folder and (place / "config.yaml").is_file():
            _copy(place, folder)


def _copy(source: Path, target: Path) -> None:
    """Replace a folder by a copy of another one, which belongs to the owner of the folder around it."""
    fresh = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        shutil.copytree(source, fresh, ignore=shutil.ignore_patterns(".*"))  # what is still being written
        owner = target.parent.stat()
        if os.geteuid() == 0:
            for path in (fresh, *fresh.rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid)
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise UserError(f"cannot copy the run from {source} to {target}, where it stays: {error}") from None


def _run(superlink: SuperLink, config: Config, place: Path, console: Console) -> None:
    # The clients have no file of this machine: the complete configuration travels with the run.
    run_config = {
        "config": DEFAULTS.relative_to(DEFAULTS.parents[1]).as_posix(),
        "method": "",
        "overrides": shlex.join(f"{key}={json.dumps(value)}" for key, value in config.to_dict().items()),
        "run-dir": str(place),
    }
    run_id = superlink.submit(run_config)
    with RunProgress(place.name, config.federation.rounds, console) as progress:
        try:
            status = superlink.follow(run_id, RunWatcher(place, progress).look)
        except BaseException:
            with suppress(UserError):
                superlink.ask("stop", run_id)
            raise
    if status != "finished:completed":
        raise UserError(
            f"the Flower run {run_id} ended as {status!r}: the server's log says more, and --resume continues it"
        )


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = run_parser(
        "deployment",
        suffix="deployed",
        description="Train one encoder on the clients of a SuperLink, each of which holds one person's windows.",
    )
    parser.add_argument("--superlink", required=True, metavar="HOST:PORT", help="where the SuperLink listens, with TLS")
    parser.add_argument(
        "--credentials", required=True, type=Path, metavar="DIR", help="ca.crt and the clients' public keys (*.pub)"
    )
    parser.add_argument(
        "--server-runs",
        type=Path,
        metavar="DIR",
        help="where the server writes run folders, if that is not the folder of all runs",
    )
    parser.add_argument("--registered", type=Path, metavar="FILE", help="made once all clients are registered")
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    run_command(main)
