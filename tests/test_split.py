"""One file per person, as a client takes it away."""

import json
from pathlib import Path

import numpy as np
import pytest

from client.app import _own_windows
from shared.data import DataSettings, load
from shared.data.__main__ import main
from shared.data.folder import DESCRIPTION, load_own, write_folder
from shared.data.partition import by_person
from shared.data.parts import TEN_ALIKE
from shared.data.split import split_people
from shared.errors import UserError


def settings(name: str, path: Path | None = None, holdout: tuple[int, ...] = ()) -> DataSettings:
    return DataSettings(name=name, sets=(), path=path, channels=(), holdout=holdout, parts=TEN_ALIKE)


@pytest.mark.parametrize(("name", "holdout"), [("watch", ()), ("synthetic", (2,))])
def test_each_person_has_one_file_and_the_folder_is_a_data_set(
    name: str, holdout: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "people"
    held = ["--holdout", *map(str, holdout)] if holdout else []
    main(["split", name, "--out", str(out), *held])
    train, _ = load(settings(name, holdout=holdout))
    assert ", ".join(train.people) in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [DESCRIPTION, *(f"person_{person}.npz" for person in train.people)]
    )
    again, test = load(settings("folder", out))
    assert len(test) == 0
    assert again.meta == train.meta
    for before, after in zip(by_person(train), by_person(again), strict=True):
        assert before.x.tobytes() == after.x.tobytes()
        np.testing.assert_array_equal(before.y, after.y)
        assert before.people == after.people


def test_people_of_several_data_sets_have_ids_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "people"
    main(["split", "watch", "synthetic", "--out", str(out), "--holdout", "watch/7"])
    people = [*(f"synthetic/{n}" for n in range(1, 5)), *(f"watch/{n}" for n in range(1, 7))]
    assert f"10 people: {', '.join(people)}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["people"]
    found = []
    for name in ("synthetic", "watch"):
        train, _ = load(settings(name))
        again, _ = load(settings("folder", out / name))
        assert again.meta == train.meta
        np.testing.assert_array_equal(again.of([f"{name}/2"]).x, train.of(["2"]).x)
        found += again.people
        assert (out / name / f"person_{name}%2F2.npz").is_file()
    assert found == people
    with pytest.raises(UserError, match="virtual people are made of one data set, found watch, synthetic"):
        main(["split", "watch", "synthetic", "--out", str(tmp_path / "many"), "--virtual", "20", "8"])
    with pytest.raises(UserError, match="unknown data set 'wach'"):
        main(["split", "synthetic", "wach", "--out", str(tmp_path / "many")])
    assert not (tmp_path / "many").exists()


def test_an_existing_folder_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        split_people(settings("synthetic"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_client_takes_exactly_one_person_who_trains(tmp_path: Path) -> None:
    people = tmp_path / "people"
    split_people(settings("synthetic"), people)
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(UserError, match=r"expected the file dataset\.json"):
        _own_windows(own)
    (own / DESCRIPTION).write_bytes((people / DESCRIPTION).read_bytes())
    with pytest.raises(UserError, match="expected files named person_"):
        _own_windows(own)
    (own / "person_2.npz").write_bytes((people / "person_2.npz").read_bytes())
    assert _own_windows(own).people == ["2"]


def test_a_client_takes_the_description_of_the_study_as_it_is(cases: Path, tmp_path: Path) -> None:
    train, test = load(settings("synthetic"))
    study, own = tmp_path / "study", tmp_path / "own"
    write_folder(study, train, test)
    own.mkdir()
    for name in (DESCRIPTION, "person_2.npz"):
        (own / name).write_bytes((study / name).read_bytes())
    assert _own_windows(own).x.tobytes() == train.of(["2"]).x.tobytes()
    (own / "person_2.npz").rename(tmp_path / "person_2.npz")
    (own / "person_5.npz").write_bytes((study / "person_5.npz").read_bytes())
    with pytest.raises(UserError, match=r"one person, who trains; found training people \[\] and test people \['5'\]"):
        load_own(own)
    with pytest.raises(UserError, match=r"test_people \['6'\] have no file"):  # whoever loads the whole study is told
        load(settings("folder", own))

    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for name in (DESCRIPTION, "person_2.npz"):
        (mixed / name).write_bytes((cases / "ms2-declared-g" / name).read_bytes())
    with pytest.raises(UserError, match="it looks like m/s²"):
        _own_windows(mixed)


@pytest.mark.parametrize(
    ("test_people", "found"), [([], r"people \['1', '2'\] and test"), ([2], r"test people \['2'\]")]
)
def test_a_second_person_in_a_clients_folder_is_refused(test_people: list[int], found: str, tmp_path: Path) -> None:
    people = tmp_path / "people"
    split_people(settings("synthetic", holdout=(3, 4)), people)
    description = json.loads((people / DESCRIPTION).read_text())
    (people / DESCRIPTION).write_text(json.dumps(description | {"test_people": test_people}))
    with pytest.raises(UserError, match=found):
        _own_windows(people)
