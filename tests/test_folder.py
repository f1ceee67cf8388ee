"""A user's own folder of windows: what is written is read back, and what is wrong is named."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data import DataSettings, folder, load
from shared.data.partition import by_person, cut
from shared.data.parts import TEN_ALIKE
from shared.data.spec import InputSpec
from shared.data.windows import Meta, Windows
from shared.errors import UserError
from shared.plausible import check_units

SPEC = InputSpec(
    channels=("total_acc_x", "total_acc_y", "total_acc_z", "pulse"), units=("g", "g", "g", "bpm"), size=(16,), rate=25.0
)
META = Meta("mine", SPEC, ("sit", "walk"))


def make(people: list[int | str], per_person: int = 4, features: int = 0) -> Windows:
    rng = np.random.default_rng(len(people))
    n = len(people) * per_person
    return Windows(
        x=rng.normal(size=(n, 4, 16)).astype(np.float32),
        y=np.arange(n) % 2,
        person=np.repeat(np.array([str(person) for person in people]), per_person),
        meta=replace(META, feature_names=tuple(f"f{i}" for i in range(features))),
        features=rng.normal(size=(n, features)).astype(np.float32) if features else None,
    )


@pytest.fixture
def written(tmp_path) -> Path:
    """A good folder: people 1 and 2 train, 7 tests."""
    folder.write_folder(tmp_path / "mine", make([1, 2]), make([7]))
    return tmp_path / "mine"


def describe(path: Path, **changes: object) -> None:
    """Change fields of dataset.json; None takes a field away."""
    file = path / "dataset.json"
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def rewrite(path: Path, person: int | str, **changes: object) -> None:
    """Change arrays of a person's file; None takes an array away."""
    file = path / f"person_{person}.npz"
    arrays = dict(np.load(file)) | changes
    np.savez(file, **{key: value for key, value in arrays.items() if value is not None})


def same(a: Windows, b: Windows) -> bool:
    fields = [(a.x, b.x), (a.y, b.y)]
    if a.features is not None and b.features is not None:
        fields.append((a.features, b.features))
    return (
        a.meta == b.meta
        and a.person.tolist() == b.person.tolist()
        and (a.features is None) == (b.features is None)
        and all(one.shape == two.shape and one.tobytes() == two.tobytes() for one, two in fields)
    )


# --- what is written is read back --------------------------------------------------------------------------


@pytest.mark.parametrize("features", [0, 3])
def test_a_written_folder_is_read_back(features, tmp_path):
    train, test = make([3, 12], features=features), make([5], features=features)
    folder.write_folder(tmp_path / "new" / "mine", train, test)
    found = load(
        DataSettings(name="folder", sets=(), path=tmp_path / "new" / "mine", channels=(), holdout=(), parts=TEN_ALIKE)
    )
    assert same(found[0], train)
    assert same(found[1], test)
    assert found[0].meta is found[1].meta
    assert sorted(file.name for file in (tmp_path / "new" / "mine").iterdir()) == [
        "dataset.json",
        "person_12.npz",
        "person_3.npz",
        "person_5.npz",
    ]


@given(st.permutations([1, 1, 1, 2, 2, 4, 9]))
def test_windows_of_mixed_people_come_back_by_person(tmp_path_factory, people):
    mixed = make(people, per_person=1)
    path = tmp_path_factory.mktemp("mixed") / "mine"
    folder.write_folder(path, mixed, mixed[:0])
    train, _ = folder.load(path)
    for found, client in zip(by_person(train), by_person(mixed), strict=True):
        assert same(found, client)


def test_one_folder_per_person_is_a_whole_data_set(tmp_path):
    train, _ = load(DataSettings(name="watch", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE))
    for client in by_person(train)[:3]:
        path = tmp_path / f"client-{client.people[0]}"
        folder.write_folder(path, client, client[:0])
        found, test = folder.load(path)
        assert same(found, client)
        assert len(test) == 0


