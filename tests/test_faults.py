"""What a deployed federation survives: real processes that are killed, hang, come late, lie, or run out of disk.

README.md ("What it survives") tells what each of these faults costs.
"""

import datetime
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from deployed import ROOT, Deployment, deployed, free_port
from safetensors.torch import load_file

from shared.metrics import METRICS, read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PEOPLE = 4
SMALL = ["--config", "configs/default.yaml", "data.name=synthetic", "encoder.width=8", "train.batch_size=48"]
STEPS_A_ROUND = 2
"""96 windows of a synthetic person, in batches of 48."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A SuperLink, a server and four clients; each test leaves them running for the next one."""
    with deployed(tmp_path_factory.mktemp("faults"), PEOPLE) as running:
        yield running
    try:
        wait_for(lambda: not orphans(running), 30, "the end of all processes")
    finally:
        for process in orphans(running):
            process.kill()


def orphans(deployment: Deployment) -> list[psutil.Process]:
    """Processes of Flower's that belong to the deployment: each has its own FLWR_HOME."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("FLWR_HOME", "").startswith(str(deployment.base))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def job(deployment: Deployment, name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The job of a run; it is ended with the block, and its run with it."""
    process = deployment.job("--name", name, *SMALL, *arguments)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} took more than {seconds} s"
        time.sleep(0.02)


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder / METRICS) if row["kind"] == "round"]


def people_of(folder: Path, number: int) -> set[int]:
    rows = read_metrics(folder / METRICS)
    return {row["person"] for row in rows if row["kind"] == "client" and row["round"] == number}


def wait_for_round(folder: Path, number: int, seconds: float = 240) -> None:
    wait_for(lambda: len(rounds(folder)) >= number, seconds, f"round {number}")


def log_of(folder: Path) -> str:
    return (folder / "server.log").read_text()


def wait_for_words(deployment: Deployment, name: str, words: str) -> None:
    wait_for(lambda: words in deployment.log(name), 120, f"{words!r} in the log of {name}")


def finish(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str]:
    told, _ = process.communicate(timeout=seconds)
    return process.returncode, told


def family(deployment: Deployment, name: str) -> list[psutil.Process]:
    root = psutil.Process(deployment.processes[name].pid)
    return [root, *root.children(recursive=True)]


def wait_until_it_trains(deployment: Deployment, name: str) -> None:
    """A client is its SuperNode, its SuperExec, and while it works for a message a ClientApp."""
    wait_for(lambda: len(family(deployment, name)) > 2, 120, f"{name} starting a ClientApp")


def leave(deployment: Deployment, name: str) -> None:
    """Stop a client as a service manager does; it says goodbye."""
    deployment.processes[name].terminate()
    deployment.processes[name].wait(30)
    deployment.stop(name)


def newest_state(deployment: Deployment, partition: int) -> Path:
    states = deployment.base.glob(f"client-{partition}/state/*/*/step-*.safetensors")
    return max(states, key=lambda path: path.stat().st_mtime_ns)


