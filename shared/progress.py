"""A run's progress in a terminal: a bar that follows the rows of a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
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
from rich.table import Column

from shared.metrics import METRICS, read_metrics
from shared.runs import FAILURE

_WATCH_SECONDS = 0.5


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
            BarColumn(bar_width=24, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            # In a narrow terminal this column takes more lines, and the others stay whole.
            TextColumn("{task.fields[losses_text]}", table_column=Column(no_wrap=False)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("left"),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            console=console,
        )
        self._bar = self._progress.add_task(title, total=total, losses_text="starting")
        self._plain = not console.is_terminal

    def show(self, row: Mapping[str, Any]) -> None:
        """Move to the round of the row, and tell its losses and, in brackets, the weights."""
        losses = {k.removeprefix("loss."): v for k, v in row.items() if k.startswith("loss.")}
        weights = {k.removeprefix("weight."): v for k, v in row.items() if k.startswith("weight.")}
        parts = [f"{n} {v:.3f}" + (f" ({weights[n]:.2f})" if n in weights else "") for n, v in losses.items()]
        losses_text = "  ".join(parts)
        self._progress.update(self._bar, completed=row["round"], losses_text=losses_text)
        if self._plain:
            self._progress.console.print(
                f"{row['kind']} {row['round']}: loss {row['loss']:.4f}  {losses_text}", highlight=False, soft_wrap=True
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


class RunWatcher:
    """Shows the newest round of ``metrics.jsonl``, with the mean of the clients' own task weights."""

    def __init__(self, folder: Path, progress: RunProgress) -> None:
        self._folder = folder
        self._progress = progress
        self._shown = max((row["round"] for row in read_metrics(folder / METRICS)), default=0)

    def look(self) -> bool:
        """Show the rounds that have ended since the last look, and tell whether the run looks as if it had ended."""
        for row in read_metrics(self._folder / METRICS):
            if row["kind"] == "round" and row["round"] > self._shown:
                self._shown = row["round"]
                self._progress.show(row | self._weights(row["round"]))
        return any((self._folder / name).is_file() for name in ("encoder.json", FAILURE))

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Look every half second while the block runs, and once more at its end."""
        ended = Event()

        def keep_looking() -> None:
            while not ended.wait(_WATCH_SECONDS):
                self.look()

        thread = Thread(target=keep_looking, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.look()

    def _weights(self, round_number: int) -> dict[str, float]:
        """On one machine the clients' own logs can be read; the server itself never learns the weights."""
        logs = (self._folder / "clients").glob(f"*/{METRICS}")
        rows = [row for path in logs for row in read_metrics(path) if row["round"] == round_number]
        keys = [key for key in (rows[0] if rows else {}) if key.startswith("weight.")]
        return {key: sum(row[key] for row in rows) / len(rows) for key in keys}
