"""A real federation in processes on the loopback address, with TLS and node authentication, for tests.

Every process has a FLWR_HOME of its own, as every machine would. All are stopped at the end, however it comes: a guard
ends them when pytest is gone.
"""

import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from rich.console import Console

import runtime.family
from deployment.__main__ import register_clients
from runtime.superlink import SuperLink, flower_environment, flower_tool
from shared.data.folder import DESCRIPTION

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 900.0
"""Seconds for anything that a test waits for. What fails says so by a process that ends; this is for what hangs."""

_LOOK_SECONDS = 0.1


class Deployment:
    """The parts of a federation, each of which can be started, and stopped in any way.

    Args:
        base: For everything on the disk.
        clients: Number of node keys.
        data: Name of the data set to split among the clients.
        hosts: Addresses of the server, besides those of this machine.
    """

    def __init__(self, base: Path, clients: int, data: str = "synthetic", hosts: str = "") -> None:
        self.base = base
        self.credentials = base / "credentials"
        self.public = self.credentials / "public"
        self.runs = base / "runs"
        self.people = base / "people"
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        keys = [ROOT / "scripts" / "make-credentials.sh", self.credentials, "--nodes", str(clients), "--hosts", hosts]
        subprocess.run(keys, check=True, capture_output=True)
        split = [sys.executable, "-m", "shared.data", "split", data, "--out", str(self.people)]
        subprocess.run(split, cwd=ROOT, check=True, capture_output=True)
        remove_labels(self.people)
        self.files = sorted(self.people.glob("person_*.npz"), key=lambda path: int(path.stem.split("_")[1]))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start_superlink(self) -> None:
        self.start(
            "superlink",
            f"flower-superlink --host 127.0.0.1 --port {self.port} --isolation process "
            f"--database {self.base}/superlink.db --ssl-ca-certfile {self.public}/ca.crt "
            f"--ssl-certfile {self.public}/server.pem --ssl-keyfile {self.credentials}/server.key "
            f"--enable-supernode-auth --superexec-auth-secret-file {self.credentials}/superexec.secret",
        )
        self.wait_for(self.healthy, "an answer of the SuperLink")

    def healthy(self) -> bool:
        trusted = ssl.create_default_context(cafile=self.public / "ca.crt")
        try:
            url = f"https://{self.address}/health"
            return httpx.get(url, verify=trusted, timeout=1, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def superlink(self) -> SuperLink:
        """Return the SuperLink as its user sees it."""
        home = self.base / "user"
        home.mkdir(exist_ok=True)
        return SuperLink(home, self.address, self.public / "ca.crt")

    def register(self) -> None:
        """Make the clients' keys known; a client that is not known gives up at once."""
        register_clients(self.superlink(), self.public, Console(quiet=True))

    def wait_for(self, condition: Callable[[], Any], what: str, job: "subprocess.Popen[str] | None" = None) -> None:
        """Wait until something has happened; fail at once when a part or the job has ended, and it has not."""
        deadline = time.monotonic() + PATIENCE
        while True:
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            over = job is not None and job.poll() is not None
            if condition():  # what they did before they ended counts
                return
            assert not dead, f"{what}: {dead[0]} has ended: {self.log(dead[0])}"
            assert not over, f"{what}: the job has ended: {job and job.communicate()[0]}"
            assert time.monotonic() < deadline, f"{what} took more than {PATIENCE:g} s"
            time.sleep(_LOOK_SECONDS)

    def start_server(self) -> None:
        self.start(
            "server",
            f"flower-superexec --runtime-api-address {self.address} --root-certificates {self.public}/ca.crt "
            f"--superexec-auth-secret-file {self.credentials}/superexec.secret",
        )

    def start_client(self, partition: int, address: str = "", machine: Sequence[str] = ()) -> None:
        """Start the client of the partition, with its own person's file and no other.

        Args:
            partition: Which of the people.
            address: Where it finds the server, if that is not this machine.
            machine: Command that runs another one elsewhere.
        """
        own = self.base / f"client-{partition}" / "data"
        if not own.exists():
            own.mkdir(parents=True)
            shutil.copy(self.people / DESCRIPTION, own)
            shutil.copy(self.files[partition], own)
        config = f'partition-id={partition} data="{own}" state-dir="{own.parent / "state"}"'
        self.start(
            f"client-{partition}",
            f"flower-supernode --superlink {address or self.address} --root-certificates {self.public}/ca.crt "
            f"--auth-supernode-private-key {self.credentials}/node-{partition} "
            f"--host 127.0.0.1 --port {free_port()} --node-config {shlex.quote(config)}",
            machine,
        )

    def job(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command that registers, submits, follows and fetches."""
        command = [sys.executable, "-m", "deployment", "--superlink", self.address]
        return subprocess.Popen(
            [*command, "--credentials", str(self.public), *arguments],
            cwd=ROOT,
            env=os.environ | self._environment | {"FEDHAR_RUNS": str(self.runs), "FLWR_HOME": str(self.base / "job")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_job(self, *arguments: str) -> tuple[int, str]:
        """Run the job to its end and return its exit code and what it said."""
        process = self.job(*arguments)
        try:
            told, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
        return process.returncode, told

    def start(self, name: str, command: str, machine: Sequence[str] = ()) -> None:
        """Start a part with a FLWR_HOME of its own; nodes find our flower-superexec, the server finds Flower's."""
        home = self.base / name / "flwr"
        home.mkdir(parents=True, exist_ok=True)
        tool, *arguments = shlex.split(command)
        environment = flower_environment(home) | self._environment
        if name.startswith("client"):
            environment["PATH"] = f"{ROOT / 'deployment' / 'bin'}{os.pathsep}{environment['PATH']}"
            environment["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = "0.2"
        with (self.base / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*machine, flower_tool(tool), *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def start_gateway(self, port: int) -> None:
        """Start nginx as documented, in the folder with the credentials, on a free port."""
        settings = (ROOT / "deployment" / "nginx.conf").read_text()
        assert "listen 8443 ssl" in settings and "https://127.0.0.1:8000" in settings
        settings = settings.replace("8443", str(port)).replace("127.0.0.1:8000", self.address)
        (self.base / "nginx.conf").write_text(settings)
        with (self.base / "gateway.log").open("ab") as log:
            self.processes["gateway"] = guarded(
                self.base / "gateway", ["nginx", "-p", str(self.base), "-c", "nginx.conf"], log
            )

    def stop(self, name: str) -> None:
        """End a part and all that it started, without mercy."""
        process = self.processes.pop(name)
        with suppress(psutil.NoSuchProcess):
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family, PATIENCE)
        process.wait(PATIENCE)

    def log(self, name: str) -> str:
        return (self.base / f"{name}.log").read_text(errors="replace")[-4000:]


@contextmanager
def deployed(base: Path, clients: int, *, hosts: str = "", elsewhere: bool = False) -> Iterator[Deployment]:
    """Start a SuperLink, the server and, unless they run elsewhere, the clients; all that runs ends with the block.

    It ends with this process, too, however that comes, and then its folder is removed.
    """
    deployment = Deployment(base, clients, hosts=hosts)
    guard = guarded(base, ["sleep", "infinity"])
    try:
        deployment.start_superlink()
        deployment.start_server()
        deployment.register()
        here = range(0 if elsewhere else clients)
        for partition in here:
            deployment.start_client(partition)
        for partition in here:
            deployment.wait_for(lambda name=f"client-{partition}": "SuperNode ID" in deployment.log(name), "a client")
        yield deployment
    finally:
        for name in list(deployment.processes):
            deployment.stop(name)
        guard.send_signal(signal.SIGSTOP)  # nothing is left to end, and pytest keeps the folder of a test that failed
        for process in psutil.Process(guard.pid).children():
            process.kill()
        guard.kill()
        guard.communicate()


def alive(base: Path) -> list[psutil.Process]:
    """Return the processes of a deployment: each has a FLWR_HOME below its folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = Path(process.environ().get("FLWR_HOME", "/")).is_relative_to(base)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def guarded(folder: Path, command: Sequence[str], log: Any = None) -> "subprocess.Popen[bytes]":
    """Start a command that ends, with all that has its FLWR_HOME in the folder, when this process does."""
    return subprocess.Popen(
        [sys.executable, "-P", runtime.family.__file__, str(folder), *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def remove_labels(people: Path, files: str = "person_*.npz") -> None:
    """Leave nothing but windows in people's files: a client needs no label."""
    for path in people.glob(files):
        with np.load(path) as arrays:
            x = arrays["x"]
        path.unlink()
        np.savez(path, x=x)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
