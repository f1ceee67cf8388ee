"""A small made-up data set with the structure of the real ones, for tests and first tries.

Every class is a posture (which way gravity points) and a periodic motion of its own strength and speed; every
person has a mounting tilt, a vigour and a pace of their own, as far apart as people are.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.data.person import of_numbers
from shared.data.spec import InputSpec
from shared.data.windows import Meta, Windows
from shared.errors import UserError

PEOPLE = 6
TEST_PEOPLE = (5, 6)
WINDOWS = 24
"""Windows per person and class."""
SAMPLES = 64
RATE = 50.0
SPEC = InputSpec(
    channels=("total_acc_x", "total_acc_y", "total_acc_z", "gyro_x", "gyro_y", "gyro_z"),
    units=("g", "g", "g", "rad/s", "rad/s", "rad/s"),
    size=(SAMPLES,),
    rate=RATE,
)

CLASSES = ("walking", "running", "standing", "lying")
GRAVITY = np.array([[0.0, 0.1, 1.0], [0.2, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.1, 0.0]])
"""Direction of gravity in each class."""
FREQUENCY = np.array([1.8, 2.8, 0.3, 0.25])
"""Steps or breaths per second (Hz) in each class."""
STRENGTH = np.array([0.35, 0.9, 0.01, 0.015])
"""Amplitude of the motion (g) in each class."""
NOISE = 0.02
"""Standard deviation of the sensor noise, in g and rad/s."""


def load(path: Path | None) -> tuple[Windows, Windows]:
    """Make 24 windows of 64 samples per class for each of 6 people; people 1-4 train, 5 and 6 test.

    The same numbers come out every time.

    Raises:
        UserError: A path is given.
    """
    if path is not None:
        raise UserError(f"data set synthetic is made up and takes no path, found {path}; set data.path to null")
    people = np.repeat(np.arange(1, PEOPLE + 1), len(CLASSES) * WINDOWS)
    labels = np.tile(np.repeat(np.arange(len(CLASSES)), WINDOWS), PEOPLE)
    meta = Meta("synthetic", SPEC, CLASSES)
    windows = Windows(_signals(people, labels).astype(np.float32), labels, of_numbers(people), meta)
    test = np.isin(people, TEST_PEOPLE)
    return windows[~test], windows[test]


def _signals(people: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the (N, 6, T) signals of windows with these people and labels."""
    rng = np.random.default_rng(0)
    pace, vigour = rng.uniform(0.85, 1.15, PEOPLE + 1), rng.uniform(0.7, 1.3, PEOPLE + 1)
    from scipy.spatial.transform import Rotation  # slow to import, and most processes need none of it

    tilt = Rotation.from_rotvec(rng.normal(0, 0.15, (PEOPLE + 1, 3))).as_matrix()
    axes = rng.normal(0, 1, (len(CLASSES), 2, 3))  # how each class shakes and turns the sensor
    axes /= np.linalg.norm(axes, axis=2, keepdims=True)

    n = len(people)
    frequency = FREQUENCY[labels] * pace[people] * rng.normal(1, 0.03, n)
    phase = rng.uniform(0, 2 * np.pi, n)
    angle = 2 * np.pi * frequency[:, None] * np.arange(SAMPLES) / RATE + phase[:, None]
    strength = STRENGTH[labels] * vigour[people]
    step = strength[:, None] * (np.sin(angle) + 0.4 * np.sin(2 * angle))
    turn = 2 * strength[:, None] * np.cos(angle)

    gravity = GRAVITY[labels] / np.linalg.norm(GRAVITY[labels], axis=1, keepdims=True)
    acc = gravity[:, :, None] + axes[labels, 0, :, None] * step[:, None]
    gyro = axes[labels, 1, :, None] * turn[:, None]
    worn: NDArray[np.float64] = np.concatenate([tilt[people] @ acc, tilt[people] @ gyro], axis=1)
    return worn + rng.normal(0, NOISE, worn.shape)
