"""CIFAR-10: small photographs of ten kinds of things, 32 x 32 pixels.

Read from the official binary version (``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``), or from
images in folders of their classes (``train/CLASS/NAME.jpg``, ``test/CLASS/NAME.jpg``), as a folder or a zip.
"""

from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from shared.data.archive import Archive, open_files
from shared.data.images import NOBODY, TESTERS, image_spec, read_images
from shared.data.source import Source
from shared.data.windows import Meta, Windows
from shared.errors import UserError

SIDE = 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SOURCE = Source(
    name="cifar10",
    citation="A. Krizhevsky: Learning multiple layers of features from tiny images. 2009",
    terms="none stated; with citation",
    get="unpack cifar-10-binary.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html",
)
TEST = "test_batch.bin"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
ROW = 1 + 3 * SIDE * SIDE
"""Bytes of an image in the binary version: its label, then red, green and blue, row after row."""


def load(path: Path | None) -> tuple[Windows, Windows]:
    """Read the training and the test images; nobody owns them.

    Raises:
        UserError: Missing or damaged files, other classes, or images of another size.
    """
    archive = open_files(SOURCE.find(path))
    binaries = {PurePosixPath(member).name: member for member in archive.members() if member.endswith(".bin")}
    if binaries:
        return _binary(archive, binaries, TRAIN, NOBODY), _binary(archive, binaries, (TEST,), TESTERS)
    train, test = read_images(archive, SOURCE.name)
    if train.meta.classes != CLASSES or train.meta.spec.size != (SIDE, SIDE):
        raise UserError(
            f"{archive.place}: expected {SIDE} x {SIDE} pixels and the classes {', '.join(CLASSES)}, "
            f"found {train.meta.spec.extent} and {', '.join(train.meta.classes)}"
        )
    return train, test


def _binary(archive: Archive, binaries: dict[str, str], names: tuple[str, ...], owner: str) -> Windows:
    rows = np.concatenate([_rows(archive, binaries.get(name, name)) for name in names])
    meta = Meta(SOURCE.name, image_spec(SIDE, SIDE), CLASSES)
    x = np.ascontiguousarray(rows[:, 1:]).reshape(-1, 3, SIDE, SIDE)
    return Windows(x, rows[:, 0].astype(np.int64), np.full(len(rows), owner), meta)


def _rows(archive: Archive, member: str) -> NDArray[np.uint8]:
    content = np.frombuffer(archive.read(member), np.uint8)
    if len(content) % ROW or not len(content):
        raise UserError(f"{archive.place}: {member}: expected images of {ROW} bytes each, found {len(content)} bytes")
    rows = content.reshape(-1, ROW)
    if rows[:, 0].max() >= len(CLASSES):
        raise UserError(f"{archive.place}: {member}: expected labels 0..{len(CLASSES) - 1}, found {rows[:, 0].max()}")
    return rows
