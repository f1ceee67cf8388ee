"""The federation as it is deployed: real processes with TLS and node keys, and real containers where Docker answers."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from deployed import PATIENCE, ROOT, Deployment, alive, deployed, remove_labels
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, subprocess_executor

from centralized_baseline.probe import main as probe
from deployment import superexec
from shared.data import DataSettings, load
from shared.data.folder import write_folder
from shared.data.parts import TEN_ALIKE
from shared.data.split import split_people
from shared.data.windows import UNLABELLED
from shared.evaluate import ProbeReport

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]

SMALL = ["data.name=synthetic", "encoder.width=8", "federation.rounds=2", "federation.min_clients=3"]
SMALL += [f"federation.join_timeout={PATIENCE:g}"]
CONFIG = ["--config", "configs/demo.yaml", *SMALL, "data.holdout=[4]"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("deployed"), clients=3) as running:
        yield running


def test_a_deployed_run_gives_the_encoder_of_the_simulation_byte_for_byte(federation: Deployment) -> None:
    code, told = federation.run_job("--name", "deployed", *CONFIG)
    assert code == 0, told + federation.log("superlink")
    assert "3 of 3 registered clients are online" in told
    assert "round 2: loss" in told
    simulated = subprocess.run(
        [sys.executable, "-m", "simulation", "--engine", "inprocess", "--name", "simulated", *CONFIG],
        cwd=ROOT,
        env=os.environ | {"FEDHAR_RUNS": str(federation.runs), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert simulated.returncode == 0, simulated.stderr
    one, two = federation.runs / "deployed", federation.runs / "simulated"
    assert (one / "encoder.safetensors").read_bytes() == (two / "encoder.safetensors").read_bytes()
    assert json.loads((one / "encoder.json").read_text()) == json.loads((two / "encoder.json").read_text())
    assert (one / "config.yaml").read_text() == (two / "config.yaml").read_text()


def test_the_labels_of_two_people_judge_an_encoder_of_clients_that_have_none(
    federation: Deployment, tmp_path: Path
) -> None:
    for file in federation.base.glob("client-*/data/person_*.npz"):
        assert set(np.load(file)) == {"x"}
    train, test = load(DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(4,), parts=TEN_ALIKE))
    train = replace(train, y=np.where(np.isin(train.person, ("1", "3")), train.y, UNLABELLED))
    write_folder(tmp_path / "two", train, test)
    few = ["--seeds", "1", "--regimes", "1", "all", "--out", str(tmp_path)]
    where = ["data.name=folder", f"data.path={tmp_path / 'two'}", "data.holdout=[]"]
    probe(["--encoder", str(federation.runs / "deployed"), *few, *where])
    report = ProbeReport.model_validate_json((tmp_path / "deployed" / "probe.json").read_bytes())
    assert (report.train_people, report.test_people) == (["1", "3"], ["4"])
    assert all(result.accuracy > 0.5 for result in report.results)


def test_a_client_plays_the_code_of_the_run_and_keeps_its_state_to_itself(federation: Deployment) -> None:
    for partition in range(3):
        home = federation.base / f"client-{partition}"
        assert "Traceback" not in federation.log(f"client-{partition}")
        assert list(home.glob("flwr/apps/*/client/__pycache__/app.*")), "the run's own client.app was not imported"
        assert {path.name for path in home.glob("state/*/*")} == {f"person_{partition + 1}"}
    assert not list((federation.runs / "deployed").rglob("person_*"))


def test_forks_that_have_ended_are_collected(federation: Deployment) -> None:
    for partition in range(3):
        supernode = psutil.Process(federation.processes[f"client-{partition}"].pid)
        federation.wait_for(lambda node=supernode: len(node.children(recursive=True)) == 1, "the SuperExec alone")


def test_the_rules_for_run_folders_are_those_of_the_simulation(federation: Deployment) -> None:
    code, told = federation.run_job("--name", "deployed", *CONFIG)
    assert (code, "exists already" in told) == (2, True), told
    code, told = federation.run_job("--name", "deployed", "--resume", *CONFIG, "seed=5")
    assert (code, "seed: 0 -> 5" in told) == (2, True), told
    code, told = federation.run_job("--name", "other", "--resume", *CONFIG)
    assert (code, "there is no run" in told) == (2, True), told


def test_a_run_that_needs_more_clients_than_there_are_fails_with_the_reason(federation: Deployment) -> None:
    code, told = federation.run_job("--name", "many", *CONFIG, "federation.min_clients=9", "federation.join_timeout=1")
    assert code == 2
    assert "3 of 3 registered clients are online" in told
    assert "9 are needed" in told


TO_BE_KILLED = """
import sys

import psutil
from pathlib import Path
from deployed import deployed
with deployed(Path(sys.argv[1]), clients=1) as running:
    running.wait_for(lambda: len(psutil.Process(running.processes["client-0"].pid).children()), "its SuperExec")
    running.job("--config", "configs/demo.yaml", "data.name=synthetic", "federation.join_timeout=1000")
    print("all run", flush=True)
    input()
