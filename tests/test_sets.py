"""MotionSense and DSADS in their own layouts: who did what, in which units; and what is wrong with a file is named."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_files
from recordings import zipped

from shared.data import SOURCES, dsads, motionsense
from shared.errors import UserError
from shared.plausible import check_units

Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDHAR_CACHE", str(tmp_path / "cache"))
    for source in SOURCES.values():
        monkeypatch.delenv(source.variable, raising=False)


def some_files(path: Path, wanted: Callable[[str], bool]) -> Files:
    with zipfile.ZipFile(path) as source:
        return {name: source.read(name) for name in source.namelist() if wanted(name) and not name.endswith("/")}


@pytest.fixture(scope="module")
def phones(motionsense_zip: Path) -> Files:
    """Two people's recordings of three activities."""
    names = [f"{part}/sub_{person}.csv" for part in ("sit_5", "sit_13", "wlk_7", "jog_9") for person in (1, 17)]
    return some_files(motionsense_zip, lambda name: name.endswith(tuple(names)))


@pytest.fixture(scope="module")
def units(dsads_zip: Path) -> Files:
    """Two people's segments of two activities."""
    return some_files(dsads_zip, lambda name: name.startswith(("data/a01/p1/", "data/a09/p1/", "data/a09/p8/")))


def test_all_of_motionsense(motionsense_zip: Path) -> None:
    train, test = motionsense.load(motionsense_zip)
    assert train.people == [str(person) for person in range(1, 17)]
    assert test.people == [str(person) for person in range(17, 25)]
    with zipfile.ZipFile(motionsense_zip) as source:
        names = [name for name in source.namelist() if "sub_" in name]
        names.remove("A_DeviceMotion_data/sit_5/sub_1.csv")  # the same file as another
        lengths = {name: source.read(name).count(b"\n") - 1 for name in names}
    for windows in (train, test):
        for label, begins in enumerate(motionsense.ACTIVITIES):
            of_class = windows.person[windows.y == label]
            for person in windows.people:
                files = re.compile(rf".*/{begins}_\d+/sub_{person}\.csv")
                own = [length for name, length in lengths.items() if files.fullmatch(name)]
                assert (of_class == person).sum() == sum(max(0, n // 64 - 1) for n in own), (person, begins)
        check_units("all", windows.meta.spec.channels, windows.x)
    still = train.x[np.isin(train.y, [3, 4])][:, 6:]
    assert abs(np.linalg.norm(still, axis=1).mean() - 1) < 0.02  # g
    assert train.meta.classes[:2] == ("walking", "walking_upstairs")


def test_all_of_dsads(dsads_zip: Path) -> None:
    train, test = dsads.load(dsads_zip)
    assert (train.people, test.people) == (["1", "2", "3", "4", "5", "6"], ["7", "8"])
    per_recording = (8 * dsads.SEGMENT) // 32 - 1  # windows of 64 that overlap by half, in 8 segments that follow
    for windows in (train, test):
        assert windows.x.shape[1:] == (45, 64)
        for person in windows.people:
            counts = np.bincount(windows.y[windows.person == person], minlength=19)
            assert counts.tolist() == [per_recording] * 19
        check_units("all", windows.meta.spec.channels, windows.x)
    lying = train.x[train.y == dsads.ACTIVITIES.index("lying_on_back")]
    for place in range(len(dsads.PLACES)):
        assert abs(np.linalg.norm(lying[:, 9 * place : 9 * place + 3], axis=1).mean() - 1) < 0.1  # g


def test_numbers_are_those_of_the_files(phones: Files, units: Files, tmp_path: Path) -> None:
    train, test = motionsense.load(write_files(tmp_path / "phones", phones))
    name = next(name for name in phones if name.endswith("jog_9/sub_1.csv"))
    table = np.loadtxt(io.BytesIO(phones[name]), delimiter=",", skiprows=1)
    jogging = train.x[train.y == list(motionsense.ACTIVITIES).index("jog")]
    rows = table[64:192]  # the second window
    expected = np.hstack([rows[:, 10:], rows[:, 7:10], rows[:, 4:7] + rows[:, 10:]]).T
    np.testing.assert_allclose(jogging[1], expected, rtol=1e-5, atol=1e-6)
    assert (train.people, test.people) == (["1"], ["17"])

    archive = tmp_path / "units.zip"
    archive.write_bytes(zipped(units))
    train, test = dsads.load(archive)
    tables = [np.loadtxt(io.BytesIO(units[f"data/a09/p1/s{n:02d}.txt"]), delimiter=",") for n in range(1, 9)]
    walking = train.x[train.y == dsads.ACTIVITIES.index("walking")]
    expected = np.concatenate(tables)[96:160].T  # the fourth window, over the end of the first segment
    expected[[row for row, unit in enumerate(dsads.SPEC.units) if unit == "g"]] /= 9.80665
    expected[[row for row, unit in enumerate(dsads.SPEC.units) if unit == "uT"]] *= 47
    np.testing.assert_allclose(walking[3], expected, rtol=1e-5, atol=1e-6)
    assert (train.people, test.people) == (["1"], ["8"])


def test_a_missing_segment_is_not_bridged(units: Files, tmp_path: Path) -> None:
    files = {name: content for name, content in units.items() if name != "data/a09/p1/s04.txt"}
    train, _ = dsads.load(write_files(tmp_path, files))
    walking = (train.y == dsads.ACTIVITIES.index("walking")).sum()
    assert walking == (3 * 125) // 32 - 1 + (4 * 125) // 32 - 1


def test_a_copy_of_a_recording_counts_once(phones: Files, tmp_path: Path) -> None:
    name = next(name for name in phones if name.endswith("wlk_7/sub_1.csv"))
    once = motionsense.load(write_files(tmp_path / "once", phones))
    twice = motionsense.load(write_files(tmp_path / "twice", phones | {name.replace("wlk_7", "wlk_9"): phones[name]}))
    assert [len(part) for part in once] == [len(part) for part in twice]


def damaged(content: bytes) -> dict[str, tuple[bytes, list[str]]]:
    lines = content.splitlines(keepends=True)
    return {
        "no header": (b"".join(lines[1:]), ["the first line", "rotationRate.x"]),
        "a cell is empty": (b"".join([*lines[:3], re.sub(rb",[^,]+", b",", lines[3], count=1)]), ["columns in row 3"]),
        "a word": (b"".join([lines[0], lines[1].replace(b"0,", b"nine,", 1)]), ["numbers only", "nine"]),
        "not a number": (b"".join([lines[0], b",".join([b"nan"] * 13)]), ["finite number", "nan"]),
        "empty": (b"", ["the first line"]),
        "header alone": (lines[0], ["rows, found 0"]),
    }


@pytest.mark.parametrize("how", damaged(b"a\n0,1\n2,3\n4,5\n"))
def test_what_is_wrong_with_a_phone_s_recording_is_named(how: str, phones: Files, tmp_path: Path) -> None:
    name = next(name for name in phones if name.endswith("wlk_7/sub_17.csv"))
    content, words = damaged(phones[name])[how]
    with pytest.raises(UserError) as error:
        motionsense.load(write_files(tmp_path, phones | {name: content}))
    for word in ["wlk_7/sub_17.csv", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "125 rows, found 0"),
        (b"1,2,3\n" * 125, "45 columns in row 1, found 3"),
        (b",".join([b"1"] * 45) + b"\n", "125 rows, found 1"),
    ],
)
def test_what_is_wrong_with_a_segment_is_named(content: bytes, words: str, units: Files, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as error:
        dsads.load(write_files(tmp_path, units | {"data/a01/p1/s05.txt": content}))
    assert "data/a01/p1/s05.txt" in str(error.value)


@pytest.mark.parametrize("module", [motionsense, dsads])
def test_nothing_that_is_known(module, tmp_path: Path) -> None:
    write_files(tmp_path, {"notes.txt": b"hello"})
    with pytest.raises(UserError, match=r"expected (recordings|segments) like .*, found notes.txt"):
        module.load(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        module.load(tmp_path / "none")
    with pytest.raises(
        UserError, match=rf"{module.SOURCE.name} is not on this machine: get .*{module.SOURCE.variable}"
    ):
        module.load(None)


def test_an_activity_that_is_not_known(units: Files, tmp_path: Path) -> None:
    segment = units["data/a01/p1/s01.txt"]
    with pytest.raises(UserError, match="activities a01 to a19, found a20"):
        dsads.load(write_files(tmp_path, units | {"data/a20/p1/s01.txt": segment}))


def test_a_variable_names_where_the_data_are(phones: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDHAR_MOTIONSENSE", str(write_files(tmp_path / "phones", phones)))
    train, _ = motionsense.load(None)
    assert len(train)
