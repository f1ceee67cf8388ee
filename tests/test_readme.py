"""Every command of the README on shipped data runs as it is written there; UCI HAR has a file of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from readme import ELSEWHERE, README, ROOT, commands, copy_checkout, run_all


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("readme"))


@pytest.mark.timeout(1200)
def test_every_command_on_shipped_data_runs_in_the_order_of_the_readme(checkout: Path) -> None:
    found = [c for c in commands("sh") if not c.startswith(tuple(ELSEWHERE)) and "uci_har" not in c]
    assert len(found) >= 8
    for name in ("raw", "features", "random"):  # what make demo leaves behind
        probe = f"python -m centralized_baseline.probe --config configs/demo.yaml --encoder {name}"
        run_all([probe], checkout)
    run_all(found, checkout)


@pytest.mark.timeout(300)
def test_the_python_of_the_readme_runs(checkout: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    name = re.search(r'Path\("runs/(.*?)"\)', blocks[0])
    assert name is not None
    small = ["--config", "configs/demo.yaml", "--name", name[1], "--engine", "inprocess", "--force"]
    subprocess.run(
        [sys.executable, "-m", "simulation", *small, "federation.rounds=1"],
        cwd=checkout,
        check=True,
        capture_output=True,
    )
    subprocess.run([sys.executable, "-c", blocks[0]], cwd=checkout, check=True)


def test_what_runs_elsewhere_is_in_the_readme_and_is_run_there() -> None:
    for start, reason in ELSEWHERE.items():
        assert any(command.startswith(start) for command in commands("sh")), start
        for name in re.findall(r"tests/\S+\.py", reason):
            assert (ROOT / name).is_file(), name
    assert "make demo" in (ROOT / ".ci" / "run").read_text()
