"""What a deployed federation survives: real processes that are killed, hang, come late, lie, or run out of disk.

docs/faults.md tells what each of these faults costs. The tests wait for what happens and never for a
time, so that they mean the same on a slow machine.
"""

import datetime
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from deployed import PATIENCE, ROOT, Deployment, alive, deployed, free_port
from safetensors.torch import load_file

from runtime.superlink import SuperLink
from shared.metrics import METRICS, read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * PATIENCE)]

PEOPLE = 4
EVERYBODY = {"1", "2", "3", "4"}
SMALL = [
    *("--config", "configs/default.yaml", "data.name=synthetic", "encoder.width=8", "train.batch_size=48"),
    *("federation.min_clients=4", f"federation.join_timeout={PATIENCE:g}"),
]
ENDLESS = "federation.rounds=1000"
"""For a run that is ended when it has shown what it should, in whatever round that is."""

HANGING = 120.0
"""Seconds a round waits for a client that hangs: twenty times what a round takes, on two cores."""

STEPS_A_ROUND = 2
"""96 windows of a synthetic person, in batches of 48."""


@pytest.fixture(scope="module")
def one_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A SuperLink, a server and four clients; each test leaves them running for the next one."""
    with deployed(tmp_path_factory.mktemp("faults"), PEOPLE) as running:
        yield running
    try:
        running.wait_for(lambda: not alive(running.base), "the end of all processes")
    finally:
        for process in alive(running.base):
            process.kill()


@pytest.fixture
def federation(one_for_all: Deployment) -> Deployment:
    """The one for all, whole again: a test that failed may have left some of it dead."""
    if "superlink" not in one_for_all.processes:
        one_for_all.start_superlink()
    if "server" not in one_for_all.processes:
        one_for_all.start_server()
    for partition in range(PEOPLE):
        if f"client-{partition}" not in one_for_all.processes:
            one_for_all.start_client(partition)
    return one_for_all


@contextmanager
def job(deployment: Deployment, name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The job of a run; it is ended with the block, and its run with it."""
    process = deployment.job("--name", name, *SMALL, *arguments)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()


def rounds(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder / METRICS) if row["kind"] == "round"]


def people_of(folder: Path, number: int) -> set[str]:
    rows = read_metrics(folder / METRICS)
    return {row["person"] for row in rows if row["kind"] == "client" and row["round"] == number}


def wait_for_round(deployment: Deployment, job: subprocess.Popen[str], folder: Path, number: int) -> None:
    deployment.wait_for(lambda: len(rounds(folder)) >= number, f"round {number}", job)


def log_of(folder: Path) -> str:
    path = folder / "server.log"
    return path.read_text() if path.exists() else ""


def wait_for_words(deployment: Deployment, job: subprocess.Popen[str], folder: Path, words: str) -> int:
    """Wait for words in the server's log, and return the number that is the first group of them."""
    deployment.wait_for(lambda: re.search(words, log_of(folder)), words, job)
    found = re.search(words, log_of(folder))
    assert found
    return int(found[1])


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    told, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, told


def family(deployment: Deployment, name: str) -> list[psutil.Process]:
    """A client is its SuperNode, its SuperExec, and while it works for a message a ClientApp."""
    root = psutil.Process(deployment.processes[name].pid)
    return [root, *(child for child in root.children(recursive=True) if is_alive(child))]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_idle(deployment: Deployment, name: str) -> bool:
    return len(family(deployment, name)) == 2


def newest_state(deployment: Deployment, partition: int) -> Path:
    states = deployment.base.glob(f"client-{partition}/state/*/*/step-*.safetensors")
    return max(states, key=lambda path: path.stat().st_mtime_ns)


@contextmanager
def in_suspense(deployment: Deployment, name: str) -> Iterator[None]:
    """Let a client take messages and begin with none: its SuperExec stands still."""
    superexec = family(deployment, name)[1]
    superexec.suspend()
    try:
        yield
    finally:
        superexec.resume()