def test_a_folder_of_test_people_only_is_for_a_server(tmp_path):
    test = make([8, 9])
    folder.write_folder(tmp_path / "server", test[:0], test)
    found = folder.load(tmp_path / "server")
    assert len(found[0]) == 0
    assert same(found[1], test)


def test_labels_may_be_names_and_floats_may_be_double(written):
    before, _ = folder.load(written)
    rewrite(
        written,
        1,
        x=before.of(["1"]).x.astype(np.float64),
        y=np.array(META.classes)[before.of(["1"]).y],
    )
    after, _ = folder.load(written)
    assert same(before, after)


LABELS = {
    "some": (np.array([0, -1, 1, -1]), [0, -1, 1, -1]),
    "some in words": (np.array(["sit", "", "walk", ""]), [0, -1, 1, -1]),
    "none": (np.full(4, -1), [-1, -1, -1, -1]),
    "none in words": (np.array(["", "", "", ""]), [-1, -1, -1, -1]),
    "no array": (None, [-1, -1, -1, -1]),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_may_be_missing(case, written, tmp_path):
    y, expected = LABELS[case]
    rewrite(written, 2, y=y)
    train, test = folder.load(written)
    assert train.of(["2"]).y.tolist() == expected
    assert train.of(["2"]).labelled.tolist() == [label >= 0 for label in expected]
    assert train.of(["1"]).labelled.all()
    folder.write_folder(tmp_path / "again", train, test)
    assert same(folder.load(tmp_path / "again")[0], train)


def test_a_study_without_any_labels_needs_no_classes(written):
    describe(written, classes=[])
    with pytest.raises(UserError, match=r"person_1\.npz: expected labels -1 \(not labelled\), found 0\.\.1"):
        folder.load(written)
    for person in (1, 2, 7):
        rewrite(written, person, y=None)
    train, test = folder.load(written)
    assert not train.labelled.any()
    assert not test.labelled.any()


def test_numbers_in_other_units_than_the_description_says_are_refused_with_the_words_of_predict(cases):
    for load_people in (folder.load, lambda path: [folder.PersonFiles(path).read(p) for p in ("1", "2")]):
        with pytest.raises(
            UserError,
            match=r"person_2\.npz: total_acc must be in g, .*found 10\.4: it looks like m/s²; divide it by 9\.80665",
        ):
            load_people(cases / "ms2-declared-g")
    assert folder.PersonFiles(cases / "ms2-declared-g").read("1").people == ["1"]


@pytest.mark.parametrize("name", ["watch", "synthetic", "uci_har"])
def test_everybody_in_the_known_data_sets_measures_what_the_units_say(name, request):
    path = request.getfixturevalue("uci_har_zip") if name == "uci_har" else None
    train, test = load(DataSettings(name=name, sets=(), path=path, channels=(), holdout=(), parts=TEN_ALIKE))
    for windows in (train, test, cut(train, 200, 8)):  # virtual people of eight windows, which may be of one activity
        for person in by_person(windows):
            check_units(f"person {person.people[0]}", person.meta.spec.channels, person.x)


@pytest.mark.parametrize(("value", "people"), [(0.0, "1"), (-9.81, "12"), (1013.25, "7"), (1e30, "127")])
def test_a_channel_that_never_changes_is_warned_of(tmp_path, value, people, caplog):
    path = tmp_path / "mine"
    train, test = make([1, 2]), make([7])
    for part in (train, test):
        part.x[np.isin(part.person, list(people)), 3] = value
    folder.write_folder(path, train, test)
    load(DataSettings(name="folder", sets=(), path=path, channels=(), holdout=(), parts=TEN_ALIKE))
    ids = ", ".join(people)
    assert caplog.messages == [
        f"channel pulse never changes in the windows of {len(people)} of 3 people {ids}: is the sensor broken?"
    ]


def test_a_channel_that_hardly_changes_is_none_that_never_does(written, caplog):
    x = make([1]).x
    x[:, 3] = 1013.25 + 1e-3 * x[:, 3]  # a barometer indoors
    rewrite(written, 1, x=x)
    load(DataSettings(name="folder", sets=(), path=written, channels=(), holdout=(), parts=TEN_ALIKE))
    assert caplog.messages == []


def test_writing_refuses_to_overwrite(written, tmp_path):
    before = {file.name: file.read_bytes() for file in written.iterdir()}
    with pytest.raises(UserError, match="exists already and is not overwritten"):
        folder.write_folder(written, make([1]), make([2]))
    assert {file.name: file.read_bytes() for file in written.iterdir()} == before
    (tmp_path / "empty").mkdir()
    folder.write_folder(tmp_path / "empty", make([1]), make([2]))
    assert folder.load(tmp_path / "empty")[1].people == ["2"]


def test_writing_leaves_nothing_half_done(tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.npy, "write_array_header_1_0", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        folder.write_folder(tmp_path / "mine", make([1]), make([2]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (make([1, 2]), make([2]), r"people \['2'\] are in both"),
        (make([1])[:0], make([2])[:0], "no windows to write"),
        (make([1]), make([2], features=2), "windows differ"),
    ],
)
def test_parts_that_do_not_belong_together_are_not_written(train, test, message, tmp_path):
    with pytest.raises(UserError, match=message):
        folder.write_folder(tmp_path / "mine", train, test)
    assert list(tmp_path.iterdir()) == []


# --- what is wrong is named --------------------------------------------------------------------------------


def test_no_path():
    with pytest.raises(UserError, match=r"set data\.path"):
        folder.load(None)


def test_no_description(tmp_path):
    with pytest.raises(UserError, match=r"expected the file dataset\.json, found none"):
        folder.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 0}, "rate: Input should be greater than 0, found 0"),
        ({"rate": -50}, "rate: Input should be greater than 0, found -50"),
        ({"rate": None}, "the field 'rate' is missing"),
        ({"rate": "fast"}, "rate: .*found 'fast'"),
        ({"units": ["g", "g", "g"]}, r"a unit for each of 4 channels, found \['g', 'g', 'g'\]"),
        ({"units": ["g", "g", "g", ""]}, "units.3: String should have at least 1 character, found ''"),
        ({"channels": [], "units": []}, "channels: Tuple should have at least 1 item"),
        ({"channels": ["a", "b", "c", "d" * 101]}, "channels.3: String should have at most 100 characters"),
        ({"units": ["m/s^2", "g", "g", "bpm"]}, r"channel 'total_acc_x' must be in g, found 'm/s\^2'"),
        ({"channels": ["pulse", "a", "b", "pulse"]}, "channels must be unique, found pulse more than once"),
        ({"classes": ["sit", ""]}, "classes must have names"),
        ({"classes": ["sit", "sit"]}, "classes must be unique"),
        ({"test_people": [7, 8]}, r"test_people \['8'\] have no file person_<id>\.npz; found \['1', '2', '7'\]"),
        ({"tset_people": [7]}, r"unknown field 'tset_people' \(did you mean 'test_people'\?\)"),
    ],
)
def test_a_wrong_description(changes, message, written):
    describe(written, **changes)
    with pytest.raises(UserError, match=message) as caught:
        folder.load(written)
    assert "dataset.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"rate": NaN}'])
