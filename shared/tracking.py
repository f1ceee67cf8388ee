"""What a run tells while it goes on: ``metrics.jsonl`` and TensorBoard."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from shared.files import write_atomic
from shared.metrics import METRICS, read_metrics


class Tracker:
    """Appends rows to ``metrics.jsonl`` and their numbers to TensorBoard.

    A row has a ``kind`` ("client", "round" or "epoch") and the ``round`` (or epoch) that it belongs to.

    Args:
        folder: The run folder.
        after: The round after which a resumed run goes on; later rows are of a past given up and are dropped.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        self._path = folder / METRICS
        kept = [row for row in read_metrics(self._path) if row["round"] <= after]
        write_atomic(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=after + 1)

    def log(self, kind: str, step: int, row: Mapping[str, Any]) -> None:
        """Write one row; it is on the disk's way when this returns."""
        self._file.write(json.dumps({"kind": kind, "round": step} | dict(row)) + "\n")
        self._file.flush()
        prefix = f"{kind}_{row['person']}" if "person" in row else kind
        for key, value in row.items():
            if isinstance(value, int | float) and key != "person":
                self._board.add_scalar(f"{prefix}/{key}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
