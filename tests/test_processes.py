"""Run folders that are taken or cannot be written, and commands that are killed: what a user sees, and what is left."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from conftest import unprivileged
from deployed import PATIENCE
from test_simulation import ROOT, SMALL, run, start, wait_for_round

from shared.config import load_config
from shared.errors import UserError
from shared.metrics import METRICS, read_metrics
from shared.runs import LOCKS, locked, opened_run
from shared.train import warn_of_lone_windows

pytestmark = pytest.mark.slow

BUSY = "another process is at work on the run"
LONG = {
    "simulation": ["--engine", "inprocess", "federation.rounds=100000"],
    "centralized_baseline": ["centralized.epochs=100000"],
    "centralized_baseline.crossval": ["centralized.epochs=100000", "--folds", "2", "--seeds", "1"],
}


@contextmanager
def going_on(module: str, runs: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    process = start(module, runs, "--name", "run", *arguments)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("module", LONG)
def test_a_run_that_is_going_on_is_refused_by_every_command_and_goes_on(module: str, tmp_path: Path) -> None:
    inner = "run/variant-1/fold-1" if module.endswith("crossval") else "run"
    with going_on(module, tmp_path, *LONG[module]) as process:
        wait_for_round(process, tmp_path / inner / METRICS, 1)
        for other, how in [(module, ()), (module, ("--resume",)), *((other, ("--force",)) for other in LONG)]:
            done = run(other, tmp_path, "--name", "run", *LONG[other], *how)
            assert (done.returncode, BUSY in done.stderr) == (2, True), (other, how, done.stderr)
        wait_for_round(process, tmp_path / inner / METRICS, 1 + last_round(tmp_path / inner / METRICS))
    assert run(module, tmp_path, "--name", "run", *LONG[module]).returncode == 2, "its folder is there"
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCKS, "run"]


def last_round(metrics: Path) -> int:
    return max((row["round"] for row in read_metrics(metrics)), default=0)


def test_a_server_is_kept_out_by_another_server_alone_and_a_command_by_both(tmp_path: Path) -> None:
    config, folder = load_config(ROOT / "configs" / "demo.yaml"), tmp_path / "run"
    with opened_run(folder, config, "federated", resume=False, force=False):
        with locked(folder, "server"), pytest.raises(UserError, match=BUSY), locked(folder, "server"):
            pass
        with pytest.raises(UserError, match=BUSY), opened_run(folder, config, "federated", resume=False, force=True):
            pass
    with (
        locked(folder, "server"),
        pytest.raises(UserError, match=BUSY),
        opened_run(folder, config, "federated", resume=False, force=True),
    ):
        pass
    assert (folder / "config.yaml").is_file()
    with opened_run(folder, config, "federated", resume=False, force=True):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCKS, "run"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder somebody else's")
def test_roots_lock_does_not_keep_out_whose_folder_it_is(tmp_path: Path) -> None:
    os.chown(tmp_path, 10001, 10001)
    with locked(tmp_path / "run", "server"):
        pass
    assert {path.stat().st_uid for path in (tmp_path / LOCKS, *(tmp_path / LOCKS).iterdir())} == {10001}


def test_a_lock_whose_holder_has_died_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    child = (
        "import signal, sys; from pathlib import Path; from shared.runs import locked\n"
        "with locked(Path(sys.argv[1]), 'command') as lock:\n"
        "    import subprocess\n"
        "    subprocess.Popen([sys.executable, '-c', 'input()'], pass_fds=[lock])\n"
        "    print('locked', flush=True)\n"
        "    signal.pause()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", child, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=BUSY), locked(folder, "command"):
            pass
        process.kill()
        waiting = subprocess.Popen(
            [sys.executable, "-c", "import sys; from pathlib import Path; from shared.runs import locked\n"
             "print('waits', flush=True)\nwith locked(Path(sys.argv[1]), 'command'): print('has it')", str(folder)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert waiting.stdout and waiting.stdout.readline() == "waits\n"
        assert waiting.poll() is None
        process.stdin.close()
        assert waiting.stdout.read() == "has it\n"
        assert waiting.wait() == 0
    finally:
        process.kill()
        process.stdin.close()
        process.wait()
        process.stdout.close()
    assert [path.name for path in tmp_path.iterdir()] == [LOCKS]


def refused(runs: Path, module: str, *arguments: str, without: Sequence[str] = (), **how: Any) -> str:
    """Run a command, by one that takes rights away, which must end with one message and code 2; return the message."""
    engine = ["--engine", "inprocess"] if module == "simulation" else []
    done = subprocess.run(
        [*without, sys.executable, "-m", module, *SMALL, "--name", "run", *engine, *arguments],
        cwd=ROOT,
        env=os.environ | {"FEDHAR_RUNS": str(runs)},
        capture_output=True,
        text=True,
        **how,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    return " ".join(done.stderr.split())


def test_what_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    without = unprivileged()
    assert run("centralized_baseline", tmp_path, "--name", "run", "centralized.epochs=1").returncode == 0
    before = sorted(tmp_path.rglob("*"))
    for closed, options in ((tmp_path / "run", ("--resume", "--force")), (tmp_path, ("--force",))):
        closed.chmod(0o500)
        try:
            for module in ("simulation", "centralized_baseline"):
                for option in options:
                    said = refused(tmp_path, module, "centralized.epochs=1", option, without=without)
                    assert "Permission denied" in said and str(tmp_path) in said
        finally:
            closed.chmod(0o700)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_in_the_way_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    (tmp_path / "file").write_text("a file")
    for option in ("--resume", "--force"):
        assert str(tmp_path / "run") in refused(tmp_path, "simulation", option)
        assert str(tmp_path / "file") in refused(tmp_path / "file", "centralized_baseline", option)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCKS, "file", "run"]


def no_room() -> None:
    """Let no file grow beyond a kilobyte, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def test_a_full_disk_is_a_message_and_no_run_is_lost(tmp_path: Path) -> None:
    assert run("centralized_baseline", tmp_path, "--name", "run", "centralized.epochs=1").returncode == 0
    before = sorted(tmp_path.rglob("*"))
    for module in ("simulation", "centralized_baseline"):
        for option in ("--resume", "--force"):
            told = refused(tmp_path, module, "centralized.epochs=1", option, preexec_fn=no_room)
            assert "cannot write" in told and "File too large" in told
    assert sorted(tmp_path.rglob("*")) == before


