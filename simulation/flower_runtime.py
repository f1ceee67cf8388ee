"""Flower's own simulation runtime (Ray), started by ``flwr run`` and left without a trace.

A SuperLink of our own, on a free port of the loopback address and with a FLWR_HOME of its own, runs exactly one run
and is stopped with all that it started.
"""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from runtime.superlink import SuperLink, flower_environment, flower_tool
from shared.errors import UserError

_START_SECONDS = 60
_STOP_SECONDS = 15


def run_with_ray(
    run_config: Mapping[str, Any], clients: int, threads: int, log: Path, watch: Callable[[], bool]
) -> None:
    """Run the project's Flower app to its end in the simulation runtime.

    Args:
        run_config: Values for the keys of ``[tool.flwr.app.config]``.
        clients: Number of virtual SuperNodes.
        threads: Processor cores that each client takes; as many clients run side by side as fit.
        log: File for the SuperLink's log.
        watch: Called about once a second while the run goes on; tells whether it looks as if it had ended.

    Raises:
        UserError: Flower did not start, or the run did not end as completed; the log is named.
    """
    # Below /tmp, whatever TMPDIR says: Ray puts sockets there, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix=f"fedhar-{os.getpid()}-", dir="/tmp", ignore_cleanup_errors=True) as name:
        home = Path(name)
        with log.open("ab") as log_file, _running_superlink(home, log_file) as address:
            superlink = SuperLink(home, address)
            run_id = superlink.submit(run_config, f"num-supernodes={clients} client-resources-num-cpus={threads}")
            status = superlink.follow(run_id, watch)
            if status != "finished:completed":
                raise UserError(f"the Flower run ended as {status!r}; its log is {log}")


@contextmanager
def _running_superlink(home: Path, log_file: Any) -> Iterator[str]:
    port = _free_port()
    # Ray's own folder of sessions goes with ours.
    process = subprocess.Popen(
        [flower_tool("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)],
        env=flower_environment(home) | {"RAY_TMPDIR": str(home)},
        stdout=log_file,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(
                    f"Flower's SuperLink did not start within {_START_SECONDS} s; its log is {log_file.name}"
                )
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        _stop_family(process, home)


def _stop_family(superlink: subprocess.Popen[bytes], home: Path) -> None:
    """End all that runs with our FLWR_HOME, orphans too: politely first, so that Ray can clean up."""
    family = [process for process in psutil.process_iter() if _has_home(process, home)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.terminate()
    _, stubborn = psutil.wait_procs(family, timeout=_STOP_SECONDS)
    for member in stubborn:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    superlink.wait()


def _has_home(process: psutil.Process, home: Path) -> bool:
    try:
        return process.environ().get("FLWR_HOME") == str(home)
    except psutil.Error:  # gone, or somebody else's
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _healthy(port: int) -> bool:
    try:  # a proxy of the user's has no business on the loopback address
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1, trust_env=False).is_success
    except httpx.HTTPError:
        return False
