"""The embedded data set: shoulder exercises recorded by a smart watch.

Ten people did seven physiotherapy exercises of the shoulder, on either arm, with a watch that records
acceleration and rotation at 50 Hz: 140 recordings. They are a data file of the pip package seglearn, which is found
without importing the package.
"""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from shared.data.person import of_numbers
from shared.data.source import Source
from shared.data.spec import InputSpec
from shared.data.windows import Meta, Windows, cut_recordings
from shared.errors import UserError
from shared.files import sha256_of

SOURCE = Source(
    name="watch",
    citation="D. M. Burns, N. Leung, M. Hardisty, C. M. Whyne, P. Henry, S. McLachlin: Shoulder physiotherapy exercise "
    "recognition: machine learning the inertial signals from a smartwatch. Physiological Measurement 39(7), 2018",
    terms="BSD 3-clause licence of the package seglearn, which it comes with",
)
SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
SAMPLES = 128
TEST_PEOPLE = ("8", "9", "10")
SPEC = InputSpec(
    channels=("total_acc_x", "total_acc_y", "total_acc_z", "gyro_x", "gyro_y", "gyro_z"),
    units=("g", "g", "g", "rad/s", "rad/s", "rad/s"),
    size=(SAMPLES,),
    rate=50.0,
)


def load(path: Path | None) -> tuple[Windows, Windows]:
    """Cut the recordings into windows of 128 samples (2.56 s), a new one every 64; people 1-7 train, 8-10 test.

    Args:
        path: Must be None: the data set comes with an installed package.

    Raises:
        UserError: A path is given, or the package or its data file is missing or is another version.
    """
    if path is not None:
        raise UserError(f"data set watch is embedded and takes no path, found {path}; set data.path to null")
    data = recordings()
    meta = Meta(SOURCE.name, SPEC, tuple(data["y_labels"]))
    people = of_numbers(np.array(data["subject"], np.int64))
    windows = cut_recordings(data["X"], np.array(data["y"]), people, meta)
    test = np.isin(windows.person, TEST_PEOPLE)
    return windows[~test], windows[test]


def recordings() -> Mapping[str, Any]:
    """Return the recordings as the package holds them: signals ``X`` (time, 6), ``y``, ``subject`` and ``y_labels``.

    Raises:
        UserError: The package or its data file is missing or is another version.
    """
    return _read(_find())


def _find() -> Path:
    """Return the data file of the installed package seglearn, without importing the package."""
    try:
        files = metadata.files("seglearn") or []
    except metadata.PackageNotFoundError as error:
        raise UserError("data set watch comes with the package seglearn: pip install seglearn==1.2.5") from error
    found = [Path(str(file.locate())) for file in files if file.name == "watch_dataset.npy"]
    if not found or not found[0].is_file():
        raise UserError("data set watch: the installed seglearn has no watch_dataset.npy; expected version 1.2.5")
    return found[0]


def _read(path: Path) -> Mapping[str, Any]:
    """Unpickle the recordings, after their checksum has shown that they are the known ones."""
    if (found := sha256_of(path)) != SHA256:
        raise UserError(f"data set watch: SHA-256 of {path} expected {SHA256}, found {found}")
    data: Mapping[str, Any] = np.load(path, allow_pickle=True).item()
    return data
