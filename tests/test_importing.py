"""Recordings as they are in the wild become the right windows, and what is bad is refused in one message."""

import io
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import recordings as make
from conftest import ROOT
from numpy.typing import NDArray
from recordings import (
    BAD,
    DISTURBED,
    SAME,
    TIME,
    columns,
    cut,
    phyphox,
    recording,
    sensor_logger,
    spread,
    text,
    with_units,
    write,
    write_recipe,
    zipped,
)
from rich.console import Console
from scipy.interpolate import CubicSpline

from shared.data.__main__ import main
from shared.data.folder import load
from shared.data.importing import sources
from shared.data.importing.build import Imported, build
from shared.data.importing.command import RECIPE, guess
from shared.data.importing.quality import notes
from shared.data.importing.recipe_file import read_recipe, to_yaml
from shared.data.importing.sources import find_sources
from shared.data.windows import Windows
from shared.errors import UserError, run_command

Floats = NDArray[np.float64]


def imported(*named: Path, recipe: Path | None = None) -> Imported:
    """Import without writing anything."""
    sources, console = find_sources(named), Console(stderr=True)
    return build(sources, read_recipe(recipe) if recipe else guess(sources, console), console)


@pytest.mark.parametrize("case", SAME)
def test_one_recording_in_many_spellings_gives_the_same_windows_without_a_recipe(case: str, tmp_path: Path) -> None:
    name, content = SAME[case]
    windows = imported(write(tmp_path / name, content)).windows
    assert windows.meta.spec.channels == make.CHANNELS
    assert windows.meta.spec.time.rate == 50
    expected = cut(recording())
    assert windows.x.shape == expected.shape
    np.testing.assert_allclose(windows.x, expected, atol=2e-4)  # 2e-4: of times that are rounded to 1e-7 s since 1970


# What sensors do: the windows must be those of the undisturbed recording, up to what is lost.


@pytest.mark.parametrize("case", DISTURBED)
def test_what_every_phone_records_gives_nearly_the_undisturbed_windows(case: str, tmp_path: Path) -> None:
    content, tolerance = DISTURBED[case]
    windows = imported(write(tmp_path / "a.csv", content())).windows
    expected = cut(recording())
    assert len(windows.x) in (len(expected), len(expected) - 1)
    if "fast" in case:  # it keeps its own rate, which is the same within 1 %
        return
    error = np.sqrt(((windows.x - expected[: len(windows.x)]) ** 2).mean(axis=(0, 2)))[:, np.newaxis]
    assert (error < tolerance * spread(expected)).all()


def test_a_gap_of_two_seconds_is_cut_and_told_and_no_window_lies_over_it(tmp_path: Path) -> None:
    keep = (TIME < 8) | (TIME >= 10)
    found = imported(write(tmp_path / "a.csv", text({name: x[keep] for name, x in columns().items()})))
    np.testing.assert_allclose(found.cuts[0].found.gaps, [(7.98, 10.0)])
    expected = np.concatenate([cut(recording()[:400]), cut(recording()[500:])])
    np.testing.assert_allclose(found.windows.x, expected, atol=1e-5)


def test_a_recording_of_the_lowest_rate_is_refused_and_a_slow_one_gets_slow_windows(tmp_path: Path) -> None:
    slow = {name: x[::4] for name, x in columns().items()}
    found = imported(write(tmp_path / "a.csv", text(slow)))
    assert found.recipe.target_rate == 12  # two digits of 12.5 Hz
    assert found.windows.meta.spec.time.seconds == pytest.approx(2.56, rel=0.05)


@pytest.mark.parametrize("logger", [sensor_logger, phyphox])
def test_a_file_for_each_sensor_at_rates_and_starts_of_their_own_in_a_folder_or_a_zip(
    logger: Callable[[], dict[str, str]], tmp_path: Path
) -> None:
    for name, content in logger().items():
        write(tmp_path / "mine" / name, content)
    write(tmp_path / "mine.zip", zipped(logger()))
    found = imported(tmp_path / "mine").windows
    assert found.meta.spec.channels == make.CHANNELS
    np.testing.assert_array_equal(found.x, imported(tmp_path / "mine.zip").windows.x)
    expected = cut(CubicSpline(TIME, recording())(np.arange(0.011, 18.98, 0.02)))
    assert len(found.x) == len(expected)
    error = np.sqrt(((found.x - expected) ** 2).mean(axis=(0, 2)))[:, np.newaxis]
    assert (error < 0.05 * spread(expected)).all()