def test_an_interrupted_run_is_resumed_to_the_bytes_of_an_unbroken_one(federation: Deployment) -> None:
    settings = ["federation.rounds=6", "federation.min_clients=4"]
    folder = federation.runs / "broken"
    with job(federation, "broken", *settings) as running:
        wait_for_round(folder, 1, 240)
        code, told = federation.run_job("--name", "broken", "--force", *SMALL, *settings)
        assert (code, "the SuperLink is busy with run" in told) == (2, True), told
        running.terminate()
        assert finish(running)[0] == 143
    done = wait_for_next_round(federation, folder, settings, stop_the_server, "ended as 'finished:failed'")
    federation.start_server()
    last = wait_for_next_round(
        federation, folder, settings, kill_the_superlink, "the SuperLink is lost: start it again"
    )
    assert last > done >= 1
    federation.start_superlink()
    federation.start_server()
    checkpoint = max((folder / "checkpoint").iterdir())
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    code, told = federation.run_job("--name", "broken", "--resume", *SMALL, *settings)
    assert code == 0, told
    assert f"snapshot {checkpoint} is damaged" in log_of(folder)
    assert [row["round"] for row in rounds(folder)] == [1, 2, 3, 4, 5, 6]
    unbroken = [sys.executable, "-m", "simulation", "--engine", "inprocess", "--name", "unbroken", *SMALL, *settings]
    environment = os.environ | {"FEDHAR_RUNS": str(federation.runs), "OMP_NUM_THREADS": "1"}
    subprocess.run(unbroken, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    other = federation.runs / "unbroken"
    assert (folder / "encoder.safetensors").read_bytes() == (other / "encoder.safetensors").read_bytes()
    for person in range(1, PEOPLE + 1):
        heads = (other / "clients" / f"person_{person:02d}" / "step-000006.safetensors").read_bytes()
        assert newest_state(federation, person - 1).read_bytes() == heads


def wait_for_next_round(
    federation: Deployment,
    folder: Path,
    settings: list[str],
    fault: Callable[[Deployment], None],
    words: str,
) -> int:
    """Resume the run, let a fault happen after a round, and return the number of rounds; all of them are saved."""
    with job(federation, folder.name, *settings, "--resume") as running:
        wait_for_round(folder, len(rounds(folder)) + 1, 240)
        fault(federation)
        code, told = finish(running)
    assert (code, words in told) == (2, True), told
    done = len(rounds(folder))
    assert (folder / "checkpoint" / f"step-{done:06d}.safetensors").is_file()
    return done


def stop_the_server(federation: Deployment) -> None:
    """As a service manager does: SIGTERM to the SuperExec and to its ServerApp."""
    for process in family(federation, "server"):
        process.terminate()
    federation.processes["server"].wait(30)
    federation.stop("server")


def kill_the_superlink(federation: Deployment) -> None:
    """As its machine dies, and the server with it; a server that lives goes on when the SuperLink is back soon."""
    federation.stop("superlink")
    for process in family(federation, "server"):
        process.kill()
    federation.stop("server")


def test_too_few_clients_are_a_failure_with_a_reason_after_the_deadline(federation: Deployment) -> None:
    leave(federation, "client-3")
    begun = time.monotonic()
    code, told = federation.run_job("--name", "few", *SMALL, "federation.min_clients=4", "federation.join_timeout=8")
    federation.start_client(3)
    assert (code, time.monotonic() - begun < 40) == (2, True)
    assert re.search(r"\d of 4 registered clients are online after 8 s .*and 4 are needed", told), told


def test_a_killed_client_comes_back_with_its_heads_and_a_late_one_joins(federation: Deployment) -> None:
    leave(federation, "client-3")
    folder = federation.runs / "restless"
    with job(federation, "restless", "federation.rounds=6", "federation.join_timeout=20") as running:
        wait_for_round(folder, 1, 240)
        federation.start_client(3)
        wait_until_it_trains(federation, "client-0")
        federation.stop("client-0")
        broken = len(rounds(folder)) + 1
        wait_for_round(folder, broken, 240)
        federation.start_client(0)
        code, told = finish(running)
    assert code == 0, told
    log = log_of(folder)
    assert people_of(folder, 1) == {1, 2, 3}
    assert people_of(folder, broken) == {2, 3}
    assert people_of(folder, 6) == {1, 2, 3, 4}
    assert re.search(rf"round {broken}: dropped the reply of person 1: .*failed to report a heartbeat", log), log
    assert re.search(r"round \d: person 4 has joined", log), log
    trained = [number for number in range(1, 7) if 1 in people_of(folder, number)]
    assert steps_of(newest_state(federation, 0)) in {n * STEPS_A_ROUND for n in (len(trained), len(trained) + 1)}


def steps_of(state: Path) -> int:
    """Steps of the optimizer since the heads were made: it would be one round's had they been made anew."""
    (steps,) = {int(value) for name, value in load_file(state).items() if name.endswith(".step")}
    return steps


HOSTILE = """

import numpy as np

from shared.exchange import arrays_of

honest, app = app, ClientApp()
app.query("introduce")(lambda message, context: honest(message, context))


@app.train()
def attack(message, context):
    reply = honest(message, context)
    arrays = arrays_of(reply.content.array_records["arrays"])
    first = next(iter(arrays))
    kind = message.content.config_records["config"]["server-round"] % 5
    if kind == 2:
        arrays[first] = np.full_like(arrays[first], np.nan)
    elif kind == 3:
        arrays[first] = arrays[first][..., :1]
    elif kind == 4:
        arrays["heads.contrastive.weight"] = arrays[first]
    elif kind == 0:
        arrays = {name: 1000 * value for name, value in arrays.items()}
    reply.content["arrays"] = ArrayRecord({name: Array(np.ascontiguousarray(v)) for name, v in arrays.items()})
    return reply
"""
"""A client owns its machine: this is put at the end of the app that Flower has installed there."""


def test_a_hostile_a_hanging_a_full_and_a_torn_client_cost_their_own_replies(federation: Deployment) -> None:
    folder = federation.runs / "hurt"
    settings = ["federation.rounds=6", "federation.min_clients=4", "federation.round_timeout=30"]
    with job(federation, "hurt", *settings) as running:
        wait_for_round(folder, 1, 240)
        with infected(federation, "client-2"):
            wait_for_round(folder, 2)
            torn = newest_state(federation, 3)
            torn.write_bytes(torn.read_bytes()[:1000])
            full, hanging = family(federation, "client-1"), family(federation, "client-0")
            limit_files(full, 100_000)
            for process in hanging:
                process.suspend()
            wait_for_round(folder, 3)
            limit_files(full, psutil.RLIM_INFINITY)
            for process in hanging:
                process.resume()
            code, told = finish(running)
    assert code == 0, told
    log = log_of(folder)
    assert "round 3: dropped person 1, who did not answer in time" in log
    assert re.search(r"round 3: dropped the reply of person 2: .*cannot write .*step-000003.safetensors: File too", log)
    for number, words in {2: "NaN", 3: "shape", 4: "unknown arrays", 5: "times the round's median"}.items():
        assert re.search(rf"round {number}: dropped the reply of person 3: .*{words}", log), log
    assert re.search(rf"snapshot .*{torn.name} is damaged", (federation.base / "client-3.log").read_text())
    assert steps_of(newest_state(federation, 3)) == 5 * STEPS_A_ROUND, "the round of the torn state was trained again"
    assert [len(people_of(folder, number)) for number in range(1, 7)] == [4, 3, 1, 3, 3, 4]


def limit_files(processes: list[psutil.Process], size: int) -> None:
    """Let no file of these processes and their forks grow over a size, as on a disk that is full."""
    for process in processes:
        process.rlimit(psutil.RLIMIT_FSIZE, (size, psutil.RLIM_INFINITY))


@contextmanager
def infected(deployment: Deployment, name: str) -> Iterator[None]:
    installed = {app: app.read_text() for app in deployment.base.glob(f"{name}/flwr/apps/*/client/app.py")}
    assert installed
    try:
        for app, code in installed.items():
            app.write_text(code + HOSTILE)
        yield
    finally:
        for app, code in installed.items():
            app.write_text(code)


def stranger(deployment: Deployment, name: str, key: Path, authority: Path, address: str) -> None:
    deployment.start(
        name,
        f"flower-supernode --superlink {address} --root-certificates {authority} "
        f"--auth-supernode-private-key {key} --host 127.0.0.1 --port {free_port()} --max-retries 3",
    )


def let_expire(deployment: Deployment) -> Path:
    """Sign the server's key anew, until yesterday."""
    authority = x509.load_pem_x509_certificate((deployment.public / "ca.crt").read_bytes())
    private = load_pem_private_key((deployment.credentials / "ca.key").read_bytes(), None)
    old = x509.load_pem_x509_certificate((deployment.public / "server.pem").read_bytes())
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(
        authority.subject, old.subject, old.public_key(), 1, yesterday - datetime.timedelta(days=1), yesterday
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    path = deployment.base / "expired.pem"
    path.write_bytes(builder.sign(private, hashes.SHA256()).public_bytes(Encoding.PEM))
    return path


def test_whoever_should_not_come_in_is_refused_with_a_reason(federation: Deployment) -> None:
    other = federation.base / "other"
    subprocess.run([str(ROOT / "scripts" / "make-credentials.sh"), str(other)], check=True, capture_output=True)
    old = f"127.0.0.1:{free_port()}"
    federation.start(
        "expired",
        f"flower-superlink --host 127.0.0.1 --port {old.split(':')[1]} --ssl-ca-certfile {federation.public}/ca.crt "
        f"--ssl-certfile {let_expire(federation)} --ssl-keyfile {federation.credentials}/server.key",
    )
    wait_for_words(federation, "expired", "Application startup complete")
    mine, ours, theirs = federation.credentials / "node-0", federation.public / "ca.crt", other / "public" / "ca.crt"
    stranger(federation, "unregistered", other / "node-0", ours, federation.address)
    stranger(federation, "keyless", federation.public / "node-0.pub", ours, federation.address)
    stranger(federation, "astray", mine, theirs, federation.address)
    stranger(federation, "late", mine, ours, old)
    for name, words in {
        "unregistered": "[code: 2004] Failed to activate SuperNode",
        "keyless": "Unable to parse the private key file",
        "astray": "CERTIFICATE_VERIFY_FAILED",
        "late": "certificate has expired",
    }.items():
        wait_for_words(federation, name, words)
        federation.processes[name].wait(40)
        assert federation.processes[name].returncode != 0
    assert "No SuperNode found with the given public key" in (federation.base / "superlink.log").read_text()
    for authority, address, words in (
        (other / "public", federation.address, "certificate verify failed"),
        (federation.public, old, "certificate has expired"),
        (federation.public, f"127.0.0.1:{free_port()}", "Connection refused"),
    ):
        command = [sys.executable, "-m", "deployment", "--superlink", address, "--credentials", str(authority)]
        environment = os.environ | {"FEDHAR_RUNS": str(federation.runs)}
        done = subprocess.run(
            [*command, "--name", "refused", *SMALL],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    assert not (federation.runs / "refused").exists()
