"""Data sets of images in their own layouts, their division among clients, and what is wrong with a file is named."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_files
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.data import IMAGE_SETS, SOURCES, DataSettings, cifar10, load, stl10, training_people
from shared.data.images import NOBODY, decode, image_spec
from shared.data.parts import LEAST, TEN_ALIKE, divide
from shared.data.windows import Meta, Windows
from shared.errors import UserError


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FEDHAR_CACHE", str(tmp_path / "cache"))
    for source in SOURCES.values():
        monkeypatch.delenv(source.variable, raising=False)
    return tmp_path / "cache"


def settings_of(name: str, path: Path, **parts: object) -> DataSettings:
    divided = TEN_ALIKE.model_copy(update=parts)
    return DataSettings(name=name, sets=(), path=path, channels=(), holdout=(), parts=divided)


def pixels(seed: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(3, height, width)).astype(np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, kind, **options)
    return file.getvalue()


# --- a folder of images -------------------------------------------------------------------------------------------


FILES = {
    "train/cat/b.png": encoded(pixels(0)),
    "train/cat/a.PNG": encoded(pixels(1)),
    "train/dog/a.png": encoded(pixels(2)),
    "train/unlabelled/a.png": encoded(pixels(3)),
    "train/a.png": encoded(pixels(4)),
    "train/notes.txt": b"no image",
    "test/dog/a.png": encoded(pixels(5)),
}


@pytest.mark.parametrize("around", ["", "mine/"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_of_images_is_read_by_its_folders(around: str, zipped: bool, tmp_path: Path) -> None:
    path = write_files(tmp_path / "images", {around + name: content for name, content in FILES.items()})
    if zipped:
        path = tmp_path / "images.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in FILES.items():
                archive.writestr(around + name, content)
    for _ in range(2):  # the second time from the cache
        train, test = IMAGE_SETS["image_folder"](path)
        assert train.meta.spec == image_spec(6, 8) and train.meta.classes == ("cat", "dog")
        assert train.x.dtype == np.uint8
        assert train.y.tolist() == [-1, 0, 0, 1, -1]
        for image, seed in zip(train.x, (4, 1, 0, 2, 3), strict=True):
            assert np.array_equal(image, pixels(seed))
        assert test.y.tolist() == [1] and np.array_equal(test.x[0], pixels(5))
        assert train.people == [NOBODY] and test.people == ["test"]


def test_owners_are_people_and_images_without_parts_are_for_training(tmp_path: Path) -> None:
    files = {"ann/cat/1.png": pixels(0), "ann/unlabelled/1.png": pixels(1), "007/dog/1.png": pixels(2)}
    path = write_files(tmp_path / "images", {name: encoded(image) for name, image in files.items()})
    train, test = load(settings_of("image_folder", path))
    assert dict(zip(train.person.tolist(), train.y.tolist(), strict=True)) == {"7": 1, "ann": -1}
    assert len(test) == 0
    clients = training_people(settings_of("image_folder", path))
    assert list(clients.ids) == ["7", "ann"] and len(clients[1]) == 2


def test_one_image_alone_is_a_data_set(tmp_path: Path) -> None:
    train, _ = IMAGE_SETS["image_folder"](write_files(tmp_path / "images", {"a.png": encoded(pixels(0))}))
    assert train.y.tolist() == [-1] and train.meta.classes == ()


def test_images_of_any_mode_become_red_green_and_blue_and_upright() -> None:
    grey = Image.fromarray(pixels(0)[0])
    file = io.BytesIO()
    grey.save(file, "PNG")
    assert np.array_equal(decode(file.getvalue(), "x"), np.repeat(pixels(0)[:1], 3, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    turned = decode(encoded(pixels(0), exif=exif), "x")
    assert np.array_equal(turned, np.rot90(pixels(0), -1, (1, 2)))


def sixteen_bits() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 8), 1300, np.uint16)).save(file, "PNG")
    return file.getvalue()


def test_what_macos_writes_beside_images_is_passed_by(tmp_path: Path) -> None:
    files = {"a/1.png": encoded(pixels(0)), "__MACOSX/a/._1.png": b"resource fork", "a/._1.png": b"resource fork"}
    train, _ = IMAGE_SETS["image_folder"](write_files(tmp_path / "images", files))
    assert len(train) == 1 and train.meta.classes == ("a",)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.txt": b""}, "expected images (.png, .jpg, .jpeg), found none"),
        ({"a.png": b"no"}, "a.png: expected a PNG or JPEG image, found what is none"),
        ({"a.png": encoded(pixels(0))[:60]}, "a.png: expected a PNG or JPEG image, found what is none"),
        ({"a.jpg": encoded(pixels(0), "JPEG")[:300]}, "a.jpg: expected a PNG or JPEG image, found what is none"),
        (
            {"a.png": encoded(pixels(0)), "b.png": encoded(pixels(0, 9, 8))},
            "expected images of one size, found a.png of 8 x 6 and b.png of 8 x 9 pixels",
        ),
        ({"a.png": encoded(pixels(0), "GIF")}, "a.png: expected a PNG or JPEG image, found what is none"),
        ({"a.png": sixteen_bits()}, "a.png: expected an image of 8 bits a colour, found one of more"),
        (
            {"train/1.png": encoded(pixels(0)), "car/1.png": encoded(pixels(1))},
            "has a folder 'train' for a part of the images, and 'car' beside it",
        ),
        (
            {"train/a/b/c/d.png": encoded(pixels(0))},
            "expected [train|test]/[OWNER/]CLASS/NAME, found train/a/b/c/d.png",
        ),
        ({f"{'x' * 101}/b/d.png": encoded(pixels(0))}, "a person's id has 1 to 100 printable characters"),
        (
            {"ann/a/d.png": encoded(pixels(0)), "a/d.png": encoded(pixels(1))},
            "some images have an owner and some have none",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(files: dict[str, bytes], words: str, tmp_path: Path) -> None:
    path = write_files(tmp_path / "images", files)
    with pytest.raises(UserError, match=re.escape(words)):
        load(settings_of("image_folder", path))
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_an_image_folder_has_no_usual_place() -> None:
    with pytest.raises(UserError, match=r"set data\.path"):
        IMAGE_SETS["image_folder"](None)


# --- CIFAR-10 -----------------------------------------------------------------------------------------------------


def test_all_of_cifar10(cifar10_zip: Path) -> None:
    train, test = cifar10.load(cifar10_zip)
    assert np.bincount(train.y).tolist() == [1000] * 10 and np.bincount(test.y).tolist() == [200] * 10
    assert train.x.shape == (10_000, 3, 32, 32) and train.meta.classes == cifar10.CLASSES
    with zipfile.ZipFile(cifar10_zip) as source:
        first = Image.open(io.BytesIO(source.read("train/automobile/0000.jpg")))
        assert np.array_equal(train.x[1000].transpose(1, 2, 0), np.asarray(first))


def binaries(change: Callable[[str, bytes], bytes] = lambda name, content: content) -> dict[str, bytes]:
    """Two images a file, in the official binary layout: label, then red, green and blue, row after row."""
    files = {}
    for number, name in enumerate((*cifar10.TRAIN, cifar10.TEST)):
        rows = [bytes([(2 * number + k) % 10]) + pixels(2 * number + k, 32, 32).tobytes() for k in range(2)]
        files[f"cifar-10-batches-bin/{name}"] = change(name, b"".join(rows))
    return files


def test_cifar10_in_its_binary_version(tmp_path: Path) -> None:
    train, test = cifar10.load(write_files(tmp_path / "binary", binaries()))
    assert train.y.tolist() == list(range(10)) and test.y.tolist() == [0, 1]
    for windows, seeds in ((train, range(10)), (test, range(10, 12))):
        for image, seed in zip(windows.x, seeds, strict=True):
            assert np.array_equal(image, pixels(seed, 32, 32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name, content: content[:-1] if "3" in name else content, "data_batch_3.bin: expected images of 3073"),
        (lambda name, content: b"" if "test" in name else content, "test_batch.bin: expected images of 3073"),
        (lambda name, content: b"\x0a" + content[1:] if "2" in name else content, "expected labels 0..9, found 10"),
    ],
)
def test_damaged_binaries_of_cifar10_are_named(
    change: Callable[[str, bytes], bytes], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        cifar10.load(write_files(tmp_path / "binary", binaries(change)))


def test_a_missing_binary_and_other_images_are_no_cifar10(tmp_path: Path) -> None:
    files = binaries()
    del files["cifar-10-batches-bin/test_batch.bin"]
    with pytest.raises(UserError, match=r"expected the file 'test_batch\.bin', found none"):
        cifar10.load(write_files(tmp_path / "binary", files))
    with pytest.raises(UserError, match=r"expected 32 x 32 pixels and the classes airp.*found 6 x 8 pixels and cat"):
        cifar10.load(write_files(tmp_path / "other", FILES))
    with pytest.raises(UserError, match="unpack cifar-10-binary"):
        cifar10.load(None)


# --- STL-10 -------------------------------------------------------------------------------------------------------


def official(folder: Path, counts: dict[str, int], labels: int = 10) -> Path:
    """Write images in the official layout: red, green and blue, each column after column; labels from 1."""
    files = {}
    for seed, (name, count) in enumerate(counts.items()):
        images = [pixels(100 * seed + k, 96, 96) for k in range(count)]
        files[f"{name}_X.bin"] = b"".join(image.transpose(0, 2, 1).tobytes() for image in images)
        if name != "unlabeled":
            files[f"{name}_y.bin"] = bytes(k % labels + 1 for k in range(count))
    return write_files(folder, files)


COUNTS = {"train": 11, "test": 4, "unlabeled": 7}


@pytest.mark.parametrize("around", [False, True])
def test_stl10_in_its_official_layout(around: bool, tmp_path: Path) -> None:
    path = official(tmp_path / "data" / "stl10_binary", COUNTS)
    train, test = stl10.load(path.parent if around else path)
    assert train.y.tolist() == [*range(10), 0, *[-1] * 7] and test.y.tolist() == [0, 1, 2, 3]
    for windows, seeds in ((train, [*range(11), *range(200, 207)]), (test, range(100, 104))):
        assert windows.x.dtype == np.uint8 and isinstance(windows.x, np.memmap)
        for image, seed in zip(windows.x, seeds, strict=True):
            assert np.array_equal(image, pixels(seed, 96, 96))


def test_stl10_is_written_to_the_cache_once_and_anew_when_its_files_change(tmp_path: Path, cache: Path) -> None:
    path = official(tmp_path / "stl10_binary", COUNTS)
    stl10.load(path)
    kept = {file: file.stat().st_mtime_ns for file in cache.rglob("*.npy")}
    assert len(kept) == 2
    first, _ = stl10.load(path)
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.npy")} == kept
    assert np.array_equal(first.x[0], pixels(0, 96, 96)) and not first.x.flags.writeable
    official(path, COUNTS | {"train": 12})
    assert len(stl10.load(path)[0]) == 19


def test_stl10_without_its_unlabelled_images_or_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = official(tmp_path / "stl10_binary", {"train": 3, "test": 2})
    assert stl10.load(path)[0].y.tolist() == [0, 1, 2]
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FEDHAR_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="stl10 is held in memory: cannot write"):
        train, _ = stl10.load(path)
    assert np.array_equal(train.x[2], pixels(2, 96, 96))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train_X.bin", lambda content: content[:-1], "train_X.bin: expected images of 27648 bytes each, found"),
        ("unlabeled_X.bin", lambda content: b"", "unlabeled_X.bin: expected images of 27648 bytes each, found 0"),
        ("test_y.bin", lambda content: content[1:], "test_y.bin: expected 4 labels, one of each image in test_X.bin"),
        ("train_y.bin", lambda content: b"\0" + content[1:], "train_y.bin: expected labels 1..10, found 0..10"),
        ("test_X.bin", lambda content: None, "expected the file 'test_X.bin', found none"),
        ("train_y.bin", lambda content: None, "expected the file 'train_y.bin', found none"),
    ],
)
def test_damaged_files_of_stl10_are_named(
    name: str, content: Callable[[bytes], bytes | None], words: str, tmp_path: Path
) -> None:
    path = official(tmp_path / "stl10_binary", COUNTS)
    changed = content((path / name).read_bytes())
    (path / name).unlink()
    if changed is not None:
        (path / name).write_bytes(changed)
    with pytest.raises(UserError, match=re.escape(words)):
        stl10.load(path)


# --- parts --------------------------------------------------------------------------------------------------------


def undivided(y: list[int]) -> Windows:
    x = np.arange(len(y), dtype=np.uint8)[:, None, None, None].repeat(3, axis=1)
    return Windows(x, np.array(y), np.full(len(y), NOBODY), Meta("m", image_spec(1, 1), tuple("abcd")))


@given(
    st.lists(st.integers(-1, 3), min_size=40, max_size=120),
    st.sampled_from(["even", "dirichlet", "shards"]),
    st.integers(1, 4),
    st.integers(0, 2**31),
)
def test_parts_are_disjoint_and_complete_and_the_seeds(y: list[int], by: str, count: int, seed: int) -> None:
    windows = undivided(y)
    settings = TEN_ALIKE.model_copy(update={"by": by, "count": count, "seed": seed, "alpha": 5.0})
    divided = divide(windows, settings)
    assert divided.people == [str(number) for number in range(1, count + 1)]
    assert np.array_equal(divided.x, windows.x) and np.array_equal(divided.y, windows.y)
    assert min(np.unique(divided.person, return_counts=True)[1]) >= LEAST
    assert np.array_equal(divide(windows, settings).person, divided.person)
    without = np.unique(divided.person[divided.y == -1], return_counts=True)[1] if -1 in y else [0]
    assert by != "even" or max(without) - min(without) <= 1
    if by == "even":
        for label in set(y):
            counts = [int(((divided.person == one) & (divided.y == label)).sum()) for one in divided.people]
            assert max(counts) - min(counts) <= 1


def test_dirichlet_parts_are_the_more_unequal_the_smaller_alpha_is() -> None:
    windows = undivided([*range(4)] * 63)

    def spread(alpha: float) -> float:
        settings = TEN_ALIKE.model_copy(update={"by": "dirichlet", "alpha": alpha, "count": 5})
        divided = divide(windows, settings)
        table = np.array([[((divided.person == p) & (divided.y == k)).sum() for k in range(4)] for p in divided.people])
        return float((table / 63).std())

    assert spread(0.1) > 1.5 * spread(1.0) > 3 * spread(1000.0)


def test_shards_give_each_part_few_classes() -> None:
    divided = divide(
        undivided([*range(4)] * 60), TEN_ALIKE.model_copy(update={"by": "shards", "shards": 1, "count": 4})
    )
    for one in divided.people:
        own = divided.of([one])
        assert len(own) == 60 and len(np.unique(own.y)) == 1
    two = divide(undivided([*range(4)] * 60), TEN_ALIKE.model_copy(update={"by": "shards", "shards": 2, "count": 4}))
    assert all(len(two.of([one])) == 60 and len(np.unique(two.of([one]).y)) <= 2 for one in two.people)


def test_parts_that_would_be_too_small_are_refused() -> None:
    with pytest.raises(UserError, match=r"19 images do not make 10 parts of at least 2: set fewer data\.parts\.count"):
        divide(undivided([0] * 19), TEN_ALIKE)
    tiny = TEN_ALIKE.model_copy(update={"by": "dirichlet", "alpha": 1e-3})
    with pytest.raises(UserError, match=r"kept coming out with fewer than 2 images: set fewer data\.parts\.count"):
        divide(undivided([0] * 40), tiny)


def test_the_parts_are_the_clients(cifar10_zip: Path) -> None:
    settings = settings_of("cifar10", cifar10_zip, by="dirichlet", count=3)
    train, test = load(settings)
    clients = training_people(settings)
    assert list(clients.ids) == train.people == ["1", "2", "3"] and test.people == ["test"]
    for partition, person in enumerate(clients.ids):
        assert np.array_equal(clients[partition].x, train.of([person]).x)
    held_out = settings.model_copy(update={"holdout": ("2",)})
    assert load(held_out)[1].people == ["2"] and list(training_people(held_out).ids) == ["1", "3"]