def test_sensors_that_have_rows_of_their_own_in_one_file_are_aligned(tmp_path: Path) -> None:
    x, late = np.full((2000, 6), np.nan), 0.003
    x[0::2, :3], x[1::2, 3:] = recording()[:, :3], recording()[:, 3:]
    time = np.stack([TIME, TIME + late], axis=1).ravel()
    found = imported(write(tmp_path / "a.csv", text(columns(x, time)))).windows
    expected = cut(recording())
    error = np.sqrt(((found.x - expected[: len(found.x)]) ** 2).mean(axis=(0, 2)))[:, np.newaxis]
    assert len(found.x) >= len(expected) - 1
    assert (error < 0.2 * spread(expected)).all()  # total acceleration is read 3 ms later than in the recording


# Who, what and how it was worn


def two_people() -> str:
    first, second = columns(recording(0)), columns(recording(20))
    both = {name: np.concatenate([first[name], second[name]]) for name in first}
    labels = ["wave"] * 500 + [""] * 250 + ["rest"] * 250 + ["wave"] * 1000
    return text({"subject": ["anna"] * 1000 + ["ben"] * 1000, "activity": labels} | both)


def test_people_and_labels_of_columns(tmp_path: Path) -> None:
    windows = imported(write(tmp_path / "a.csv", two_people())).windows
    assert windows.people == ["anna", "ben"]
    assert windows.meta.classes == ("rest", "wave")
    names = np.array([*windows.meta.classes, ""])[windows.of(["anna"]).y]
    middles = np.array([64 * k + 64 for k in range(14)])
    expected = np.where(middles < 500, "wave", np.where(middles < 750, "", "rest"))
    np.testing.assert_array_equal(names, expected)
    np.testing.assert_allclose(windows.of(["ben"]).x, cut(recording(20)), atol=1e-5)


def test_intervals_label_the_windows_of_their_person(tmp_path: Path) -> None:
    for person, number in (("p1", 0), ("p2", 20), ("p3", 40)):
        write(tmp_path / "study" / f"{person}.csv", text(columns(recording(number)) | {"time": make.iso(TIME)}))
    rows = ["1,2024-05-01 10:00,2024-05-01T10:00:10,wave", "2,2024-05-01T10:00:12,2024-05-01T10:00:20,rest"]
    write(tmp_path / "study" / "labels.csv", "\n".join(["person,start,end,label", *rows]))
    found = imported(tmp_path / "study")
    assert found.recipe.label_file == "labels.csv"
    assert found.recipe.test_people == ("3",)
    train, test = found.parts
    assert (train.people, test.people, found.windows.meta.classes) == (["1", "2"], ["3"], ("rest", "wave"))
    first = np.array([*found.windows.meta.classes, ""])[train.of(["1"]).y]
    np.testing.assert_array_equal(first, np.where(64 * np.arange(14) + 64 < 500, "wave", ""))
    assert not test.labelled.any()


