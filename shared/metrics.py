"""The rows of ``metrics.jsonl``, in which a run tells round by round (or epoch by epoch) how it goes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"

Row = dict[str, Any]
"""What one client, round or epoch gave, under its ``kind`` ("client", "round" or "epoch") and its ``round``."""


def read_metrics(path: Path) -> Iterator[Row]:
    """Yield the complete rows of a metrics file; a last line that is still being written is left out."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
