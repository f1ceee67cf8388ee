"""The command lines as a user runs them: both engines, interruption, bad input."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from deployed import PATIENCE, free_port

from shared.config import differences, load_config
from shared.metrics import read_metrics
from shared.runs import LOCKS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "--config", "configs/demo.yaml", "data.name=synthetic", "encoder.width=8", "federation.min_clients=4",
    "train.batch_size=48", "centralized.epochs=4",
]  # fmt: skip

PR_SET_PDEATHSIG = 1
"""Of Linux's ``prctl``: the signal that a process gets when its parent ends."""


def start(module: str, runs: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *SMALL, *arguments],
        cwd=ROOT,
        env=os.environ | {"FEDHAR_RUNS": str(runs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=like_a_users_command,
    )


def like_a_users_command() -> None:
    """Heed SIGINT, which a shell's background jobs and all that they start ignore; and end where pytest is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def run(module: str, runs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(module, runs, *arguments)
    out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for_round(process: subprocess.Popen[str], metrics: Path, last: int) -> None:
    deadline = time.monotonic() + PATIENCE  # a command that ends is seen at once
    while not any(row["round"] >= last and row["kind"] != "client" for row in read_metrics(metrics)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_after_round(process: subprocess.Popen[str], metrics: Path, last: int, sign: int) -> None:
    wait_for_round(process, metrics, last)
    os.killpg(process.pid, sign)
    process.communicate()


def still_running(runs: Path) -> list[psutil.Process]:
    """All processes that descend from a command that ``start`` started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FEDHAR_RUNS") == str(runs) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_ray_and_in_process_give_the_same_encoder_and_leave_nothing_running(tmp_path: Path) -> None:
    for engine in ("ray", "inprocess"):
        process = start("simulation", tmp_path, "--engine", engine, "--name", engine, "federation.rounds=2")
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert "2 rounds" in out
        assert "round 2: loss" in err
        assert not list(Path("/tmp").glob(f"fedhar-{process.pid}-*"))
    ray, inprocess = ((tmp_path / engine / "encoder.safetensors").read_bytes() for engine in ("ray", "inprocess"))
    assert ray == inprocess
    assert still_running(tmp_path) == []


def test_processes_that_go_on_would_be_found(tmp_path: Path) -> None:
    process = start("simulation", tmp_path, "--engine", "inprocess")
    try:
        assert [found.pid for found in still_running(tmp_path)] == [process.pid]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Two nodes of Ray with a core each, on one machine; yields the address of the first."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    ray = Path(sys.executable).with_name("ray")
    environment = os.environ | {"FEDHAR_RUNS": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as short,
        (tmp_path / "ray.log").open("wb") as log,
    ):
        head = ["--head", f"--port={port}", f"--temp-dir={short}", f"--ray-client-server-port={free_port()}"]
        try:
            for number, place in enumerate((head, [f"--address={address}"]), 1):
                start = [ray, "start", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", *place]
                subprocess.Popen(start, env=environment, stdout=log, stderr=log)
                deadline = time.monotonic() + 60
                ask = [ray, "status", f"--address={address}"]
                while subprocess.run(ask, capture_output=True, text=True).stdout.count("node_") < number:
                    assert time.monotonic() < deadline, (tmp_path / "ray.log").read_text()
            yield address
        finally:
            left = still_running(tmp_path)
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, 10)


def test_a_simulation_uses_all_machines_of_a_ray_cluster(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    process = start("simulation", tmp_path, "--name", "spread", "federation.rounds=4")
    try:
        wait_for_round(process, tmp_path / "spread" / "metrics.jsonl", 1)
        actors = [found for found in still_running(tmp_path) if found.cmdline()[0].startswith("ray::ClientAppActor")]
        assert len({actor.ppid() for actor in actors}) == 2, "one node of Ray had no client"
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, err
    monkeypatch.delenv("RAY_ADDRESS")
    assert run("simulation", tmp_path, "--engine", "inprocess", "--name", "one", "federation.rounds=4").returncode == 0
    spread, one = ((tmp_path / name / "encoder.safetensors").read_bytes() for name in ("spread", "one"))
    assert spread == one


@pytest.mark.parametrize(
    ("engine", "sign", "code"),
    [("inprocess", signal.SIGINT, 130), ("ray", signal.SIGINT, 130), ("ray", signal.SIGTERM, 143)],
)
def test_an_interrupted_simulation_ends_and_leaves_nothing_running(
    engine: str, sign: int, code: int, tmp_path: Path
) -> None:
    process = start("simulation", tmp_path, "--engine", engine, "--name", "run", "federation.rounds=10000")
    wait_for_round(process, tmp_path / "run" / "metrics.jsonl", 1)
    process.send_signal(sign)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert still_running(tmp_path) == []


def test_a_killed_simulation_resumes_to_the_same_encoder(tmp_path: Path) -> None:
    rounds = "federation.rounds=6"
    unbroken = run("simulation", tmp_path, "--engine", "inprocess", "--name", "whole", rounds)
    assert unbroken.returncode == 0, unbroken.stderr
    process = start("simulation", tmp_path, "--engine", "inprocess", "--name", "killed", rounds)
    kill_after_round(process, tmp_path / "killed" / "metrics.jsonl", 2, signal.SIGKILL)
    assert not (tmp_path / "killed" / "encoder.json").exists()
    config, others = tmp_path / "killed" / "config.yaml", ["federation.round_timeout=99", "centralized.epochs=5"]
    before = load_config(config)
    resumed = run("simulation", tmp_path, "--engine", "inprocess", "--name", "killed", rounds, "--resume", *others)
    assert resumed.returncode == 0, resumed.stderr
    assert [change.partition(":")[0] for change in differences(before, load_config(config))] == [
        "federation.round_timeout",
        "centralized.epochs",
    ]
    whole, killed = ((tmp_path / n / "encoder.safetensors").read_bytes() for n in ("whole", "killed"))
    assert whole == killed


def test_a_killed_centralized_run_resumes_to_the_same_encoder(tmp_path: Path) -> None:
    epochs = "centralized.epochs=8"
    assert run("centralized_baseline", tmp_path, "--name", "whole", epochs).returncode == 0
    process = start("centralized_baseline", tmp_path, "--name", "killed", epochs)
    kill_after_round(process, tmp_path / "killed" / "metrics.jsonl", 2, signal.SIGKILL)
    others = ["federation.rounds=3", "train.batch_size=7", "federation.upload=int8"]
    resumed = run("centralized_baseline", tmp_path, "--name", "killed", epochs, "--resume", *others)
    assert resumed.returncode == 0, resumed.stderr
    whole, killed = ((tmp_path / n / "encoder.safetensors").read_bytes() for n in ("whole", "killed"))
    assert whole == killed
    assert [row["round"] for row in read_metrics(tmp_path / "killed" / "metrics.jsonl")] == list(range(1, 9))


def test_many_virtual_people_of_whom_few_train_in_a_round(tmp_path: Path) -> None:
    many = tmp_path / "many"
    split = [sys.executable, "-m", "shared.data", "split", "synthetic", "--virtual", "300", "8", "--out", str(many)]
    subprocess.run(split, cwd=ROOT, check=True, capture_output=True)
    few = ["data.name=folder", f"data.path={many}", "federation.fraction=0.02", "federation.rounds=2"]
    done = run("simulation", tmp_path, "--engine", "inprocess", "--name", "few", *few)
    assert done.returncode == 0, done.stderr
    rows = list(read_metrics(tmp_path / "few" / "metrics.jsonl"))
    assert [row["clients"] for row in rows if row["kind"] == "round"] == [6, 6]
    (many / "person_7.npz").write_bytes(b"torn")
    done = run("simulation", tmp_path, "--engine", "inprocess", "--name", "torn", *few)
    assert (done.returncode, "person_7.npz" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "torn").exists()


@pytest.mark.parametrize("module", ["simulation", "centralized_baseline"])
def test_bad_input_exits_with_two_and_one_readable_message(module: str, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 not a zip")
    cases = {
        "did you mean 'batch_size'": ["train.batchsize=8"],
        "expected one of: fcn": ["encoder.name=cnn"],
        "transformation, reconstruction, contrastive, features": ["tasks.jigsaw.enabled=true"],
        "expected one of: uci_har": ["data.name=mnist"],
        "nowhere.zip": ["data.name=uci_har", f"data.path={tmp_path}/nowhere.zip"],
        "broken.zip": ["data.name=uci_har", f"data.path={tmp_path}/broken.zip"],
        "exists already and is not a run": ["--name", "taken", "--force"],
        "plain name of a folder": ["--name", ".."],
        "tasks.contrastive.temperature": ["tasks.contrastive.temperature=warm"],
        "unknown augmentation 'spin'": ["views.transforms=[spin]"],
        "does not have; choose auto or cpu": ["train.device=mps"],
        "has 4 training people|there is no run": ["--resume", "federation.min_clients=5"],
        "nothing to resume|there is no run": ["--name", "fresh", "--resume"],
    }
    for words, arguments in cases.items():
        done = run(module, tmp_path, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert any(word in " ".join(done.stderr.split()) for word in words.split("|")), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCKS, "broken.zip", "taken"]


def test_resume_refuses_another_configuration_and_force_replaces(tmp_path: Path) -> None:
    name = ["--engine", "inprocess", "--name", "run", "federation.rounds=1"]
    encoder = tmp_path / "run" / "encoder.safetensors"
    assert run("simulation", tmp_path, *name).returncode == 0
    refused = run("simulation", tmp_path, *name, "--resume", "seed=5")
    assert refused.returncode == 2
    assert "seed: 0 -> 5" in refused.stderr
    before = encoder.read_bytes()
    taken = run("simulation", tmp_path, *name)
    assert taken.returncode == 2
    assert "exists already" in taken.stderr
    impossible = run("simulation", tmp_path, *name, "--force", "views.transforms=[spin]")
    assert impossible.returncode == 2
    assert encoder.read_bytes() == before
    assert run("simulation", tmp_path, *name, "--force", "seed=5").returncode == 0
    assert encoder.read_bytes() != before


def test_a_failed_run_exits_non_zero_with_its_reason_in_both_engines(tmp_path: Path) -> None:
    for engine in ("inprocess", "ray"):
        done = run("simulation", tmp_path, "--engine", engine, "--name", engine, "train.learning_rate=1.0e+30")
        assert done.returncode == 2
        assert "no client sent a usable reply" in done.stderr
        assert "is not finite" in done.stderr
        assert "Traceback" not in done.stderr
        assert "is not finite" in (tmp_path / engine / "server.log").read_text()


@pytest.mark.parametrize("module", ["simulation", "centralized_baseline"])
def test_help_teaches(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "example:" in done.stdout
    assert "configs/default.yaml" in done.stdout
