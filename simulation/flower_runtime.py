"""Flower's own simulation runtime (Ray), started by ``flwr run`` and left without a trace.

A SuperLink of our own, on a free port of the loopback address and with a FLWR_HOME of its own, runs exactly one run
and is stopped with all that it started.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from shared.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
_BIN = Path(sys.executable).parent
_START_SECONDS = 60
_STOP_SECONDS = 15
_LOOK_SECONDS = 1.0
_ASK_SECONDS = 20.0
"""Between two questions to Flower while nothing seems to end: each starts a process, at the cost of the training."""


def run_with_ray(
    run_config: Mapping[str, Any], clients: int, threads: int, log: Path, watch: Callable[[], bool]
) -> None:
    """Run the project's Flower app to its end in the simulation runtime.

    Args:
        run_config: Values for the keys of ``[tool.flwr.app.config]``.
        clients: Number of virtual SuperNodes.
        threads: Processor cores that each client takes; as many clients run side by side as fit.
        log: File for the SuperLink's and the run's log.
        watch: Called about once a second while the run goes on; tells whether it looks as if it had ended.

    Raises:
        UserError: Flower did not start, or the run did not end as completed; the log is named.
    """
    with tempfile.TemporaryDirectory(prefix="fedhar-") as home, log.open("ab") as log_file:
        environment = _environment(Path(home))
        with _superlink(environment, log_file, log) as address:
            _connect(Path(home), address)
            run_id = _submit(environment, run_config, clients, threads, Path(home), log)
            status = _follow(environment, run_id, watch)
            if status != "finished:completed":
                raise UserError(f"the Flower run ended as {status!r}; its log is {log}")


def _follow(environment: dict[str, str], run_id: str, watch: Callable[[], bool]) -> str:
    """Wait for the run's end and return how it ended, such as "finished:completed"."""
    asked = time.monotonic()
    while True:
        if watch() or time.monotonic() - asked > _ASK_SECONDS:
            if (status := _status(environment, run_id)).startswith("finished"):
                watch()
                return status
            asked = time.monotonic()
        time.sleep(_LOOK_SECONDS)


def _environment(home: Path) -> dict[str, str]:
    """The environment of everything Flower starts: a home of its own, and no calls to the outside."""
    return os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    }


@contextmanager
def _superlink(environment: dict[str, str], log_file: Any, log: Path) -> Iterator[str]:
    port = _free_port()
    process = subprocess.Popen(
        [_tool("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)],
        env=environment,
        stdout=log_file,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"Flower's SuperLink did not start within {_START_SECONDS} s; its log is {log}")
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        _stop_tree(process)


def _stop_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that descends from it: politely first, so that Ray can clean up."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with _gone_is_fine():
            member.terminate()
    _, stubborn = psutil.wait_procs(family, timeout=_STOP_SECONDS)
    for member in stubborn:
        with _gone_is_fine():
            member.kill()
    process.wait()


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except psutil.NoSuchProcess:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).is_success
    except httpx.HTTPError:
        return False


def _connect(home: Path, address: str) -> None:
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "fedhar"\n\n[superlink.fedhar]\naddress = "{address}"\ninsecure = true\n'
    )


def _submit(
    environment: dict[str, str],
    run_config: Mapping[str, Any],
    clients: int,
    threads: int,
    home: Path,
    log: Path,
) -> str:
    """Submit the app and return the run's id."""
    config_file = home / "run.toml"
    # A JSON string is a TOML string too.
    config_file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in run_config.items()))
    federation = f"num-supernodes={clients} client-resources-num-cpus={threads}"
    command = ["run", str(PROJECT), "--run-config", str(config_file), "--federation-config", federation]
    answer = _flwr(environment, *command, "--format", "json")
    if not answer.get("success"):
        raise UserError(f"Flower refused the run: {answer.get('error-message', answer)}; its log is {log}")
    return str(answer["run-id"])


def _status(environment: dict[str, str], run_id: str) -> str:
    """Return the run's status, such as "running" or "finished:completed"."""
    answer = _flwr(environment, "ls", "--run-id", run_id, "--format", "json")
    if not answer.get("runs"):
        raise UserError(f"Flower does not know the run any more: {answer.get('error-message', answer)}")
    return str(answer["runs"][0]["status"])


def _flwr(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    done = subprocess.run([_tool("flwr"), *arguments], env=environment, capture_output=True, text=True, check=False)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise UserError(f"flwr {arguments[0]} failed: {(done.stderr or done.stdout).strip()}") from None
    return answer


def _tool(name: str) -> str:
    found = shutil.which(name, path=str(_BIN)) or shutil.which(name)
    if not found:
        raise UserError(f"the command {name} is not installed; run `make setup`")
    return found