@contextmanager
def round_stopped(
    deployment: Deployment, job: subprocess.Popen[str], folder: Path, held: int, others: list[int]
) -> Iterator[int]:
    """Hold a client back, so that a round cannot end, and wait until the others have nothing left to do in it.

    What happens to them in the block, happens between the round, whose number this gives, and the next one.
    """

    def step(partition: int) -> int:
        return int(newest_state(deployment, partition).stem.split("-")[1])

    def at_rest() -> bool:
        done = len(rounds(folder))
        idle = all(is_idle(deployment, f"client-{one}") for one in (held, *others))
        return idle and step(held) == done and all(step(one) == done + 1 for one in others)

    with in_suspense(deployment, f"client-{held}"):
        deployment.wait_for(at_rest, "a round in which one client is missing", job)
        yield len(rounds(folder)) + 1


def nodes(superlink: SuperLink) -> set[str]:
    return {str(node["node-id"]) for node in superlink.ask("supernode", "list")["nodes"]}


@contextmanager
def newcomer(deployment: Deployment) -> Iterator[int]:
    """Make one more person, with the windows of another one, and its client's key known; at the end it has left."""
    script = str(ROOT / "scripts" / "make-credentials.sh")
    superlink = deployment.superlink()
    before = nodes(superlink)
    subprocess.run([script, str(deployment.credentials), "--add", "1"], check=True, capture_output=True)
    deployment.files.append(shutil.copy(deployment.files[0], deployment.people / f"person_{PEOPLE + 1}.npz"))
    deployment.register()
    (node,) = nodes(superlink) - before
    try:
        yield PEOPLE
    finally:
        if f"client-{PEOPLE}" in deployment.processes:
            deployment.stop(f"client-{PEOPLE}")
        assert superlink.ask("supernode", "unregister", node)["success"]
        deployment.files.pop().unlink()
        (deployment.public / f"node-{PEOPLE}.pub").unlink()
        (deployment.credentials / f"node-{PEOPLE}").unlink()


def test_an_interrupted_run_is_resumed_to_the_bytes_of_an_unbroken_one(federation: Deployment) -> None:
    settings = ["federation.rounds=6"]
    folder = federation.runs / "broken"
    with job(federation, "broken", *settings) as running:
        federation.wait_for((folder / "server.log").exists, "the begin of the run", running)
        code, told = federation.run_job("--name", "broken", "--force", *SMALL, *settings)
        assert (code, "the SuperLink is busy with run" in told) == (2, True), told
        wait_for_round(federation, running, folder, 1)
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
    subprocess.run(unbroken, cwd=ROOT, env=environment, check=True, capture_output=True)
    other = federation.runs / "unbroken"
    assert (folder / "encoder.safetensors").read_bytes() == (other / "encoder.safetensors").read_bytes()
    for person in range(1, PEOPLE + 1):
        heads = (other / "clients" / f"person_{person}" / "step-000006.safetensors").read_bytes()
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
        wait_for_round(federation, running, folder, len(rounds(folder)) + 1)
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
    federation.processes["server"].wait(PATIENCE)
    federation.stop("server")


def kill_the_superlink(federation: Deployment) -> None:
    """As its machine dies, and the server with it; a server that lives goes on when the SuperLink is back soon."""
    federation.stop("superlink")
    for process in family(federation, "server"):
        process.kill()
    federation.stop("server")


def test_too_few_clients_are_a_failure_with_a_reason_after_the_deadline(federation: Deployment) -> None:
    with newcomer(federation):
        code, told = federation.run_job(
            "--name", "few", *SMALL, "federation.min_clients=5", "federation.join_timeout=3"
        )
    assert code == 2
    assert re.search(r"\d of 5 registered clients are online after 3 s .*and 5 are needed", told), told