def test_the_recipe_names_activities_turns_axes_and_computes_body_acceleration(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", two_people())
    sensors = {"wrist_total_acc": {"columns": "total_acc_{}", "unit": "g", "axes": ["-y", "x", "z"]}}
    recipe = write_recipe(
        tmp_path,
        person_column="subject",
        label_column="activity",
        labels={"wave": "waving", "rest": None},
        sensors=sensors,
        body_acc=True,
        name="mine",
    )
    windows = imported(tmp_path / "a.csv", recipe=recipe).windows
    assert windows.meta.classes == ("waving",)
    assert windows.meta.name == "mine"
    assert windows.meta.spec.channels[3] == "wrist_body_acc_x"
    expected = cut(recording()[:, [1, 0, 2]] * [-1, 1, 1])
    np.testing.assert_allclose(windows.of(["anna"]).x[:, :3], expected, atol=1e-5)
    gravity = windows.x[:, :3] - windows.x[:, 3:]
    assert np.median(np.linalg.norm(gravity, axis=1)) == pytest.approx(1.0, abs=0.2)
    assert np.abs(windows.x[:, 3:].mean()) < 0.02


def test_sensors_without_three_axes_and_of_unknown_kinds_are_channels_in_their_own_unit(tmp_path: Path) -> None:
    pulse = 60 + 10 * np.sin(TIME)
    write(tmp_path / "a.csv", text(columns() | {"HR": pulse}))
    sensors = make.RECIPE["sensors"] | {"pulse": {"columns": "HR", "unit": "bpm"}}
    windows = imported(tmp_path / "a.csv", recipe=write_recipe(tmp_path, sensors=sensors)).windows
    assert windows.meta.spec.channels[-1] == "pulse"
    assert windows.meta.spec.units[-1] == "bpm"
    np.testing.assert_allclose(windows.x[:, -1], cut(pulse[:, np.newaxis])[:, 0], atol=1e-4)


def test_columns_without_a_header_are_numbered(tmp_path: Path) -> None:
    """As in Axivity's exports (time with a blank) and in PAMAP2's (NaN where a slow sensor has no value)."""
    rows = {
        "time": [t.replace("T", " ") for t in make.iso(TIME)],
        **dict(zip("xyz", recording()[:, :3].T, strict=True)),
    }
    watch = write(tmp_path / "watch.csv", text(rows, header=[]).lstrip())
    sensors = {"wrist_total_acc": {"columns": [2, 3, 4], "unit": "g"}}
    found = imported(watch, recipe=write_recipe(tmp_path, time=1, time_unit="iso", sensors=sensors))
    np.testing.assert_allclose(found.windows.x, cut(recording()[:, :3]), atol=2e-4)

    slow = np.where(np.arange(1000) % 11 == 0, 100.0, np.nan)
    label = np.repeat([0, 4, 5, 0], 250)
    values = {"time": TIME, "label": label, "pulse": slow, **dict(zip("xyz", recording()[:, :3].T, strict=True))}
    chest = write(tmp_path / "chest.dat", text(values, " ", header=[]).lstrip().replace("  ", " NaN "))
    sensors = {"chest_total_acc": {"columns": [4, 5, 6], "unit": "g"}}
    labels = {0: None, 4: "walking", 5: "running"}
    recipe = write_recipe(tmp_path, time=1, sensors=sensors, label_column=2, labels=labels)
    windows = imported(chest, recipe=recipe).windows
    assert label_counts(windows) == {"1": {"walking": 4, "running": 4, "": 6}}
    np.testing.assert_allclose(windows.x, cut(recording()[:, :3]), atol=1e-5)


def test_a_watch_that_logs_everything_in_one_file(tmp_path: Path) -> None:
    """As SensorLog does: units in capitals, a zone after a blank, gravity and body acceleration beside the total."""
    x = recording()
    names = ["accelerometerAcceleration", "motionRotationRate", "motionUserAcceleration", "motionGravity"]
    values = {"loggingTime(txt)": [t.replace("T", " ") + " +0100" for t in make.iso(TIME)]}
    for name, unit, part in zip(
        names, ("G", "rad/s", "G", "G"), (x[:, :3], x[:, 3:], 0.3 * x[:, :3], x[:, :3]), strict=True
    ):
        values |= {f"{name}{axis}({unit})": part[:, row] for row, axis in enumerate("XYZ")}
    found = imported(write(tmp_path / "a.csv", text(values)))
    assert list(found.recipe.sensors) == ["total_acc", "body_acc", "gyro"]
    assert (found.recipe.person, found.recipe.time) == ("1", "loggingTime(txt)")
    expected = cut(np.concatenate([x[:, :3], 0.3 * x[:, :3], x[:, 3:]], axis=1))
    np.testing.assert_allclose(found.windows.x, expected, atol=2e-4)
    assert found.cuts[0].found.start == make.ISO_START.astype("datetime64[s]").astype(int) - 3600


def test_gravity_and_body_acceleration_make_the_total(tmp_path: Path) -> None:
    x = recording()
    gravity = np.tile([0.6, 0.0, 0.8], (1000, 1))
    values = {"timestamp": (1000 * TIME).round().astype(int)}
    for name, part in (("gravity", gravity), ("userAcceleration", x[:, :3] - gravity), ("rotationRate", x[:, 3:])):
        values |= {f"{name}.{axis}": part[:, row] for row, axis in enumerate("xyz")}
    found = imported(write(tmp_path / "a.csv", text(values)))
    assert found.recipe.sensors["total_acc"].columns[0] == "gravity.x + userAcceleration.x"
    np.testing.assert_allclose(found.windows.x[:, [0, 1, 2, 6, 7, 8]], cut(x), atol=1e-5)


def test_a_guessed_recipe_is_written_corrected_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, proposal = write(tmp_path / "a.csv", with_units()), tmp_path / "mine.yaml"
    main(["import", str(data), "--propose", str(proposal)])
    assert "total_acc from 'Acceleration x (m/s^2)' and y, z in m/s²" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"mine\.yaml exists already"):
        main(["import", str(data), "--propose", str(proposal)])
    proposal.write_text(proposal.read_text().replace("person: '1'", "person: Anna B."))
    main(["import", str(data), "--recipe", str(proposal), "--out", str(tmp_path / "out")])
    train, _ = load(tmp_path / "out")
    assert train.people == ["Anna B."]
    kept = tmp_path / "out" / RECIPE
    assert read_recipe(kept) == read_recipe(proposal)
    assert to_yaml(read_recipe(kept)) == kept.read_text()
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".npz", ".yaml", ".html"}


