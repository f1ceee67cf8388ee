"""Write the embedded watch data as recordings: a CSV file a person, and a file that tells who did what when.

``python -m docs.examples.watch_recordings own/recordings`` stands for your own recordings in docs/data.md. Each person
does one exercise after another, with half a minute of rest, in which the watch does not record.
"""

import csv
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.data.watch import SPEC, recordings

START, STEP, REST = datetime(2024, 5, 1, 10, tzinfo=UTC), timedelta(seconds=1 / SPEC.time.rate), timedelta(seconds=30)


def main(folder: Path) -> None:
    """Write the recordings into the folder."""
    folder.mkdir(parents=True)
    data, now = recordings(), {}
    with (folder / "labels.csv").open("w", newline="") as file:
        intervals = csv.writer(file)
        intervals.writerow(["person", "start", "end", "label"])
        for person, exercise, samples in zip(data["subject"], data["y"], data["X"], strict=True):
            start = now.get(person, START)
            end = start + len(samples) * STEP
            now[person] = end + REST
            intervals.writerow([person, start.isoformat(), end.isoformat(), data["y_labels"][exercise]])
            with (folder / f"person_{person}.csv").open("a", newline="") as recording:
                writer = csv.writer(recording)
                if start == START:
                    writer.writerow(["time", *SPEC.channels])
                for number, sample in enumerate(samples):
                    writer.writerow([(start + number * STEP).isoformat(), *(f"{value:.5f}" for value in sample)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
