"""Commands of the README and of docs, as written there; long ones get fewer rounds, seeds or people."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(f"docs/{name}.md" for name in ("start", "uci_har", "speed", "privacy", "faults"))]
TEXT = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
"""The pages whose commands build on each other."""

NARROW = "encoder.width=16"
THREE_PEOPLE = f"{NARROW} federation.min_clients=3 data.holdout=[1,3,5,6,7,8,11,14,15,16,17,19,21,22,23,25,26,27]"
ONE_OF_EACH = ",".join(
    f"{name}/{number}"
    for name, people in (("uci_har", (3, 5, 6, 7, 8, 11, 14, 15, 16, 17, 19, 21, 22, 23, 25, 26, 27, 28, 29, 30)),
                         ("motionsense", range(2, 17)), ("dsads", range(2, 7)))
    for number in people
)  # fmt: skip
"""The training people of three data sets but for the first of each."""
SHORT = {
    "python -m simulation --config configs/images_demo.yaml": "federation.rounds=1 encoder.width=4",
    "python -m centralized_baseline --config configs/images_demo.yaml": "centralized.epochs=1 encoder.width=4",
    "python -m simulation --config configs/demo.yaml --name everybody": "federation.rounds=1 encoder.width=4 "
    f"federation.min_clients=3 data.holdout=[{ONE_OF_EACH}]",
    "python -m centralized_baseline --config configs/demo.yaml --name pooled": "centralized.epochs=1 encoder.width=4 "
    f"data.holdout=[{ONE_OF_EACH}]",
    "python -m centralized_baseline.probe --encoder runs/everybody": "data.holdout=[] --seeds 1 --regimes 1",
    "python -m simulation --config configs/uci_har.yaml": f"federation.rounds=2 {THREE_PEOPLE}",
    "python -m centralized_baseline --config configs/uci_har.yaml": f"centralized.epochs=1 {THREE_PEOPLE}",
    "python -m benchmarks.scale": "--data synthetic --people 12 --cohorts 3 6",
    "python -m benchmarks.weeks": "--hours 0.25 --windows 64 --turns 1",
    "python -m benchmarks.curve": f"--at 0 1 3 --seeds 1 data.name=synthetic federation.min_clients=4 {NARROW} "
    "federation.rounds=3",
    "python -m benchmarks.methods": f"data.name=synthetic {NARROW} "
    "--methods thesis --ways centralized --seeds 1 --epochs 1 --protocols knn",
    "python -m benchmarks": f"--rounds 2 {THREE_PEOPLE}",
    "python -m simulation": f"federation.rounds=2 {NARROW}",
    "python -m centralized_baseline ": f"centralized.epochs=1 {NARROW}",
    "python -m centralized_baseline.probe --config configs/uci_har.yaml": f"--seeds 1 --regimes 1 {THREE_PEOPLE}",
    "python -m centralized_baseline.probe": "--seeds 1 --regimes 1",
    "python -m centralized_baseline.crossval": f"centralized.epochs=1 {NARROW} --seeds 1 --regimes 1 --folds 2",
    "python -m shared.report": "--sample 60",
}

ELSEWHERE = {
    "make test": "is what runs this test",
    "make demo": "is run by .ci/run",
    "python -m shared.data download": "needs the internet; tests/test_download.py runs it against a local server",
    "make deploy-demo": "needs Docker; tests/test_deployment.py runs its containers",
    "flwr run": "is run by tests/test_flower_app.py",
    "python -m shared.predict": "needs a recording; tests/test_predict.py makes one",
}


def commands(language: str, page: str = TEXT) -> list[str]:
    blocks = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    lines = [line.split("   #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(("export", "#"))]


def short(command: str) -> str:
    if loop := re.fullmatch(r"for (\w+) in (\w+)[\w ]*; do (.*); done", command):
        return f"for {loop[1]} in {loop[2]}; do {short(loop[3])}; done"
    assert not command.startswith("for "), f"cannot be shortened: {command}"
    extra = next((more for start, more in SHORT.items() if f"{command} ".startswith(start)), "")
    return f"{command} {extra}"


def copy_checkout(target: Path) -> Path:
    """Copy what git tracks or would track, so that no earlier run is in the way, and return the folder."""
    target /= "fedhar"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run_all(found: list[str], checkout: Path, **environment: str) -> None:
    own = {k: v for k, v in os.environ.items() if k != "FEDHAR_RUNS"} | environment
    own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in found:
        done = subprocess.run(["bash", "-ec", short(command)], cwd=checkout, env=own, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
