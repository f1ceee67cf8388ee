"""A person is a text: one spelling, natural order, safe names of files, and seeds that whole numbers keep."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from sklearn.model_selection import GroupKFold

from centralized_baseline.probe import main as probe
from server.strategy import PeopleStrategy
from shared.config import DEFAULTS, load_config
from shared.data import DataSettings, load
from shared.data.__main__ import main as data
from shared.data.folder import write_folder
from shared.data.partition import draw_labels
from shared.data.parts import TEN_ALIKE
from shared.data.person import (
    LONGEST,
    Person,
    file_name,
    in_order,
    numbered,
    of_file_name,
    of_numbers,
    person_id,
    person_seed,
)
from shared.data.windows import Windows
from shared.errors import UserError
from shared.evaluate import ProbeReport
from shared.evaluate.selection import FOLDS, held_out_folds
from shared.metrics import read_metrics
from shared.report.__main__ import main as report
from shared.report.reading import read_runs
from simulation.__main__ import simulate


def is_id(text: str) -> bool:
    try:
        person_id(text)
    except ValueError:
        return False
    return True


IDS = st.text(max_size=40).filter(is_id).map(person_id) | st.from_regex(r"(uci_har/)?[a-z]?[0-9]{1,3}", fullmatch=True)
IDS = IDS.map(person_id)
NUMBERS = st.integers(0, 10**12)

# ----- one spelling


@given(IDS)
def test_what_is_spelled_once_is_spelled_so_for_good(person: str) -> None:
    assert person_id(person) == person


@pytest.mark.parametrize(
    ("value", "person"),
    [(7, "7"), ("007", "7"), ("0", "0"), ("P007", "P007"), ("uci_har/3", "uci_har/3"), ("Mu\u0308ller", "Müller")],
)
def test_an_id_has_one_spelling(value: int | str, person: str) -> None:
    assert TypeAdapter(Person).validate_python(value) == person


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ".",
        "..",
        " 3",
        "3\n",
        "a\x00b",
        "a\u2028b",
        "\ud800",
        "x" * (LONGEST + 1),
        "人" * LONGEST,
        True,
        2.5,
        None,
    ],
)
def test_what_cannot_be_an_id_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Person).validate_python(value)


def test_windows_hold_people_as_they_are_spelled() -> None:
    train, _ = load(DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE))
    for people, words in (
        (np.arange(len(train)), "people must be text, found int64"),
        (np.full(len(train), "007"), "expected the person's id as '7', found '007'"),
        (np.full(len(train), "a\tb"), "a person's id has 1 to 100 printable characters"),
    ):
        with pytest.raises(UserError, match=words):
            replace(train, person=people)


def test_a_configuration_takes_numbers_and_texts() -> None:
    config = load_config(DEFAULTS, ["data.holdout=[1,02,'uci_har/3',Anna B.]"])
    assert config.data.holdout == ("1", "2", "uci_har/3", "Anna B.")
    with pytest.raises(UserError, match=r"data\.holdout\.1: value error, a person's id has .* found ''"):
        load_config(DEFAULTS, ["data.holdout=[1,'']"])


# ----- natural order


@given(st.lists(NUMBERS, unique=True))
def test_whole_numbers_are_in_the_order_of_numbers(numbers: list[int]) -> None:
    assert in_order(map(str, numbers)) == [str(number) for number in sorted(numbers)]


@given(st.lists(IDS, unique=True), st.randoms())
def test_the_order_does_not_depend_on_where_it_starts(people: list[str], random: object) -> None:
    shuffled = people.copy()
    random.shuffle(shuffled)
    assert in_order(shuffled) == in_order(people)


def test_numbers_within_ids_are_compared_as_numbers() -> None:
    people = ["2", "10", "Anna 9", "Anna 10", "Müller", "uci_har/3", "uci_har/30", "watch/1"]
    assert in_order(reversed(people)) == people


@given(st.lists(IDS, min_size=1))
def test_every_window_has_the_place_of_its_person(people: list[str]) -> None:
    found, places = numbered(np.array(people))
    assert found == in_order(set(people))
    assert [found[place] for place in places] == people


@given(st.lists(NUMBERS, min_size=1))
def test_people_who_are_numbered_are_those_numbers_as_text(numbers: list[int]) -> None:
    assert of_numbers(np.array(numbers)).tolist() == [str(number) for number in numbers]


# ----- names of files


@given(IDS)
def test_a_name_of_a_file_is_safe_and_gives_the_person_back(person: str) -> None:
    name = file_name(person)
    assert of_file_name(name) == person
    assert name.isascii()
    assert name.isprintable()
    assert "/" not in name
    assert len(name) < 220


@given(IDS, IDS)
def test_two_people_have_two_names(one: str, other: str) -> None:
    assume(one != other)
    assert file_name(one) != file_name(other)


# ----- what is random is what it was for whole numbers


@given(NUMBERS)
def test_a_whole_number_seeds_as_itself(number: int) -> None:
    assert person_seed(str(number)) == number


def test_another_text_seeds_alike_on_every_machine() -> None:
    assert person_seed("uci_har/3") == 15564100921049443132
    assert len({person_seed(person) for person in ("3", "uci_har/3", "watch/3", "P3")}) == 4


def labelled(people: list[int], y: NDArray[np.int64]) -> Windows:
    train, _ = load(DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE))
    return replace(train[: len(people)], y=y, person=of_numbers(np.array(people)))


CELLS = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3)), min_size=1, max_size=60)


@given(CELLS, st.integers(1, 4), st.integers(0, 2**32))
def test_labels_of_numbered_people_are_drawn_as_by_their_numbers(
    cells: list[tuple[int, int]], per_class: int, seed: int
) -> None:
    people, y = [person for person, _ in cells], np.array([label for _, label in cells])
    expected = []
    for person, label in sorted(set(cells)):
        rows = np.flatnonzero((np.array(people) == person) & (y == label))
        expected += np.random.default_rng([seed, person, label]).permutation(rows)[:per_class].tolist()
    assert draw_labels(labelled(people, y), per_class, seed).tolist() == sorted(expected)


@given(CELLS)
def test_numbered_people_are_held_out_as_by_their_numbers(cells: list[tuple[int, int]]) -> None:
    people, y = np.array([person for person, _ in cells]), np.array([label for _, label in cells])
    groups = len(set(people.tolist()))
    assume(groups > 1 and len(set(y.tolist())) > 1)
    expected = GroupKFold(min(FOLDS, groups)).split(y, groups=people)
    expected = [(fitted, held_out) for fitted, held_out in expected if len(set(y[fitted].tolist())) > 1]
    assume(expected)
    found = held_out_folds(y, of_numbers(people))
    assert [[rows.tolist() for rows in fold] for fold in found] == [
        [rows.tolist() for rows in fold] for fold in expected
    ]


# ----- from a folder to a report

NAMES = {"1": "Anna B.", "2": "uci_har/3", "3": "Müller", "4": "10", "5": "2", "6": r"[bold]$\frac$ <b>%2F"}
"""Of the synthetic people, of whom the last two test."""

YAML = """
name: named
data: {name: folder}
encoder: {width: 4}
train: {precision: float32, batch_size: 48}
federation: {rounds: 2, min_clients: 4}
"""


class StoppedError(Exception):
    """Ends a server between two rounds."""


def renamed(windows: Windows, names: dict[str, str]) -> Windows:
    return replace(windows, person=np.array([names[person] for person in windows.person.tolist()]))


def test_people_with_names_go_from_a_folder_to_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is stopped after its first round and resumed; its encoder is that of a run that was not stopped."""
    train, test = load(DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE))
    write_folder(tmp_path / "study", renamed(train, NAMES), renamed(test, NAMES))
    assert {file.name for file in (tmp_path / "study").glob("*.npz")} == {
        "person_10.npz",
        "person_2.npz",
        "person_Anna%20B..npz",
        "person_M%C3%BCller.npz",
        "person_uci_har%2F3.npz",
        "person_%5Bbold%5D%24%5Cfrac%24%20%3Cb%3E%252F.npz",
    }
    data(["info", "folder", "--path", str(tmp_path / "study")])
    assert "[bold]" in capsys.readouterr().out
    (tmp_path / "named.yaml").write_text(YAML)
    config = load_config(tmp_path / "named.yaml", [f"data.path={tmp_path / 'study'}"])
    folder = tmp_path / "run"
    simulate(config, tmp_path / "unbroken", "inprocess")
    real = PeopleStrategy.configure_train

    def stop(self: PeopleStrategy, server_round: int, *rest: object) -> object:
        if self.done + server_round == 2:
            raise StoppedError
        return real(self, server_round, *rest)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(PeopleStrategy, "configure_train", stop)
        simulate(config, folder, "inprocess")
    simulate(config, folder, "inprocess", resume=True)
    assert (folder / "encoder.safetensors").read_bytes() == (tmp_path / "unbroken" / "encoder.safetensors").read_bytes()
    assert "its heads start anew" not in (folder / "server.log").read_text()
    people = ["10", "Anna B.", "Müller", "uci_har/3"]
    rows = list(read_metrics(folder / "metrics.jsonl"))
    for number in (1, 2):
        assert [row["person"] for row in rows if row["kind"] == "client" and row["round"] == number] == people
    (run,) = read_runs([folder])
    assert list(run.people) == list(run.clients) == people
    assert all([row["round"] for row in log] == [1, 2] for log in run.clients.values())

    probe(["--encoder", str(folder), "--seeds", "1", "--regimes", "1", "all", "--protocols", "linear"])
    judged = ProbeReport.model_validate_json((folder / "probe.json").read_bytes())
    assert (judged.train_people, judged.test_people) == (people, ["2", NAMES["6"]])
    assert set(json.loads((folder / "probe.json").read_text())["results"][0]["per_person"]) == {"2", NAMES["6"]}
    report([str(folder), "--out", str(tmp_path / "report.html"), "--sample", "60"])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert r"person [bold]$\frac$ &lt;b&gt;%2F" in page
    assert "<b>%2F" not in page


def test_zeros_before_a_number_make_no_other_person(tmp_path: Path) -> None:
    """Files of ``person_001`` train the encoder that those of ``person_1`` do."""
    train, test = load(DataSettings(name="synthetic", sets=(), path=None, channels=(), holdout=(), parts=TEN_ALIKE))
    (tmp_path / "named.yaml").write_text(YAML)
    encoders = []
    for study in ("plain", "padded"):
        write_folder(tmp_path / study, train, test)
        if study == "padded":
            for file in (tmp_path / study).glob("*.npz"):
                file.rename(file.with_name(file.name.replace("_", "_00")))
        config = load_config(tmp_path / "named.yaml", [f"data.path={tmp_path / study}", "federation.rounds=1"])
        simulate(config, tmp_path / f"{study}-run", "inprocess")
        encoders.append((tmp_path / f"{study}-run" / "encoder.safetensors").read_bytes())
    assert encoders[0] == encoders[1]