def test_a_description_that_is_no_json_object(text, written):
    (written / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json: "):
        folder.load(written)


X = np.ones((4, 4, 16), np.float32)
WITH_NAN, WITH_INFINITE = X.copy(), X.copy()
WITH_NAN[2, 0, 3] = np.nan
WITH_INFINITE[3, 1, 0] = np.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X[:, :3]}, "expected x as float (1 or more, 4, 1 or more), found float32 (4, 3, 16)"),
        ({"x": X[0]}, "found float32 (4, 16)"),
        ({"x": X[:0], "y": np.zeros(0, int)}, "found float32 (0, 4, 16)"),
        ({"x": X.astype(int)}, "found int64 (4, 4, 16)"),
        ({"x": X[:, :, :15]}, "expected windows of 16 samples, as the first person has, found 15"),
        ({"x": WITH_NAN}, "NaN or infinite values in x of 1 of 4 windows, first in window 2"),
        ({"x": WITH_INFINITE}, "NaN or infinite values in x of 1 of 4 windows, first in window 3"),
        ({"x": X.astype(float) * 1e300}, "NaN or infinite values in x of 4 of 4 windows"),
        ({"x": None}, "expected the arrays ['x'] and optionally y, found ['y']"),
        ({"z": X}, "expected the arrays ['x'] and optionally y, found ['x', 'y', 'z']"),
        ({"y": np.array([0, 1, 2, 0])}, "expected labels 0..1 or -1 (not labelled), found 0..2"),
        ({"y": np.array([0, -2, 1, 0])}, "expected labels 0..1 or -1 (not labelled), found -2..1"),
        ({"y": np.array([0, 1, 1])}, "expected y as int or text (4,), found int64 (3,)"),
        ({"y": np.array([0.0, 1, 1, 0])}, "found float64 (4,)"),
        ({"y": np.array(["sit", "wakl", "sit", "sit"])}, "unknown label 'wakl' (did you mean 'walk'?)"),
        ({"y": np.array([{}, 1, 2, 3], object)}, "expected an npz file of plain arrays"),
    ],
)
def test_a_wrong_person_file(changes, message, written):
    rewrite(written, 2, **changes)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        folder.load(written)
    assert "person_2.npz" in str(caught.value)


