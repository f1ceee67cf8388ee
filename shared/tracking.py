"""What a run tells while it goes on: ``metrics.jsonl``, TensorBoard and a progress bar."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter

from shared.files import write_atomic

METRICS = "metrics.jsonl"


class Tracker:
    """Appends rows to ``metrics.jsonl`` and their numbers to TensorBoard.

    A row has a ``kind`` ("client", "round", "epoch" or "failed") and the ``round`` (or epoch) that it belongs to.

    Args:
        folder: The run folder.
        after: The round after which a resumed run goes on; later rows are of a past given up and are dropped.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        self._path = folder / METRICS
        kept = [row for row in read_metrics(self._path) if row["kind"] != "failed" and row["round"] <= after]
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


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete rows of a metrics file; a last line that is still being written is left out."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


class RunProgress:
    """A bar with the round or epoch, the losses and the weights of the tasks, and the time left.

    Args:
        title: Of the run.
        total: Rounds or epochs in all.
        console: Where to draw.
    """

    def __init__(self, title: str, total: int, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._bar = self._progress.add_task(title, total=total, told="starting")
        self._plain = not console.is_terminal

    def show(self, row: Mapping[str, Any]) -> None:
        """Move to the round of the row, and tell its losses and, in brackets, the weights."""
        losses = {k.removeprefix("loss."): v for k, v in row.items() if k.startswith("loss.")}
        weights = {k.removeprefix("weight."): v for k, v in row.items() if k.startswith("weight.")}
        parts = [f"{n[:8]} {v:.3f}" + (f" ({weights[n]:.2f})" if n in weights else "") for n, v in losses.items()]
        told = "  ".join(parts)
        self._progress.update(self._bar, completed=row["round"], told=told)
        if self._plain:
            self._progress.console.print(
                f"{row['kind']} {row['round']}: loss {row['loss']:.4f}  {told}", highlight=False, soft_wrap=True
            )

    def __enter__(self) -> Self:
        if not self._plain:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._plain:
            self._progress.stop()