"""


def test_a_deployment_ends_with_the_process_that_started_it_even_when_that_is_killed(tmp_path: Path) -> None:
    base = tmp_path / "base"
    killed = subprocess.Popen(
        [sys.executable, "-c", TO_BE_KILLED, str(base)],
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert killed.stdout and killed.stdout.readline() == "all run\n"
    started = alive(base)
    assert len(started) >= 5, "a SuperLink, a server, a client of two processes, a job"
    killed.kill()
    killed.communicate()
    assert not psutil.wait_procs(started, PATIENCE)[1]
    deadline = time.monotonic() + PATIENCE
    while base.exists():
        assert time.monotonic() < deadline, list(base.iterdir())
        time.sleep(0.1)
    assert not alive(base)


def test_flower_starts_its_task_processes_where_we_take_them_over(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(superexec, "_fork", started.append)
    monkeypatch.setattr(subprocess_executor, "subprocess", subprocess)
    superexec.take_over()
    subprocess_executor.SubprocessExecutor().launch(
        ExecutionSpec(TaskType.CLIENT_APP, "127.0.0.1:1", "t", True, None, False, None, False, 1)
    )
    assert started == [["flwr-clientapp", "--runtime-api-address", "127.0.0.1:1", "--token", "t", "--insecure"]]


def credentials(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "scripts" / "make-credentials.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_credentials_are_what_flower_wants_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "credentials"
    done = credentials(str(folder), "--nodes", "24", "--hosts", "hub.example.org 10.0.0.5")
    assert done.returncode == 0, done.stderr
    assert "expires on" in done.stdout
    for number in range(24):  # a private number with a high or a zero first byte is written differently
        private = load_ssh_private_key((folder / f"node-{number}").read_bytes(), None)
        public = load_ssh_public_key((folder / "public" / f"node-{number}.pub").read_bytes())
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.curve.name == "secp384r1"
        assert private.public_key() == public
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()} == {0o600}
    certificate = x509.load_pem_x509_certificate((folder / "public" / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"superlink", "localhost", "hub.example.org"}
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "10.0.0.5"}


def test_more_keys_are_added_and_the_certificate_is_renewed_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    assert credentials(str(folder), "--nodes", "2", "--hosts", "hub.example.org").returncode == 0
    (folder / "node-0").unlink()  # a client who left; the number is nobody else's
    (folder / "public" / "node-0.pub").unlink()
    (folder / "ca.key").rename(tmp_path / "safe")
    (folder / "server.key").chmod(0o400)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    added = credentials(str(folder), "--add", "2")
    assert (added.returncode, "node-2 to node-3" in added.stdout) == (0, True), added.stderr
    assert {path: path.read_bytes() for path in before} == before
    for number in (2, 3):
        private = load_ssh_private_key((folder / f"node-{number}").read_bytes(), None)
        public = load_ssh_public_key((folder / "public" / f"node-{number}.pub").read_bytes())
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        assert private.public_key() == public
    refused = credentials(str(folder), "--renew")
    assert (refused.returncode, "holds no ca.key" in refused.stderr) == (2, True)
    (tmp_path / "safe").rename(folder / "ca.key")
    assert credentials(str(folder), "--renew").returncode == 0
    assert {path.name for path in before if path.read_bytes() != before[path]} == {"server.key", "server.pem"}
    old, new = (
        x509.load_pem_x509_certificate(content)
        for content in (before[folder / "public" / "server.pem"], (folder / "public" / "server.pem").read_bytes())
    )
    names = [c.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for c in (old, new)]
    assert names[0] == names[1]
    authority = x509.load_pem_x509_certificate((folder / "public" / "ca.crt").read_bytes())
    new.verify_directly_issued_by(authority)
    assert (folder / "server.key").stat().st_mode & 0o777 == 0o400  # who reads the old one reads the new one
    assert [path.name for path in tmp_path.iterdir()] == ["credentials"]


def test_credentials_are_never_overwritten_and_nothing_half_made_stays(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for arguments, words in (
        (["old"], "exists already"),
        (["new", "--hosts", "hub:8000"], "IP:hub:8000"),
        (["new", "--hosts", "a_b/c"], "'a_b/c'"),
        (["new", "--nodes", "0"], "must be a number"),
        (["old", "--add", "1"], "holds no credentials"),
        (["old", "--renew"], "holds no ca.key"),
        (["old", "--renew", "--add", "1"], "usage:"),
        (["old", "--renew", "--nodes", "1"], "usage:"),
        (["old", "--add", "1", "--hosts", "a"], "usage:"),
        ([], "usage:"),
    ):
        done = credentials(*[str(tmp_path / a) if a in {"old", "new"} else a for a in arguments])
        assert done.returncode == 2
        assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def docker_answers() -> bool:
    return bool(shutil.which("docker")) and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@pytest.mark.skipif(not docker_answers(), reason="no Docker engine answers")
def test_the_containers_train_and_bring_the_run_home(tmp_path: Path) -> None:
    data, runs = tmp_path / "deployment", tmp_path / "runs"
    data.mkdir()
    split_people(
        DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE), data / "people"
    )  # prepare keeps what is there
    remove_labels(data / "people")
    runs.mkdir()
    environment = os.environ | {
        "FEDHAR_DATA": str(data),
        "FEDHAR_RUNS": str(runs),
        "FEDHAR_JOB": " ".join(["--config configs/demo.yaml --name contained", *SMALL]),
    }

    def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "compose", "--project-name", f"fedhar-test-{os.getpid()}", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    try:
        for step in (["build"], ["run", "--rm", "prepare", "scripts/prepare-deployment.sh", "synthetic"]):
            done = compose(*step)
            assert done.returncode == 0, done.stdout + done.stderr
        clients = [f"client-{partition}" for partition in range(4)]
        done = compose("up", "--no-color", "--exit-code-from", "job", "superlink", "server", "job", *clients)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
        assert "4 of 4 registered clients are online" in done.stdout + done.stderr
        assert (runs / "contained" / "encoder.safetensors").stat().st_uid == runs.stat().st_uid
    finally:
        assert compose("down", "--volumes").returncode == 0