# Real data in their original form


def label_counts(windows: Windows) -> dict[str, Counter[str]]:
    names = np.array([*windows.meta.classes, ""])
    return {person: Counter(names[windows.of([person]).y].tolist()) for person in windows.people}


def test_motionsense_in_its_original_form(motionsense_zip: Path, tmp_path: Path) -> None:
    recipe = write(
        tmp_path / "recipe.yaml",
        r"""name: motionsense
path: (?P<label>[a-z]+)_\d+/sub_(?P<person>[123])\.csv
rate: 50
sensors:
  total_acc: {columns: "gravity.{} + userAcceleration.{}", unit: g}
  gyro: {columns: "rotationRate.{}", unit: rad/s}
body_acc: true
test_people: [3]
""",
    )
    found = imported(motionsense_zip, recipe=recipe)
    windows = found.windows
    assert len(found.cuts) == 44  # 15 of each person, but one of person 1 is there twice
    assert sum("the same file" in note for note in found.notes) == 1
    # Counted apart: (rows - 128) // 64 + 1 of each file, by folder and person.
    assert label_counts(windows) == {
        "1": {"dws": 76, "jog": 97, "sit": 159, "std": 196, "ups": 95, "wlk": 168},
        "2": {"dws": 88, "jog": 97, "sit": 200, "std": 157, "ups": 109, "wlk": 302},
        "3": {"dws": 94, "jog": 91, "sit": 219, "std": 221, "ups": 98, "wlk": 234},
    }
    assert [part.people for part in found.parts] == [["1", "2"], ["3"]]
    assert windows.meta.spec.time.rate == 50
    assert windows.meta.spec.units == ("g",) * 6 + ("rad/s",) * 3
    still = np.isin(windows.y, [windows.meta.classes.index(name) for name in ("sit", "std")])
    assert np.linalg.norm(windows.x[still, :3], axis=1).mean() == pytest.approx(1.0, abs=0.02)
    # The body acceleration that is computed is nearly the one that the phone's own fusion tells.
    phone = imported(motionsense_zip, recipe=write(tmp_path / "phone.yaml", recipe.read_text().replace(
        "body_acc: true", '  body_acc: {columns: "userAcceleration.{}", unit: g}'
    ))).windows  # fmt: skip
    own, theirs = windows.x[:, 3:6].ravel(), phone.x[:, 6:9].ravel()
    assert np.corrcoef(own, theirs)[0, 1] > 0.9


def test_dsads_in_its_original_form(dsads_zip: Path, tmp_path: Path) -> None:
    recipe = write(
        tmp_path / "recipe.yaml",
        r"""name: dsads
path: (?P<recording>a(?P<label>\d\d)/p(?P<person>[27]))/s\d+\.txt
rate: 25
sensors:
  torso_total_acc: {columns: [1, 2, 3], unit: m/s^2}
  torso_gyro: {columns: [4, 5, 6], unit: rad/s}
  right_leg_total_acc: {columns: [28, 29, 30], unit: m/s^2}
  torso_field: {columns: [7, 8, 9], unit: normalised}
labels: {"01": sitting, "02": standing, "09": walking, "12": running}
target_rate: 25
""",
    )
    found = imported(dsads_zip, recipe=recipe)
    windows = found.windows
    assert windows.people == ["2", "7"]
    assert windows.meta.classes[:4] == ("sitting", "standing", "walking", "running")
    assert len(windows.meta.classes) == 19
    # Eight segments of 125 samples follow one another: (1000 - 128) // 64 + 1 = 14 windows of each activity.
    assert label_counts(windows) == {person: dict.fromkeys(windows.meta.classes, 14) for person in "27"}
    assert windows.meta.spec.time.rate == 25
    assert windows.meta.spec.units[-3:] == ("normalised",) * 3
    still = np.isin(windows.y, [0, 1])
    for sensor in (slice(0, 3), slice(6, 9)):
        assert np.linalg.norm(windows.x[still, sensor], axis=1).mean() == pytest.approx(1.0, abs=0.05)
    with zipfile.ZipFile(dsads_zip) as file:
        texts = [file.read(f"data/a09/p2/s0{segment}.txt").decode() for segment in (1, 2)]
    first = np.concatenate([np.loadtxt(io.StringIO(one), delimiter=",") for one in texts])
    walking = windows.x[(windows.person == "2") & (windows.y == 2)]
    np.testing.assert_allclose(walking[0, :3], first[:128, :3].T / 9.80665, atol=1e-5)