def test_features_must_fit_their_names(tmp_path):
    folder.write_folder(tmp_path / "mine", make([1], features=3), make([2], features=3))
    rewrite(tmp_path / "mine", 2, features=np.ones((4, 2), np.float32))
    with pytest.raises(UserError, match=r"person_2\.npz: expected features as float \(4, 3\), found float32 \(4, 2\)"):
        folder.load(tmp_path / "mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("people_two.npz", "people_two.npz: expected a name like person_12.npz; .*begins with person_"),
        ("person_.npz", "a person's id has 1 to 100 printable characters.*found ''"),
        ("person_%2E%2E.npz", "a person's id .* is not '.' or '..'; found '..'"),
        ("person_a%0Ab.npz", r"a person's id has .* printable characters.*found 'a\\nb'"),
        ("person_%FF.npz", "person_%FF: .*can't decode byte 0xff"),
        ("person_02.npz", "person_02.npz and person_2.npz are both of person 2"),
    ],
)
def test_file_names_that_name_no_one_person(name, message, written):
    (written / name).write_bytes((written / "person_2.npz").read_bytes())
    with pytest.raises(UserError, match=message):
        folder.load(written)


def test_nobody(written):
    for file in written.glob("*.npz"):
        file.unlink()
    with pytest.raises(UserError, match=r"expected files named person_<id>\.npz, found none"):
        folder.load(written)


def test_an_array_under_the_name_of_an_archive(written):
    with (written / "person_2.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(UserError, match=r"person_2\.npz: expected an npz file"):
        folder.load(written)


def test_damaged_bytes_never_go_unnoticed(written):
    before, _ = folder.load(written)
    file = written / "person_2.npz"
    good = file.read_bytes()
    refusals = 0
    for position in range(0, len(good), 3):
        file.write_bytes(good[:position] + bytes([good[position] ^ 0x15]) + good[position + 1 :])
        try:
            after, _ = folder.load(written)
        except UserError as error:
            assert "person_2.npz" in str(error)
            refusals += 1
        else:
            assert same(before, after)
    assert refusals > len(good) / 6
    for length in (0, 1, 100, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:length])
        with pytest.raises(UserError, match=r"person_2\.npz"):
            folder.load(written)
