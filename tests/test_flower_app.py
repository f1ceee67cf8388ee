"""`flwr run .` as a Flower user types it, with a home of its own."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shared.checkpoint import load_encoder
from shared.runs import LOCKS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
FLWR = str(Path(sys.executable).parent / "flwr")


@pytest.mark.timeout(400)
def test_flwr_run_as_docs_have_it_completes_and_leaves_an_encoder_in_the_data_folder(tmp_path: Path) -> None:
    command = next(
        line for line in (ROOT / "docs" / "start.md").read_text().splitlines() if line.startswith("flwr run .")
    )
    federation, overrides = re.findall(r"--federation-config \"(.*?)\" --run-config '(.*?)'", command)[0]
    environment = os.environ | {
        "FLWR_HOME": str(tmp_path / "flwr"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def flwr(*arguments: str) -> dict:
        done = subprocess.run(
            [FLWR, *arguments, "--format", "json"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout[done.stdout.index("{") :])

    try:
        started = flwr("run", ".", "--federation-config", federation, "--run-config", overrides)
        deadline = time.monotonic() + 300
        status = ""
        while not status.startswith("finished"):
            assert time.monotonic() < deadline, status
            time.sleep(2)
            status = flwr("ls", "--run-id", str(started["run-id"]))["runs"][0]["status"]
        log = (tmp_path / "flwr" / "local-superlink" / "superlink.log").read_text()
        assert status == "finished:completed", log[-3000:]
        (folder,) = (path for path in (tmp_path / "data" / "fedhar").iterdir() if path.name != LOCKS)
        assert folder.name == f"demo-{started['run-id']}"
        _, card = load_encoder(folder)
        assert card.data == "watch"
    finally:
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get("FLWR_HOME") == environment["FLWR_HOME"]:
                process.kill()
