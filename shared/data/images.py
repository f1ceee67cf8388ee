"""Images: what one is, how files are read, and a data set of one's own, ``image_folder``.

An image is uint8 (3, H, W), red, green and blue from 0 to 255. Files lie in folders::

    [train/][OWNER/]CLASS/NAME.png      also .jpg and .jpeg
    [train/][OWNER/]unlabelled/NAME.png
    [train/]NAME.png                    not labelled
    test/...                            as above; may be missing

Without folders ``train`` and ``test`` all images are for training; with them, all images lie in them. An owner of
images is a client of a federation; images without one are divided (``shared.data.parts``). All images have one size.
"""

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.data.archive import Archive, open_files
from shared.data.cache import parsed
from shared.data.person import person_id
from shared.data.spec import InputSpec
from shared.data.windows import UNLABELLED, Meta, Windows
from shared.errors import UserError

NOBODY = "undivided"
"""Stands for the owner of training images that nobody owns."""

TESTERS = "test"
"""Stands for the owner of test images that nobody owns."""

SUFFIXES = (".png", ".jpg", ".jpeg")
UNLABELLED_FOLDER = "unlabelled"
PARTS = ("train", "test")
CACHE_FORMAT = 1


def image_spec(height: int, width: int) -> InputSpec:
    """Return what images of a size are."""
    return InputSpec(channels=("red", "green", "blue"), units=("1/255",) * 3, size=(height, width))


def decode(content: bytes, place: str) -> NDArray[np.uint8]:
    """Return the image of a file's bytes, upright as its EXIF says, uint8 (3, H, W).

    Raises:
        UserError: It is none, or is damaged; names the place.
    """
    from PIL import Image, ImageOps  # not above: who names activities has no images, and perhaps no Pillow

    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            upright = ImageOps.exif_transpose(image)
            pixels = np.asarray(upright.convert("RGB"))
    except Exception as error:  # on odd bytes Pillow raises whatever its parsers do
        raise UserError(f"{place}: expected a PNG or JPEG image, found what is none ({error})") from None
    if upright.mode.startswith(("I", "F")):
        raise UserError(f"{place}: expected an image of 8 bits a colour, found one of more: bring it to 8 bits first")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def load(path: Path | None) -> tuple[Windows, Windows]:
    """Read a folder, or a zip, of images as (train, test); labels are the names of the classes in order.

    Raises:
        UserError: No path, no images, images of several sizes, a damaged one, or one that lies too deep.
    """
    if path is None:
        raise UserError(
            "data set image_folder has no place of its own: set data.path to the folder or zip of the images"
        )
    return read_images(open_files(path), "image_folder")


def read_images(archive: Archive, name: str) -> tuple[Windows, Windows]:
    """Read images that lie in folders; decoded ones are kept in the cache.

    Args:
        archive: The files.
        name: Of the data set.

    Raises:
        UserError: As ``load``.
    """
    arrays = parsed(name, CACHE_FORMAT, archive, _parse)
    classes = tuple(arrays["classes"].tolist())
    windows = Windows(
        arrays["x"], arrays["y"], arrays["person"], Meta(name, image_spec(*arrays["x"].shape[2:]), classes)
    )
    return windows[~arrays["test"]], windows[arrays["test"]]


@dataclass(frozen=True)
class _File:
    """A file of an image, and what its place says."""

    member: str
    test: bool
    owner: str
    label: str | None


def _parse(archive: Archive) -> dict[str, NDArray[Any]]:
    members = [member for member in archive.members() if _is_image(member)]
    root = _root(archive, members)
    members = [member for member in members if _below(member, root)]
    _check_parts({PurePosixPath(member).relative_to(root).parts[0] for member in members}, archive)
    files = [_place(member, root, archive.place) for member in members]
    classes = sorted({file.label for file in files if file.label is not None})
    first = decode(archive.read(files[0].member), f"{archive.place}: {files[0].member}")
    x = np.empty((len(files), *first.shape), np.uint8)
    for row, file in enumerate(files):
        image = decode(archive.read(file.member), f"{archive.place}: {file.member}")
        if image.shape != first.shape:
            sizes = [f"{width} x {height}" for _, height, width in (first.shape, image.shape)]
            raise UserError(
                f"{archive.place}: expected images of one size, found {files[0].member} of {sizes[0]} and "
                f"{file.member} of {sizes[1]} pixels: bring them to one size first"
            )
        x[row] = image
    return {
        "x": x,
        "y": np.array([UNLABELLED if file.label is None else classes.index(file.label) for file in files]),
        "person": np.array([file.owner for file in files]),
        "test": np.array([file.test for file in files]),
        "classes": np.array(classes, np.str_),
    }


def _root(archive: Archive, members: list[str]) -> PurePosixPath:
    """Return the folder that has the folders train and test, or else the images; one folder around it is passed by."""
    if not members:
        raise UserError(f"{archive.place}: expected images ({', '.join(SUFFIXES)}), found none")
    tops = {PurePosixPath(member).parts[0] for member in members}
    if len(tops) == 1 and tops.isdisjoint(PARTS):
        inside = {PurePosixPath(member).parts[1] for member in members if len(PurePosixPath(member).parts) > 2}
        if inside & set(PARTS):
            return PurePosixPath(*tops)
    return PurePosixPath()


def _check_parts(tops: set[str], archive: Archive) -> None:
    """Refuse images beside the folders train and test: is ``train`` one of the classes, or the training part?"""
    if (named := sorted(tops & set(PARTS))) and (others := sorted(tops - set(PARTS))):
        raise UserError(
            f"{archive.place}: has a folder {named[0]!r} for a part of the images, and {others[0]!r} beside it: put "
            "all images below train and test; a class with such a name needs a folder train around all classes"
        )


def _is_image(member: str) -> bool:
    """Tell whether a file is an image by its name, and not what macOS writes beside one."""
    path = PurePosixPath(member)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def _below(member: str, root: PurePosixPath) -> bool:
    return PurePosixPath(member).is_relative_to(root)


def _place(member: str, root: PurePosixPath, place: str) -> _File:
    *folders, _ = PurePosixPath(member).relative_to(root).parts
    part = folders.pop(0) if folders and folders[0] in PARTS else "train"
    if len(folders) > 2:
        raise UserError(f"{place}: expected [train|test]/[OWNER/]CLASS/NAME, found {member}")
    label = folders[-1] if folders else UNLABELLED_FOLDER
    owner = folders[0] if len(folders) == 2 else (NOBODY if part == "train" else TESTERS)
    try:
        owner = person_id(owner)
    except ValueError as error:
        raise UserError(f"{place}: {member}: {error}") from None
    return _File(member, part == "test", owner, None if label == UNLABELLED_FOLDER else label)
