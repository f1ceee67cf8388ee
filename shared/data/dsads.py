"""Daily and Sports Activities (DSADS): 19 activities of eight people with five sensor units on their bodies.

Units at the torso, the arms and the legs record acceleration, rotation and the magnetic field at 25 Hz. The segments
of 5 s of a person and an activity follow one another and are joined; windows of 2.56 s (64 samples) that overlap by
half are cut from them. People 1 to 6 train, 7 and 8 test.
"""

import re
from itertools import groupby
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
from shared.plausible import ACCELERATION

SOURCE = Source(
    name="dsads",
    citation="K. Altun, B. Barshan, O. Tunçel: Comparative study on classifying human activities with miniature "
    "inertial and magnetic sensors. Pattern Recognition 43, 2010, https://doi.org/10.24432/C5C59F",
    terms="CC BY 4.0, as its page in the UCI repository says",
    get="get it from https://archive.ics.uci.edu/dataset/256",
)
TEST_PEOPLE = ("7", "8")
PLACES = ("torso", "right_arm", "left_arm", "right_leg", "left_leg")
UNITS = {"total_acc": "g", "gyro": "rad/s", "mag": "uT"}
"""By kind of sensor, in the order of the columns."""
FACTORS = {"g": 1 / ACCELERATION["m/s²"], "rad/s": 1.0, "uT": 47.0}
"""What the files' numbers are multiplied by. Those of the magnetic field are shares of the Earth's: 47 uT in Ankara."""
SPEC = InputSpec(
    channels=tuple(f"{place}_{kind}_{axis}" for place in PLACES for kind in UNITS for axis in "xyz"),
    units=tuple(unit for _ in PLACES for unit in UNITS.values() for _ in "xyz"),
    size=(64,),
    rate=25.0,
)
ACTIVITIES = (
    "sitting",
    "standing",
    "lying_on_back",
    "lying_on_side",
    "walking_upstairs",
    "walking_downstairs",
    "standing_in_elevator",
    "moving_in_elevator",
    "walking",
    "walking_on_treadmill",
    "walking_on_inclined_treadmill",
    "running",
    "stepper",
    "cross_trainer",
    "cycling_horizontally",
    "cycling_vertically",
    "rowing",
    "jumping",
    "playing_basketball",
)
SEGMENT = 125
"""Samples of a file."""
CACHE_FORMAT = 1
_FILE = re.compile(r"(?:.*/)?a(?P<activity>\d\d)/p(?P<person>\d+)/s(?P<segment>\d\d)\.txt")


def load(path: Path | None) -> tuple[Windows, Windows]:
    """Join the segments, and cut them into windows of the training and of the test people.

    Args:
        path: The folder or the zip that holds ``a01/p1/s01.txt`` and its like at any depth. None: see ``Source.find``.

    Raises:
        UserError: No segments, or one that is damaged or of another size.
    """
    arrays = parsed(SOURCE.name, CACHE_FORMAT, open_files(SOURCE.find(path)), _parse)
    return cut_and_split(arrays, Meta(SOURCE.name, SPEC, ACTIVITIES), TEST_PEOPLE)


def _parse(archive: Archive) -> dict[str, NDArray[Any]]:
    """Read all segments; those that follow one another become one recording."""
    found = sorted(
        (int(match["activity"]), int(match["person"]), int(match["segment"]), member)
        for member in archive.members()
        if (match := _FILE.fullmatch(member))
    )
    if not found:
        raise refuse(archive.place, "segments like a01/p1/s01.txt", ", ".join(archive.members()[:5]) or "nothing")
    signals, y, people = [], [], []
    factors = np.array([FACTORS[unit] for unit in SPEC.units])
    runs = groupby(enumerate(found), key=lambda item: (*item[1][:2], item[1][2] - item[0]))
    for (activity, person, _), run in runs:
        if not 1 <= activity <= len(ACTIVITIES):
            raise refuse(archive.place, f"activities a01 to a{len(ACTIVITIES)}", f"a{activity:02d}")
        segments = [_read(archive, member) for _, (_, _, _, member) in run]
        signals.append((np.concatenate(segments) * factors).astype(np.float32))
        y.append(activity - 1)
        people.append(str(person))
    return as_arrays(signals, y, people)


def _read(archive: Archive, member: str) -> NDArray[np.float64]:
    content = archive.read(member).replace(b",", b" ")
    return parse_table(content, len(SPEC.channels), SEGMENT, f"{archive.place}: {member}")
