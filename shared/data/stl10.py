"""STL-10: photographs of ten kinds of things, 96 x 96 pixels, most of them without a label.

Read from the official binary version: 5,000 images for training, 8,000 for tests and 100,000 without a label, which are
for training too. They are written to one file in the cache, 2.9 GB of it, which is mapped into memory.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from shared.data.images import NOBODY, TESTERS, image_spec
from shared.data.source import Source
from shared.data.windows import UNLABELLED, Meta, Windows
from shared.errors import UserError
from shared.files import cache_folder, open_atomic

SIDE = 96
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
SOURCE = Source(
    name="stl10",
    citation="A. Coates, H. Lee, A. Y. Ng: An analysis of single-layer networks in unsupervised feature learning. "
    "AISTATS 2011",
    terms="none stated; with citation",
    get="unpack stl10_binary.tar.gz of https://cs.stanford.edu/~acoates/stl10",
)
IMAGE = 3 * SIDE * SIDE
"""Bytes of an image: red, green and blue, each column after column."""
BLOCK = 512
"""Images that are copied at once."""


def load(path: Path | None) -> tuple[Windows, Windows]:
    """Read the images with a label, and those without where ``unlabeled_X.bin`` is there; nobody owns them.

    Args:
        path: The folder ``stl10_binary``, or the one around it.

    Raises:
        UserError: Missing files, or files that do not fit together.
    """
    folder = SOURCE.find(path)
    if (folder / "stl10_binary").is_dir():
        folder = folder / "stl10_binary"
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the folder stl10_binary, found none")
    meta = Meta(SOURCE.name, image_spec(SIDE, SIDE), CLASSES)
    parts = []
    for names, owner in ((("train", "unlabeled"), NOBODY), (("test",), TESTERS)):
        files = [folder / f"{name}_X.bin" for name in names]
        present = [file for file in files if _is_needed(file) or file.is_file()]
        pixels = [_pixels(file) for file in present]
        y = [_labels(file, len(images)) for file, images in zip(present, pixels, strict=True)]
        x = _in_one_file(present, pixels)
        parts.append(Windows(x, np.concatenate(y), np.full(len(x), owner), meta))
    return parts[0], parts[1]


def _is_needed(file: Path) -> bool:
    """Whether a file of images, and one of their labels, must be there."""
    return not file.name.startswith("unlabeled")


def _pixels(file: Path) -> NDArray[np.uint8]:
    """Map a file of images, (N, 3, H, W)."""
    if not file.is_file():
        raise UserError(f"{file.parent}: expected the file {file.name!r}, found none")
    size = file.stat().st_size
    if size % IMAGE or not size:
        raise UserError(f"{file}: expected images of {IMAGE} bytes each, found {size} bytes: the file may be cut short")
    columns = np.memmap(file, np.uint8, "r").reshape(-1, 3, SIDE, SIDE)
    return columns.transpose(0, 1, 3, 2)


def _labels(images: Path, count: int) -> NDArray[np.int64]:
    if not _is_needed(images):
        return np.full(count, UNLABELLED, np.int64)
    file = images.with_name(images.name.replace("_X", "_y"))
    if not file.is_file():
        raise UserError(f"{file.parent}: expected the file {file.name!r}, found none")
    labels = np.fromfile(file, np.uint8)
    if len(labels) != count:
        raise UserError(f"{file}: expected {count} labels, one of each image in {images.name}, found {len(labels)}")
    if labels.min() < 1 or labels.max() > len(CLASSES):
        raise UserError(f"{file}: expected labels 1..{len(CLASSES)}, found {labels.min()}..{labels.max()}")
    return labels.astype(np.int64) - 1


def _in_one_file(files: Sequence[Path], parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the images one after the other, row after row, mapped from a file in the cache.

    It is written once for files of these names, sizes and times. Where it cannot be, the images are held in memory.
    """
    seen = hashlib.sha256("\n".join(f"{f.resolve()} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files).encode())
    path = cache_folder() / SOURCE.name / f"{seen.hexdigest()}.npy"
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    if not path.is_file():
        try:
            with open_atomic(path) as file:
                npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for block in _blocks(parts):
                    file.write(block.tobytes())
        except UserError as error:
            warnings.warn(f"{SOURCE.name} is held in memory: {error}", stacklevel=2)
            return np.concatenate(parts)
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return mapped


def _blocks(parts: Sequence[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    for part in parts:
        for start in range(0, len(part), BLOCK):
            yield part[start : start + BLOCK]
