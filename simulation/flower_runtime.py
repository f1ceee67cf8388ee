"""Flower's own simulation runtime (Ray), started by ``flwr run`` and left without a trace.

A SuperLink of our own, on a free port of the loopback address and with a FLWR_HOME of its own, runs exactly one run
and is stopped with all that it started.
"""

import os
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

import runtime.family
from runtime.superlink import SuperLink, flower_environment, flower_tool
from shared.errors import UserError

_START_SECONDS = 60


def run_with_ray(
    run_config: Mapping[str, Any], clients: int, threads: int, log: Path, lock: int, watch: Callable[[], bool]
) -> None:
    """Run the project's Flower app to its end in the simulation runtime.

    Args:
        run_config: Values for the keys of ``[tool.flwr.app.config]``.
        clients: Number of virtual SuperNodes.
        threads: CPU cores that each client takes; as many clients run side by side as fit.
        log: File for the SuperLink's log.
        lock: File descriptor of the run folder's lock, which is kept until all that was started is gone.
        watch: Called about once a second while the run goes on; tells whether it looks as if it had ended.

    Raises:
        UserError: Flower did not start, or the run did not end as completed; the log is named.
    """
    # Below /tmp, whatever TMPDIR says: Ray puts sockets there, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix=f"fedhar-{os.getpid()}-", dir="/tmp", ignore_cleanup_errors=True) as name:
        home = Path(name)
        with log.open("ab") as log_file, _running_superlink(home, log_file, lock) as address:
            superlink = SuperLink(home, address)
            run_id = superlink.submit(run_config, f"num-supernodes={clients} client-resources-num-cpus={threads}")
            status = superlink.follow(run_id, watch)
            if status != "finished:completed":
                raise UserError(f"the Flower run ended as {status!r}; its log is {log}")


def check_threads(threads: int) -> None:
    """Refuse clients with more threads than this machine has cores, which Ray would wait for in vain.

    Raises:
        UserError: Names the threads and the cores. A cluster of Ray's is not asked.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads > cores and "RAY_ADDRESS" not in os.environ:
        raise UserError(
            f"train.threads is {threads}, but this machine has {cores} cores, and Ray gives a client a core for each "
            f"thread: set train.threads={cores} or fewer, or use --engine inprocess"
        )


@contextmanager
def _running_superlink(home: Path, log_file: Any, lock: int) -> Iterator[str]:
    port = _free_port()
    superlink = ["--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    # Ends when we do, however that is, and then everything of Flower's and Ray's ends with it. In a session of its own
    # it is out of reach of what the terminal sends to us.
    family = subprocess.Popen(
        [sys.executable, "-P", runtime.family.__file__, str(home), flower_tool("flower-superlink"), *superlink],
        # Ray's own folder of sessions goes with ours.
        env=flower_environment(home) | {"RAY_TMPDIR": str(home)},
        stdout=log_file,
        stderr=subprocess.STDOUT,
        stdin=subprocess.PIPE,
        start_new_session=True,
        pass_fds=[lock],
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _healthy(port):
            if family.poll() is not None or time.monotonic() > deadline:
                raise UserError(
                    f"Flower's SuperLink did not start within {_START_SECONDS} s; its log is {log_file.name}"
                )
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        family.communicate()  # the end of its input


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