def test_more_threads_than_cores_are_refused_before_ray_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    many = (os.cpu_count() or 1) + 1
    done = run("simulation", tmp_path, f"train.threads={many}")
    assert done.returncode == 2
    assert f"train.threads is {many}" in done.stderr and "set train.threads=" in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("windows", "size", "lone"),
    [(12, 1, True), (3, 2, True), (1, 64, True), (4, 2, False), (65, 64, False), (2, 64, False)],
)
@pytest.mark.parametrize("block", ["train", "centralized"])
def test_batches_of_one_window_get_a_word_where_a_task_compares_windows(
    block: Literal["train", "centralized"], windows: int, size: int, lone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    demo = ROOT / "configs" / "demo.yaml"
    warn_of_lone_windows(load_config(demo, [f"{block}.batch_size={size}"]), [100 * size, windows], block)
    words = [f"{block}.batch_size={size}", "contrastive learns nothing", f"set a larger {block}.batch_size"]
    assert [word in caplog.text for word in words] == [lone] * 3
    caplog.clear()
    off = load_config(demo, [f"{block}.batch_size={size}", "tasks.contrastive.enabled=false"])
    warn_of_lone_windows(off, [windows], block)
    assert caplog.text == ""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_ray_outlives_the_command_and_the_run_can_be_resumed(sign: int, tmp_path: Path) -> None:
    process = start("simulation", tmp_path, "--name", "run", "federation.rounds=100000")
    homes = f"fedhar-{process.pid}-"
    try:
        wait_for_round(process, tmp_path / "run" / METRICS, 1)
        family = psutil.Process(process.pid).children(recursive=True)
        names = " ".join(member.name() + " ".join(member.cmdline()) for member in family)
        assert "ray::" in names and "raylet" in names and "gcs_server" in names
    finally:
        process.send_signal(sign)
        process.communicate(timeout=PATIENCE)
    if sign == signal.SIGKILL:
        # What was started ends by itself, and a command that comes at once waits for that.
        last = last_round(tmp_path / "run" / METRICS)
        again = start("simulation", tmp_path, "--name", "run", "federation.rounds=100000", "--resume")
        try:
            wait_for_round(again, tmp_path / "run" / METRICS, last + 1)
        finally:
            again.terminate()
            _, told = again.communicate(timeout=PATIENCE)
        assert "lost" not in told and "Traceback" not in told
    assert [member for member in family if alive(member)] == []
    assert list(Path("/tmp").glob(f"{homes}*")) == []


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
