"""Golden runs: losses and encoders of short trainings, as they were recorded. A refactoring must not move them.

``python -m tests.test_golden`` records them anew. A change that is meant to move them says so in its commit.
"""

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from centralized_baseline.__main__ import train_centralized
from shared.config import DEFAULTS, Config, load_config
from shared.encoders import ENCODERS
from shared.files import sha256_of
from shared.metrics import METRICS, read_metrics
from simulation.__main__ import simulate

pytestmark = [pytest.mark.numerics, pytest.mark.slow]

GOLDEN = Path(__file__).parent / "golden"
WAYS = ("centralized", "federated")
TOLERANCE = 1e-5


def configure(encoder: str) -> Config:
    """All tasks on made-up data, two epochs or two rounds, float32, one thread."""
    return load_config(
        DEFAULTS,
        [
            f"encoder.name={encoder}",
            "encoder.width=8",
            "data.name=synthetic",
            "train.device=cpu",
            "federation.rounds=2",
            "federation.min_clients=4",
            "centralized.epochs=2",
            "centralized.threads=1",
        ],
    )


def processor() -> str:
    """Name what decides on the bits of a sum: the processor with its instruction sets, and the version of torch."""
    described = platform.processor()
    if (info := Path("/proc/cpuinfo")).is_file():
        # Of the first core; speed and the like change from start to start.
        first = info.read_text().split("\n\n")[0]
        described += "".join(
            re.findall(r"(?m)^(?:vendor_id|cpu family|model.*|stepping|flags|Features|CPU .*?)\s*:.*", first)
        )
    limits = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    described += f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {limits}"
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def run(encoder: str, way: str, folder: Path) -> dict[str, Any]:
    """Train and return the losses and task weights of each step, and the digest of the encoder's file."""
    torch.set_num_threads(1)
    if way == "centralized":
        train_centralized(configure(encoder), folder)
    else:
        simulate(configure(encoder), folder, "inprocess")
    rows = [row for row in read_metrics(folder / METRICS) if row["kind"] in ("epoch", "round")]
    steps = [{key: row[key] for key in sorted(row) if key.startswith(("loss", "weight"))} for row in rows]
    return {"steps": steps, "encoder": sha256_of(folder / "encoder.safetensors")}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_short_training_gives_what_it_gave(encoder: str, way: str, tmp_path: Path) -> None:
    golden = json.loads((GOLDEN / f"{encoder}-{way}.json").read_text())
    found = run(encoder, way, tmp_path / "run")
    assert len(found["steps"]) == len(golden["steps"]) == 2
    for step, expected in zip(found["steps"], golden["steps"], strict=True):
        assert step == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
    if processor() in golden["encoders"]:
        assert found["encoder"] == golden["encoders"][processor()]


def record() -> None:
    """Write all golden runs, as this processor computes them; digests of other processors go with their losses."""
    for encoder in ENCODERS:
        for way in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                found = run(encoder, way, Path(folder) / "run")
            content = {"steps": found["steps"], "encoders": {processor(): found["encoder"]}}
            (GOLDEN / f"{encoder}-{way}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    record()
    sys.stdout.write(f"recorded in {GOLDEN}\n")