def test_a_killed_client_comes_back_with_its_heads_a_hanging_one_is_left_out_and_a_late_one_joins(
    federation: Deployment,
) -> None:
    folder = federation.runs / "restless"
    with job(federation, "restless", ENDLESS, f"federation.round_timeout={HANGING:g}") as running:
        wait_for_round(federation, running, folder, 2)
        with newcomer(federation) as late:
            federation.start_client(late)
            wait_for_round(federation, running, folder, len(rounds(folder)) + 1)
            with in_suspense(federation, "client-1"):
                federation.wait_for(lambda: not is_idle(federation, "client-0"), "client-0 at work", running)
                federation.stop("client-0")
                silent = r"round (\d+): dropped person 2, who did not answer in time"
                hung = wait_for_words(federation, running, folder, silent)
            lost = r"round (\d+): dropped the reply of person 1: .*failed to report a heartbeat"
            killed = wait_for_words(federation, running, folder, lost)
            federation.start_client(0)
            everybody = EVERYBODY | {str(late + 1)}
            federation.wait_for(
                lambda: people_of(folder, len(rounds(folder))) == everybody, "a round of all five", running
            )
            with round_stopped(federation, running, folder, held=1, others=[0, 2, 3]) as last:
                steps = steps_of(newest_state(federation, 0))
            running.terminate()
            assert finish(running)[0] == 143
    assert re.search(rf"round \d+: person {late + 1} has joined", log_of(folder)), log_of(folder)
    assert "1" not in people_of(folder, killed)
    assert "2" not in people_of(folder, hung)
    trained = len([number for number in range(1, last) if "1" in people_of(folder, number)]) + 1
    assert steps >= trained * STEPS_A_ROUND, "its heads were made anew"


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
    kind = message.content.config_records["config"]["server-round"] % 5  # of KINDS
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

KINDS = ["times the round's median", "", "NaN", "shape", "unknown arrays"]
"""What the server says of the attack of a round, by the round's number modulo their number; "" of the honest one."""


def test_a_hostile_a_full_and_a_torn_client_cost_their_own_replies(federation: Deployment) -> None:
    folder = federation.runs / "hurt"
    with job(federation, "hurt", ENDLESS, f"federation.round_timeout={PATIENCE:g}") as running:
        wait_for_round(federation, running, folder, 1)
        with ExitStack() as cure:
            with round_stopped(federation, running, folder, held=0, others=[1, 2, 3]) as healthy:
                cure.enter_context(infected(federation, "client-2"))
                torn = newest_state(federation, 3)
                torn.write_bytes(torn.read_bytes()[:1000])
                full = family(federation, "client-1")
                limit_files(full, 100_000)
                cure.callback(limit_files, full, psutil.RLIM_INFINITY)
            no_room = rf"round (\d+): dropped the reply of person 2: .*cannot write .*{healthy + 1}.safetensors: File "
            wait_for_words(federation, running, folder, no_room)
            limit_files(full, psutil.RLIM_INFINITY)
            wait_for_round(federation, running, folder, healthy + len(KINDS))
        with round_stopped(federation, running, folder, held=0, others=[1, 2, 3]) as last:
            states = {person: steps_of(newest_state(federation, person - 1)) for person in (2, 4)}
        running.terminate()
        assert finish(running)[0] == 143
    log = log_of(folder)
    lost = {int(number) for number in re.findall(r"round (\d+): dropped the reply of person 2: .*File too", log)}
    assert min(lost) == healthy + 1
    for number in range(1, last):
        expected = EVERYBODY - ({"2"} if number in lost else set())
        if healthy < number <= healthy + len(KINDS) and (words := KINDS[number % len(KINDS)]):
            expected -= {"3"}
            assert re.search(rf"round {number}: dropped the reply of person 3: .*{words}", log), log
        if number <= healthy + len(KINDS):
            assert people_of(folder, number) == expected, log
    assert re.search(rf"snapshot .*{torn.name} is damaged", (federation.base / "client-3.log").read_text())
    assert states[2] == (last - len(lost)) * STEPS_A_ROUND
    assert states[4] == (last - 1) * STEPS_A_ROUND, "the round of the torn state was lost"


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
    federation.wait_for(lambda: "Application startup complete" in federation.log("expired"), "a second SuperLink")
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
        assert federation.processes[name].wait(PATIENCE) != 0
        assert words in federation.log(name)
        federation.stop(name)
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
        )
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    federation.stop("expired")
    assert not (federation.runs / "refused").exists()
