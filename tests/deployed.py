"""A real federation in processes on the loopback address, with TLS and node authentication, for tests.

Every process has a FLWR_HOME of its own, as every machine would. All are stopped at the end, however it comes.
"""

import os
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
from rich.console import Console

from deployment.__main__ import register_clients
from runtime.superlink import SuperLink, flower_environment, flower_tool
from shared.data.folder import DESCRIPTION

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60
STOP_SECONDS = 10
RUN_SECONDS = 240


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
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
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
        deadline = time.monotonic() + START_SECONDS
        while not self.healthy():
            assert self.processes["superlink"].poll() is None and time.monotonic() < deadline, self.log("superlink")
            time.sleep(0.2)

    def healthy(self) -> bool:
        trusted = ssl.create_default_context(cafile=self.public / "ca.crt")
        try:
            url = f"https://{self.address}/health"
            return httpx.get(url, verify=trusted, timeout=1, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def register(self) -> None:
        """Make the clients' keys known; a client that is not known gives up at once."""
        home = self.base / "register"
        home.mkdir()
        register_clients(SuperLink(home, self.address, self.public / "ca.crt"), self.public, Console(quiet=True))

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
            env=os.environ | self._environment | {"FEDHAR_RUNS": str(self.runs)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_job(self, *arguments: str) -> tuple[int, str]:
        """Run the job to its end and return its exit code and what it said."""
        process = self.job(*arguments)
        try:
            told, _ = process.communicate(timeout=RUN_SECONDS)
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
            self.processes["gateway"] = subprocess.Popen(
                ["nginx", "-p", str(self.base), "-c", "nginx.conf"], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def stop(self, name: str) -> None:
        """End a part and all that it started, without mercy."""
        process = self.processes.pop(name)
        with suppress(psutil.NoSuchProcess):
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
            psutil.wait_procs(family, STOP_SECONDS)
        process.wait(STOP_SECONDS)

    def log(self, name: str) -> str:
        return (self.base / f"{name}.log").read_text(errors="replace")[-4000:]


@contextmanager
def deployed(base: Path, clients: int, *, hosts: str = "", elsewhere: bool = False) -> Iterator[Deployment]:
    """Start a SuperLink, the server and, unless they run elsewhere, the clients; all that runs ends with the block."""
    deployment = Deployment(base, clients, hosts=hosts)
    try:
        deployment.start_superlink()
        deployment.start_server()
        deployment.register()
        for partition in range(0 if elsewhere else clients):
            deployment.start_client(partition)
        yield deployment
    finally:
        for name in list(deployment.processes):
            deployment.stop(name)


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
