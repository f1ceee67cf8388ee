"""MotionSense: six activities of 24 people with a smartphone in the front pocket of their trousers.

360 recordings at 50 Hz of gravity, acceleration without it and rotation. They are cut into windows of 2.56 s that
overlap by half, as those of UCI HAR are, with the channels and the names of activities of UCI HAR. The signs of the
axes are those of the phone's system; another system's may be opposite. People 1 to 16 train, 17 to 24 test.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.archive import Archive, open_files
from shared.data.cache import parsed
from shared.data.source import Source
from shared.data.spec import InputSpec
from shared.data.text import parse_table, refuse
from shared.data.windows import Meta, Windows, as_arrays, cut_and_split

SOURCE = Source(
    name="motionsense",
    citation="M. Malekzadeh, R. G. Clegg, A. Cavallaro, H. Haddadi: Mobile sensor data anonymization. IoTDI 2019, "
    "https://doi.org/10.1145/3302505.3310068",
    terms="MIT licence (the file LICENSE in it)",
    get="get A_DeviceMotion_data.zip from https://github.com/mmalekzadeh/motion-sense",
)
TEST_PEOPLE = tuple(map(str, range(17, 25)))
SPEC = InputSpec(
    channels=tuple(f"{sensor}_{axis}" for sensor in ("body_acc", "gyro", "total_acc") for axis in "xyz"),
    units=("g",) * 3 + ("rad/s",) * 3 + ("g",) * 3,
    size=(128,),
    rate=50.0,
)
ACTIVITIES = {
    "wlk": "walking",
    "ups": "walking_upstairs",
    "dws": "walking_downstairs",
    "sit": "sitting",
    "std": "standing",
    "jog": "jogging",
}
"""Names by the beginning of a folder's name, in the order of the labels."""

HEADER = ",".join(
    [""]
    + [f"attitude.{angle}" for angle in ("roll", "pitch", "yaw")]
    + [f"{sensor}.{axis}" for sensor in ("gravity", "rotationRate", "userAcceleration") for axis in "xyz"]
)
"""First line of a recording; the first column, which has no name, counts rows."""
GRAVITY, ROTATION, ACCELERATION = slice(4, 7), slice(7, 10), slice(10, 13)
CACHE_FORMAT = 1
_FILE = re.compile(rf"(?:.*/)?(?P<activity>{'|'.join(ACTIVITIES)})_\d+/sub_(?P<person>\d+)\.csv")


def load(path: Path | None) -> tuple[Windows, Windows]:
    """Cut the recordings into windows of the training and of the test people.

    Args:
        path: The folder or the zip that holds ``wlk_7/sub_1.csv`` and its like at any depth. None: see ``Source.find``.

    Raises:
        UserError: No recordings, or one that is damaged or has other columns.
    """
    arrays = parsed(SOURCE.name, CACHE_FORMAT, open_files(SOURCE.find(path)), _parse)
    return cut_and_split(arrays, Meta(SOURCE.name, SPEC, tuple(ACTIVITIES.values())), TEST_PEOPLE)


def _parse(archive: Archive) -> dict[str, NDArray[Any]]:
    """Read all recordings; one whose bytes another one has too, is the same and is left out."""
    signals, y, people, seen = [], [], [], set()
    for member in archive.members():
        if match := _FILE.fullmatch(member):
            content = archive.read(member)
            if (digest := hashlib.sha256(content).digest()) in seen:
                continue
            seen.add(digest)
            signals.append(_read(content, f"{archive.place}: {member}"))
            y.append(list(ACTIVITIES).index(match["activity"]))
            people.append(match["person"])
    if not signals:
        raise refuse(archive.place, "recordings like wlk_7/sub_1.csv", ", ".join(archive.members()[:5]) or "nothing")
    return as_arrays(signals, y, people)


def _read(content: bytes, place: str) -> NDArray[np.float32]:
    """Return the channels of a recording, float32 (time, 9)."""
    header, _, rows = content.partition(b"\n")
    if header.decode(errors="replace").strip() != HEADER:
        raise refuse(place, f"the first line {HEADER!r}", repr(header.decode(errors="replace")[:200]))
    values = parse_table(rows.replace(b",", b" "), HEADER.count(",") + 1, None, place)
    body = values[:, ACCELERATION]
    return np.hstack([body, values[:, ROTATION], values[:, GRAVITY] + body]).astype(np.float32)
