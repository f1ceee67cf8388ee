"""What a run tells while it goes on: ``metrics.jsonl`` and TensorBoard."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from shared.files import write_atomic
from shared.metrics import METRICS, Row, read_metrics


class Tracker:
    """Appends rows to ``metrics.jsonl`` and their numbers to TensorBoard.

    Args:
        folder: The run folder.
        after: The round (or epoch) after which a resumed run goes on; later rows are of a past given up, and go.
        rows: Of that round, from its snapshot. A snapshot is saved before its rows are logged, so that a logged round
            is a safe one; a run that was killed between the two lacks them.
    """

    def __init__(self, folder: Path, after: int = 0, rows: Sequence[Row] = ()) -> None:
        self._path = folder / METRICS
        kept = [row for row in read_metrics(self._path) if row["round"] < after]
        write_atomic(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=after)
        self.log(rows)

    def log(self, rows: Sequence[Row]) -> None:
        """Write the rows of a round; they are on the disk's way when this returns."""
        self._file.writelines(json.dumps(row) + "\n" for row in rows)
        self._file.flush()
        for row in rows:
            prefix = f"{row['kind']}_{row['person']}" if "person" in row else row["kind"]
            for key, value in row.items():
                if isinstance(value, int | float) and key != "round":
                    self._board.add_scalar(f"{prefix}/{key}", value, row["round"])

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