CASES: dict[str, tuple[int, str]] = {
    "predict-good.csv": (1, ""),
    "predict-iso-time.csv": (1, ""),
    "predict-one-lost-sample.csv": (3, "lost samples that were interpolated: 3"),
    "predict-zero-stretch.csv": (3, "left out because zero or constant: 3.8 s"),
    "uci-walking-as-recorded.csv": (15, ""),
    "uci-walking-phone-upside-down.csv": (15, ""),
    "uci-walking-without-body_acc.csv": (15, ""),
}


@pytest.mark.parametrize("case", CASES)
def test_the_collected_recordings_come_out_right(case: str, cases: Path) -> None:
    count, note = CASES[case]
    found = imported(cases / case)
    assert len(found.windows) == count
    assert note in "\n".join(notes(found))
    assert bool(note) == bool(notes(found))


def test_a_number_that_float32_cannot_hold_is_refused(cases: Path) -> None:
    with pytest.raises(UserError, match=r"line 62, column 'total_acc_x': expected a number of at most 3.4e\+38"):
        imported(cases / "predict-1e39-nan-probability.csv")


def test_a_phone_that_was_upside_down_is_turned_by_the_recipe(cases: Path, tmp_path: Path) -> None:
    upright = imported(cases / "uci-walking-as-recorded.csv")
    turned = upright.recipe.model_dump(mode="json")
    for sensor in turned["sensors"].values():
        sensor["axes"] = ["-x", "-y", "z"]
    recipe = write_recipe(tmp_path, **turned)
    np.testing.assert_array_equal(
        imported(cases / "uci-walking-phone-upside-down.csv", recipe=recipe).windows.x, upright.windows.x
    )


def test_body_acceleration_is_that_of_uci_har(cases: Path, tmp_path: Path) -> None:
    theirs = imported(cases / "uci-walking-as-recorded.csv").windows
    recipe = write_recipe(tmp_path, body_acc=True)
    ours = imported(cases / "uci-walking-without-body_acc.csv", recipe=recipe).windows
    channel = {name: number for number, name in enumerate(theirs.meta.spec.channels)}
    for axis in "xyz":
        body = theirs.x[:, channel[f"body_acc_{axis}"]]
        error = ours.x[:, ours.meta.spec.channels.index(f"body_acc_{axis}")] - body
        assert np.sqrt((error**2).mean()) < 0.2 * body.std()


# What is bad


def rows_of(page: str, heading: str) -> dict[str, str]:
    """Return the rows of the table with this heading in docs/data.md: first cell, second cell."""
    table = page.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    rows = re.findall(r"(?m)^\| ([^|]+) \| (.+) \|$", table)
    return {name.strip(): message.strip().strip("`") for name, message in rows if not name.startswith("---")}


REFUSED = rows_of((ROOT / "docs" / "data.md").read_text(encoding="utf-8"), "what is bad")


def test_the_page_lists_what_is_tested_here() -> None:
    assert list(REFUSED) == list(BAD)
    assert len(BAD) >= 25


@pytest.mark.parametrize("case", BAD)
def test_what_is_bad_is_refused_in_one_message_and_nothing_is_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    changes = BAD[case](tmp_path / "in")
    arguments = ["import", "in", "--out", "out"]
    if changes is not None:
        arguments += ["--recipe", write_recipe(tmp_path, **changes).name]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(sys, "argv", ["import", *arguments])
    with pytest.raises(SystemExit) as exit_code:
        run_command(main)
    assert exit_code.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    message = re.escape(REFUSED[case]).replace("…", ".*")
    assert len(lines) == 1
    assert re.fullmatch(f"error: {message}", lines[0]), lines[0]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path) -> None:
    data = write(tmp_path / "a.csv", text(columns()))
    note = write(tmp_path / "out" / "note.txt", "mine")
    with pytest.raises(UserError, match="out exists already and is not overwritten"):
        main(["import", str(data), "--out", str(tmp_path / "out")])
    assert [path.name for path in (tmp_path / "out").iterdir()] == [note.name]


def test_a_zip_may_unpack_to_more_than_one_file_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {f"person_{number}.csv": text(columns(recording(number))) for number in range(3)}
    write(tmp_path / "all.zip", zipped(contents))
    monkeypatch.setattr(sources, "LARGEST_FILE", max(map(len, contents.values())))
    assert len(find_sources([tmp_path / "all.zip"])) == 3
    monkeypatch.setattr(sources, "LARGEST_FILE", min(map(len, contents.values())) - 1)
    with pytest.raises(UserError, match=r"all\.zip: person_\d\.csv, unpacked, has .* GB"):
        find_sources([tmp_path / "all.zip"])
