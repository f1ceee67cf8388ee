"""UCI HAR in its official layouts, its cache, and every way in which its files can be wrong."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import write_files

from shared.data import uci_har
from shared.data.cache import fetch
from shared.data.text import parse_table
from shared.errors import UserError

ROOT_NAME = "UCI HAR Dataset/"
PARTS = ("train", "test")
Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDHAR_CACHE", str(folder))
    monkeypatch.delenv("FEDHAR_UCI_HAR", raising=False)
    return folder


@pytest.fixture(scope="module")
def official(uci_har_zip) -> Files:
    """Every 60th row of the real files, about 170 windows of all 30 people."""
    files = {}
    with zipfile.ZipFile(uci_har_zip) as source:
        for name in source.namelist():
            content = source.read(name)
            if name.startswith((f"{ROOT_NAME}train/", f"{ROOT_NAME}test/")):
                content = b"".join(content.splitlines(keepends=True)[::60])
            files[name.removeprefix(ROOT_NAME)] = content
    return files


@pytest.fixture
def files(official) -> Files:
    return dict(official)


def with_features(files: Files) -> dict[str, np.ndarray]:
    """Add 561 made-up features per window in the official format, and return them."""
    values = {}
    for part in PARTS:
        rows = files[f"{part}/y_{part}.txt"].count(b"\n")
        values[part] = np.random.default_rng(rows).uniform(-1, 1, (rows, 561))
        text = io.StringIO()
        np.savetxt(text, values[part], fmt="%16.7e", delimiter="")
        files[f"{part}/X_{part}.txt"] = text.getvalue().encode()
    return values


def write_zip(path: Path, files: Files, root: str = ROOT_NAME) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        target.writestr("__MACOSX/._activity_labels.txt", b"what a Mac adds")
        for name, content in files.items():
            target.writestr(root + name, content)
    return path


def write_outer_zip(path: Path, files: Files) -> Path:
    inner = write_zip(path.with_name("inner.zip"), files)
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("UCI HAR Dataset.names", b"what the archive adds")
        target.write(inner, "UCI HAR Dataset.zip")
    inner.unlink()
    return path


LAYOUTS = {
    "folder": lambda tmp, files: write_files(tmp / "UCI HAR Dataset", files),
    "folder around it": lambda tmp, files: write_files(tmp / "data" / "UCI HAR Dataset", files).parent,
    "zip": lambda tmp, files: write_zip(tmp / "inner.zip", files),
    "zip without a folder": lambda tmp, files: write_zip(tmp / "flat.zip", files, root=""),
    "zip around the zip": lambda tmp, files: write_outer_zip(tmp / "outer.zip", files),
}


# --- what is read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_numbers_of_the_files(layout, files, tmp_path):
    features = with_features(files)
    loaded = uci_har.load(LAYOUTS[layout](tmp_path, files))
    stems = [f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"]
    for part, windows in zip(PARTS, loaded, strict=True):
        expected = [np.loadtxt(io.BytesIO(files[f"{part}/Inertial Signals/{stem}_{part}.txt"])) for stem in stems]
        np.testing.assert_array_equal(windows.x, np.stack(expected, axis=1).astype(np.float32))
        assert windows.y.tolist() == [int(label) - 1 for label in files[f"{part}/y_{part}.txt"].split()]
        assert windows.person.tolist() == files[f"{part}/subject_{part}.txt"].decode().split()
        np.testing.assert_allclose(windows.features, features[part], atol=1e-6)


def test_the_official_split_classes_units_and_sensors(uci_har_zip):
    train, test = uci_har.load(uci_har_zip)
    assert train.x.shape == (7352, 9, 128)
    assert test.x.shape == (2947, 9, 128)
    assert test.people == ["2", "4", "9", "10", "12", "13", "18", "20", "24"]
    assert train.people == [str(person) for person in range(1, 31) if str(person) not in test.people]
    assert train.meta.classes == (
        "walking",
        "walking_upstairs",
        "walking_downstairs",
        "sitting",
        "standing",
        "laying",
    )
    assert [triad.kind for triad in train.meta.spec.triads] == ["body_acc", "gyro", "total_acc"]
    assert train.meta.spec.units == ("g",) * 3 + ("rad/s",) * 3 + ("g",) * 3
    assert train.meta.spec.rate == 50.0
    assert train.features is None
    assert train.meta.feature_names == ()
    gravity = np.linalg.norm(train.x[:, 6:9], axis=1)
    assert 0.98 < gravity.mean() < 1.08


def test_names_of_the_shipped_features_are_unique(files, tmp_path):
    with_features(files)
    train, _ = uci_har.load(write_zip(tmp_path / "a.zip", files))
    names = train.meta.feature_names
    assert len(names) == len(set(names)) == 561
    assert names[:2] == ("tBodyAcc-mean()-X", "tBodyAcc-mean()-Y")
    shipped = [line.split()[1].decode() for line in files["features.txt"].splitlines()]
    assert [name.split("#")[0] for name in names] == shipped


def test_carriage_returns_and_empty_last_lines_change_nothing(files, tmp_path):
    plain = uci_har.load(write_zip(tmp_path / "plain.zip", files))
    other = {name: content.replace(b"\n", b"\r\n") + b"\r\n\r\n" for name, content in files.items()}
    other["activity_labels.txt"] = files["activity_labels.txt"]
    odd = uci_har.load(write_zip(tmp_path / "odd.zip", other))
    for a, b in zip(plain, odd, strict=True):
        assert a.x.tobytes() == b.x.tobytes()


# --- where it is found -------------------------------------------------------------------------------------


def test_without_a_path_the_environment_names_it(files, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDHAR_UCI_HAR", str(write_zip(tmp_path / "named.zip", files)))
    assert len(uci_har.load(None)[0].people) == 21


def test_without_a_path_the_download_is_used(files, cache):
    target = uci_har.SOURCE.target
    target.parent.mkdir(parents=True)
    write_zip(target, files)
    assert cache in target.parents
    assert len(uci_har.load(None)[0].people) == 21


def test_without_anything_the_error_says_what_to_do():
    with pytest.raises(UserError, match=r"python -m shared\.data download uci_har.*data\.path"):
        uci_har.load(None)


# --- cache -------------------------------------------------------------------------------------------------


def cached_file(cache: Path) -> Path:
    (found,) = (cache / "uci_har").iterdir()
    return found


@pytest.fixture
def parses(monkeypatch):
    """Count how often the text files are parsed."""
    calls = []
    parse = uci_har._parse
    monkeypatch.setattr(uci_har, "_parse", lambda archive: calls.append(archive) or parse(archive))
    return calls


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_second_load_uses_the_cache_and_gives_the_same(layout, files, tmp_path, parses):
    with_features(files)
    path = LAYOUTS[layout](tmp_path, files)
    first, second = uci_har.load(path), uci_har.load(path)
    assert len(parses) == 1
    for a, b in zip(first, second, strict=True):
        assert a.x.tobytes() == b.x.tobytes()
        assert a.features.tobytes() == b.features.tobytes()
        assert (a.y.tolist(), a.person.tolist(), a.meta) == (b.y.tolist(), b.person.tolist(), b.meta)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_changed_source_is_parsed_anew(layout, files, tmp_path, parses):
    before = uci_har.load(LAYOUTS[layout](tmp_path, files))[0]
    labels = files["train/y_train.txt"]
    files["train/y_train.txt"] = (b"6" if labels[:1] != b"6" else b"5") + labels[1:]
    after = uci_har.load(LAYOUTS[layout](tmp_path, files))[0]
    assert len(parses) == 2
    assert before.y[0] != after.y[0]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "swap"])
def test_a_damaged_cache_is_rebuilt(damage, files, tmp_path, cache, parses):
    path = write_zip(tmp_path / "a.zip", files)
    first = uci_har.load(path)
    kept = cached_file(cache)
    good = kept.read_bytes()
    middle = len(good) // 2
    kept.write_bytes(
        {
            "cut": good[:middle],
            "flip": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "empty": b"",
            "swap": good[32:] + good[:32],
        }[damage]
    )
    assert fetch(kept) is None
    again = uci_har.load(path)
    assert len(parses) == 2
    assert again[0].x.tobytes() == first[0].x.tobytes()
    assert cached_file(cache).read_bytes() == good


def test_a_cache_that_cannot_be_written_is_a_warning(files, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("FEDHAR_CACHE", str(blocked))
    with pytest.warns(UserWarning, match="parsed anew each time: cannot write"):
        train, _ = uci_har.load(write_zip(tmp_path / "a.zip", files))
    assert len(train.people) == 21


# --- what is wrong with the source -------------------------------------------------------------------------


def refused(path: Path, cache: Path) -> str:
    """Load what is bad; return the message, after checking that nothing stays in the cache."""
    with pytest.raises(UserError) as caught:
        uci_har.load(path)
    assert not cache.exists() or not any(file.is_file() for file in cache.rglob("*"))
    return str(caught.value)


def test_a_missing_path(tmp_path, cache):
    assert refused(tmp_path / "no.zip", cache) == f"no such file or folder: {tmp_path / 'no.zip'}"


def test_what_is_no_zip(tmp_path, cache):
    path = tmp_path / "page.zip"
    path.write_bytes(b"<html>not found</html>")
    assert "page.zip is not a zip: expected it to start with b'PK" in refused(path, cache)


def test_an_empty_file_and_an_empty_folder(tmp_path, cache):
    (tmp_path / "empty.zip").touch()
    (tmp_path / "nothing").mkdir()
    assert "is not a zip" in refused(tmp_path / "empty.zip", cache)
    assert "expected 'activity_labels.txt'" in refused(tmp_path / "nothing", cache)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("layout", ["zip", "zip around the zip"])
def test_a_truncated_zip(layout, share, files, tmp_path, cache):
    path = LAYOUTS[layout](tmp_path, files)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert f"{path} is a truncated or damaged zip" in refused(path, cache)


def test_a_truncated_zip_within_a_zip(files, tmp_path, cache):
    inner = write_zip(tmp_path / "inner.zip", files).read_bytes()
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.writestr("UCI HAR Dataset.zip", inner[: len(inner) // 2])
    assert "outer.zip: UCI HAR Dataset.zip is a truncated or damaged zip" in refused(tmp_path / "outer.zip", cache)


def test_another_zip(tmp_path, cache):
    with zipfile.ZipFile(tmp_path / "holiday.zip", "w") as other:
        other.writestr("beach.jpg", b"sand")
    message = refused(tmp_path / "holiday.zip", cache)
    assert "expected 'activity_labels.txt' or 'UCI HAR Dataset.zip' in the zip, found beach.jpg" in message


def test_flipped_bytes_never_go_unnoticed(files, tmp_path):
    few = {name: b"".join(text.splitlines(keepends=True)[:561]) for name, text in files.items()}
    for name in list(few):
        if name.startswith(PARTS):
            few[name] = b"".join(files[name].splitlines(keepends=True)[::20])
    good = write_zip(tmp_path / "good.zip", few).read_bytes()
    expected = uci_har.load(tmp_path / "good.zip")
    rng = np.random.default_rng(0)
    refusals = 0
    for position in [*rng.integers(len(good), size=25), *range(len(good) - 150, len(good), 5)]:
        path = tmp_path / "flipped.zip"
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        try:
            found = uci_har.load(path)
        except UserError:
            refusals += 1
        else:
            assert found[0].x.tobytes() == expected[0].x.tobytes()
    assert refusals > 10


def drop_row(text: bytes) -> bytes:
    return b"".join(text.splitlines(keepends=True)[:-1])


def replace_word(text: bytes, row: int, column: int, word: bytes) -> bytes:
    lines = text.splitlines()
    words = lines[row].split()
    words[column] = word
    lines[row] = b" ".join(words)
    return b"\n".join(lines) + b"\n"


SIGNAL = "train/Inertial Signals/body_gyro_y_train.txt"
WRONG = {
    "row missing from a signal": (
        SIGNAL,
        drop_row,
        r"body_gyro_y_train\.txt: expected 123 rows, found 122",
    ),
    "row missing from the people": (
        "test/subject_test.txt",
        drop_row,
        r"subject_test\.txt: expected 50 rows, found 49",
    ),
    "no rows": ("test/y_test.txt", lambda text: b"", r"test/y_test\.txt: expected rows, found 0"),
    "column missing": (
        SIGNAL,
        lambda text: replace_word(text, 4, 7, b""),
        r"expected 128 columns in row 5, found 127",
    ),
    "column more": (
        SIGNAL,
        lambda text: replace_word(text, 4, 7, b"1 2"),
        r"expected 128 columns in row 5, found 129",
    ),
    "uneven rows of the right total": (
        SIGNAL,
        lambda text: replace_word(replace_word(text, 4, 7, b"1 2"), 9, 0, b""),
        r"expected 128 columns in row 5, found 129",
    ),
    "NaN": (
        SIGNAL,
        lambda text: replace_word(text, 2, 3, b"NaN"),
        r"expected a finite number in row 3, column 4, found nan",
    ),
    "infinite": (SIGNAL, lambda text: replace_word(text, 2, 3, b"-inf"), r"row 3, column 4, found -inf"),
    "no number": (
        SIGNAL,
        lambda text: replace_word(text, 2, 3, b"1.2.3"),
        r"expected numbers only, found '1\.2\.3'",
    ),
    "unknown label": (
        "train/y_train.txt",
        lambda text: replace_word(text, 6, 0, b"7"),
        r"y_train\.txt: expected row 7: label 1\.\.6, found 7",
    ),
    "label zero": (
        "test/y_test.txt",
        lambda text: replace_word(text, 0, 0, b"0"),
        r"y_test\.txt: expected row 1: label 1\.\.6, found 0",
    ),
    "half a label": ("test/y_test.txt", lambda text: replace_word(text, 0, 0, b"1.5"), r"label 1\.\.6, found 1\.5"),
    "no person": (
        "test/subject_test.txt",
        lambda text: replace_word(text, 1, 0, b"-3"),
        r"row 2: person a whole number of at least 1, found -3",
    ),
    "person in both parts": (
        "test/subject_test.txt",
        lambda text: replace_word(text, 1, 0, b"21"),
        r"people \[21\] are in both",
    ),
    "classes out of order": (
        "activity_labels.txt",
        lambda text: b"\n".join(reversed(text.splitlines())),
        r"activity_labels\.txt: expected line 1: '1 <name>', found '6 LAYING'",
    ),
    "no classes": ("activity_labels.txt", lambda text: b"", r"activity_labels\.txt: expected lines"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("layout", ["folder", "zip"])
def test_wrong_content_is_named(kind, layout, files, tmp_path, cache):
    member, change, message = WRONG[kind]
    files[member] = change(files[member])
    path = LAYOUTS[layout](tmp_path, files)
    with pytest.raises(UserError, match=message) as caught:
        uci_har.load(path)
    assert member.rsplit("/", 1)[-1] in str(caught.value)
    assert str(path) in str(caught.value)
    refused(path, cache)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("member", ["train/y_train.txt", "test/Inertial Signals/total_acc_z_test.txt"])
def test_a_missing_file_is_named(layout, member, files, tmp_path, cache):
    del files[member]
    message = refused(LAYOUTS[layout](tmp_path, files), cache)
    assert "expected" in message
    assert member in message


@pytest.mark.parametrize("member", ["test/X_test.txt", "features.txt"])
def test_features_come_whole_or_not_at_all(member, files, tmp_path, cache):
    with_features(files)
    del files[member]
    assert member in refused(write_zip(tmp_path / "a.zip", files), cache)


def test_features_that_do_not_fit_their_names(files, tmp_path, cache):
    with_features(files)
    files["features.txt"] = drop_row(files["features.txt"])
    message = refused(write_zip(tmp_path / "a.zip", files), cache)
    assert "train/X_train.txt: expected 560 columns in row 1, found 561" in message


def test_a_file_that_cannot_be_read(files, tmp_path, cache):
    folder = LAYOUTS["folder"](tmp_path, files)
    (folder / "train" / "y_train.txt").unlink()
    (folder / "train" / "y_train.txt").mkdir()
    assert f"{folder}: cannot read 'train/y_train.txt': Is a directory" in refused(folder, cache)


# --- tables of text ----------------------------------------------------------------------------------------


def test_a_table_is_read_as_numpy_reads_it():
    values = np.random.default_rng(0).normal(size=(50, 7)) * 10.0 ** np.arange(-3, 4)
    text = io.BytesIO()
    np.savetxt(text, values, fmt="%.17g", delimiter="   ")
    np.testing.assert_array_equal(parse_table(text.getvalue(), 7, 50, "t"), values)


@pytest.mark.parametrize("text", [b"1 2\n3 x\n", b"1 2\n3 0x1\n", b"1 2\n3 \xff\n", b"1 2\n3 4,\n", b"1 2\n3 1_0\n"])
def test_words_among_numbers_are_refused(text):
    with pytest.raises(UserError, match="t: expected numbers only, found"):
        parse_table(text, 2, None, "t")
