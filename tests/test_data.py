"""Data sets by name, their split by person, the label regimes and the channel statistics."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from shared.data import DATASETS, DataSettings, dsads, folder, join, load, load_apart, training_people, uci_har, watch
from shared.data.conform import pick
from shared.data.partition import by_person, cut, draw_fraction, draw_labels
from shared.data.parts import TEN_ALIKE
from shared.data.person import of_numbers
from shared.data.spec import InputSpec
from shared.data.statistics import SMALLEST_STD, ChannelStatistics
from shared.data.windows import UNLABELLED, Meta, Windows
from shared.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, cache):
    monkeypatch.setenv("FEDHAR_CACHE", str(cache))


def settings_of(name: str, path: Path | None = None, holdout: tuple[int | str, ...] = ()) -> DataSettings:
    return DataSettings(name=name, sets=(), path=path, channels=(), holdout=holdout, parts=TEN_ALIKE)


@pytest.fixture
def chosen(request, tmp_path):
    """The data set named by the test's parameter, from its real source."""
    path = None
    if request.param in ("uci_har", "motionsense", "dsads"):
        path = request.getfixturevalue(f"{request.param}_zip")
    if request.param == "folder":
        path = tmp_path / "own"
        folder.write_folder(path, *load(settings_of("synthetic")))
    return settings_of(request.param, path)


@pytest.fixture
def loaded(chosen):
    return load(chosen)


every_data_set = pytest.mark.parametrize("chosen", sorted(DATASETS), indirect=True)


def prints(x: Iterable[np.ndarray]) -> Counter[str]:
    """Count windows by their content."""
    return Counter(hashlib.sha256(np.ascontiguousarray(window).tobytes()).hexdigest() for window in x)


def prints_by_person(windows: Windows) -> dict[str, Counter[str]]:
    """Count windows by person and content, one row at a time."""
    found: dict[str, Counter[str]] = {}
    for row in range(len(windows)):
        found.setdefault(str(windows.person[row]), Counter()).update(prints([windows.x[row]]))
    return found


def make_windows(people: list[int], y: list[int], seed: int = 0) -> Windows:
    x = np.random.default_rng(seed).normal(3, 2, (len(y), 2, 5)).astype(np.float32)
    spec = InputSpec(channels=("p", "q"), units=("u", "v"), size=(5,), rate=10.0)
    return Windows(x, np.array(y, np.int64), of_numbers(np.array(people)), Meta("m", spec, tuple("abcd")))


cells = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=60)
people_and_labels = cells.map(lambda rows: make_windows([p for p, _ in rows], [k for _, k in rows]))
seeds = st.integers(0, 2**32)


# --- data sets ---------------------------------------------------------------------------------------------


@every_data_set
def test_parts_have_one_meaning_and_no_person_in_common(loaded):
    train, test = loaded
    assert train.meta is test.meta
    assert len(train) > 0
    assert len(test) > 0
    assert not set(train.people) & set(test.people)
    assert set(train.y) == set(range(len(train.meta.classes)))
    assert train.meta.spec.triads, "no three-axis sensor was recognised"


@every_data_set
def test_every_client_holds_one_persons_windows_and_nothing_is_lost_or_doubled(loaded):
    for part in loaded:
        order = np.random.default_rng(1).permutation(len(part))
        clients = by_person(part[order])
        truth = prints_by_person(part)
        assert [client.people for client in clients] == [[person] for person in sorted(truth, key=int)]
        for client in clients:
            assert prints(client.x) == truth[client.people[0]]
        assert sum(map(len, clients)) == len(part)


@every_data_set
def test_people_one_by_one_are_the_training_people(chosen):
    train, _ = load(chosen)
    clients = training_people(chosen)
    assert list(clients.ids) == train.people
    for partition, person in enumerate(clients.ids):
        assert clients[partition].x.tobytes() == train.of([person]).x.tobytes()
        assert clients[partition].people == [person]


def test_people_with_a_file_each_are_read_when_they_are_asked_for(tmp_path):
    folder.write_folder(tmp_path / "own", *load(settings_of("synthetic")))
    (tmp_path / "own" / "person_3.npz").write_bytes(b"torn")
    clients = training_people(settings_of("folder", tmp_path / "own", holdout=(1,)))
    assert list(clients.ids) == ["2", "3", "4"]
    assert clients[0].people == ["2"]
    with pytest.raises(UserError, match=r"person_3\.npz: expected an npz file"):
        clients[1]
    with pytest.raises(UserError, match=r"unknown people \['5'\]"):
        training_people(settings_of("folder", tmp_path / "own", holdout=(5,)))


@given(people_and_labels, st.integers(5, 40), st.integers(1, 3))
def test_virtual_people_are_runs_of_one_real_persons_windows(windows, people, size):
    assume(all(len(part) >= size for part in by_person(windows)))
    found = cut(windows, people, size)
    assert found.people == [str(number) for number in range(1, people + 1)]
    runs = {
        real.x[start : start + size].tobytes() for real in by_person(windows) for start in range(len(real) - size + 1)
    }
    for part in by_person(found):
        assert len(part) == size
        assert part.x.tobytes() in runs
    runs_each = people // len(windows.people)
    for real in by_person(windows):
        if len(real) <= runs_each * size:
            assert set(prints(real.x)) <= set(prints(found.x)), "a window was left out"


def test_too_few_virtual_people_or_windows_are_refused():
    windows = make_windows([1, 1, 2], [0, 0, 0])
    with pytest.raises(UserError, match="at least 2 virtual people"):
        cut(windows, 1, 1)
    with pytest.raises(UserError, match="person 2 has 1 windows, fewer than the 2 asked for"):
        cut(windows, 4, 2)


@every_data_set
def test_statistics_of_people_add_up_to_the_pooled_ones(loaded):
    train, _ = loaded
    parts = [ChannelStatistics.of(client) for client in by_person(train)]
    pooled = sum(parts[1:], start=parts[0])
    assert pooled.count == train.x[:, 0].size
    np.testing.assert_allclose(pooled.mean, train.x.mean(axis=(0, 2), dtype=np.float64), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(pooled.std, train.x.std(axis=(0, 2), dtype=np.float64), rtol=1e-9)


@pytest.mark.parametrize("chosen", ["watch", "synthetic"], indirect=True)
def test_acceleration_is_in_g_and_rotation_in_radians(loaded):
    train, _ = loaded
    acc, gyro = (np.linalg.norm(train.x[:, list(triad.channels)], axis=1) for triad in train.meta.spec.triads)
    assert 0.9 < np.median(acc) < 1.2
    assert 0.005 < np.median(gyro) < 10


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown data set 'wach' \(did you mean 'watch'\?\)"):
        load(settings_of("wach"))


@pytest.mark.parametrize("name", ["watch", "synthetic"])
def test_data_sets_without_a_path_refuse_one(name, tmp_path):
    with pytest.raises(UserError, match="takes no path"):
        load(settings_of(name, tmp_path))


# --- holdout -----------------------------------------------------------------------------------------------


def test_holdout_moves_training_people_and_leaves_the_test_people_out():
    train, _ = load(settings_of("watch"))
    rest, held = load(settings_of("watch", holdout=(2, 5)))
    assert rest.people == ["1", "3", "4", "6", "7"]
    assert held.people == ["2", "5"]
    assert prints(rest.x) + prints(held.x) == prints(train.x)


@pytest.mark.parametrize(
    ("holdout", "message"),
    [((8,), "unknown people"), ((99,), "unknown people"), (tuple(range(1, 8)), "leaves nobody to train on")],
)
def test_impossible_holdouts_are_refused(holdout, message):
    with pytest.raises(UserError, match=message):
        load(settings_of("watch", holdout=holdout))


def test_a_person_in_both_parts_is_refused(monkeypatch):
    windows = make_windows([1, 2], [0, 1])
    monkeypatch.setitem(DATASETS, "leaky", lambda path: (windows, windows[1:]))
    with pytest.raises(UserError, match=r"people \['2'\] are in both"):
        load(settings_of("leaky"))


# --- watch and synthetic -----------------------------------------------------------------------------------


def several(*names: str, **knobs) -> DataSettings:
    return DataSettings(
        **{"name": "", "sets": names, "path": None, "channels": (), "holdout": (), "parts": TEN_ALIKE} | knobs
    )


def test_data_sets_together_have_the_channels_that_all_have_and_people_of_their_own(uci_har_zip, monkeypatch):
    monkeypatch.setenv("FEDHAR_UCI_HAR", str(uci_har_zip))
    together = load(several("uci_har", "watch", holdout=("uci_har/1", "watch/2")))
    assert together[1].people == ["uci_har/1", "watch/2"]
    for windows in together:
        assert windows.meta.name == "uci_har+watch"
        assert windows.meta.spec == pick(watch.SPEC, uci_har.SPEC.channels[3:])  # in the order of the first


def test_data_sets_together_keep_each_windows_numbers_activity_and_person():
    train, _ = load(several("synthetic", "watch"))
    own, _ = load(settings_of("synthetic"))
    watched, _ = load(settings_of("watch"))
    assert train.people == [f"synthetic/{one}" for one in own.people] + [f"watch/{one}" for one in watched.people]
    assert len(train) == len(own) + len(watched)
    np.testing.assert_array_equal(train.x[: len(own)], own.x)
    np.testing.assert_array_equal(train.x[len(own) :], watched.x[:, :, 32:96])  # the middle, as long as the first's
    names = [own.meta.classes[y] for y in own.y] + [watched.meta.classes[y] for y in watched.y]
    assert [train.meta.classes[y] for y in train.y] == names


def test_activities_of_one_name_are_one_and_what_has_no_label_keeps_none():
    synthetic, _ = load(settings_of("synthetic"))
    other = replace(
        synthetic,
        y=np.where(np.arange(len(synthetic)) % 2, UNLABELLED, 3 - synthetic.y),
        meta=replace(synthetic.meta, name="other", classes=synthetic.meta.classes[::-1]),
    )
    joined = join({"one": synthetic, "other": other})
    assert joined.meta.classes == synthetic.meta.classes
    half = len(synthetic)
    np.testing.assert_array_equal(joined.y[:half], synthetic.y)
    np.testing.assert_array_equal(joined.y[half::2], synthetic.y[::2])
    assert (joined.y[half + 1 :: 2] == UNLABELLED).all()


def test_chosen_channels_are_those_of_every_way_to_read(tmp_path):
    folder.write_folder(tmp_path / "own", *load(settings_of("synthetic")))
    chosen = ("gyro_z", "total_acc_x")
    for one in (
        several(channels=chosen, name="synthetic"),
        several(channels=chosen, name="folder", path=tmp_path / "own"),
        several("synthetic", "folder", channels=chosen, path=tmp_path / "own"),
    ):
        people = training_people(one)
        for windows in (*load(one), people[0], people[len(people) - 1]):
            assert windows.meta.spec.channels == chosen
        train, _ = load(settings_of("synthetic"))
        first = people[people.ids.index("synthetic/1" if one.sets else "1")]
        np.testing.assert_array_equal(first.x, train.of(["1"]).x[:, [5, 0]])


def test_data_sets_apart_keep_their_channels_at_one_rate(dsads_zip, monkeypatch):
    monkeypatch.setenv("FEDHAR_DSADS", str(dsads_zip))
    held = tuple(f"watch/{person}" for person in (1, 2))
    settings = several("watch", "dsads", holdout=(*held, "dsads/6"))
    (train, test), (train_units, test_units) = load_apart(settings)
    assert (train.meta.spec, train.meta.name) == (watch.SPEC, "watch")
    assert train_units.meta.spec == dsads.SPEC.model_copy(update={"size": (128,), "rate": 50.0})
    assert train_units.meta.classes == dsads.load(dsads_zip)[0].meta.classes
    assert test.people == [*held]
    assert test_units.people == ["dsads/6"]
    people = training_people(settings, apart=True)
    assert list(people.ids) == train_units.people + train.people
    assert {windows.meta.name: len(windows) for windows in (train, train_units)} == {
        name: sum(len(people.read(one)) for one in people.ids if one.startswith(name)) for name in ("watch", "dsads")
    }
    np.testing.assert_array_equal(people.read("watch/3").x, load(settings_of("watch"))[0].of(["3"]).x)
    with pytest.raises(
        UserError, match=r"total_acc_x may be any of torso_total_acc_x, .*or one data set by data.sets="
    ):
        load(settings)
    everybody = tuple(f"watch/{person}" for person in range(1, 8))
    assert [len(part.people) for part, _ in load_apart(several("watch", "dsads", holdout=everybody))] == [0, 6]


def test_one_data_set_or_named_channels_are_the_same_apart_and_together():
    for chosen in (several(name="watch"), several("synthetic", "watch", channels=("gyro_x",))):
        ((train, _),) = load_apart(chosen)
        together, _ = load(chosen)
        np.testing.assert_array_equal(train.x, together.x)
        assert train.people == together.people == list(training_people(chosen, apart=True).ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (several("watch", "watch"), "data.sets names watch more than once"),
        (several(name="watch", channels=("gyro_x", "gyro_x")), "data.channels names gyro_x more than once"),
        (several("watch", "synthetic", path=Path("here")), "data.path is where one data set is.*watch, synthetic"),
        (several("watch", "synthtic"), r"unknown data set 'synthtic' \(did you mean 'synthetic'"),
        (several("synthetic", "watch", holdout=("1",)), r"unknown people \['1'\]; there are \['synthetic/1'"),
        (several(name="watch", channels=("body_acc_x",)), "missing channels: body_acc_x; there are total_acc_x"),
    ],
)
def test_data_sets_that_cannot_be_used_together_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load(settings)


def test_watch_windows_are_cut_from_the_recordings_of_their_own_person():
    source = next(file for file in metadata.files("seglearn") if file.name == "watch_dataset.npy")
    raw = np.load(source.locate(), allow_pickle=True).item()
    expected = Counter()
    for signal, label, person in zip(raw["X"], raw["y"], raw["subject"], strict=True):
        for start in range(0, len(signal) - 127, 64):
            window = np.ascontiguousarray(signal[start : start + 128].T.astype(np.float32))
            expected[int(person), raw["y_labels"][label], next(iter(prints([window])))] += 1

    found = Counter()
    for part in load(settings_of("watch")):
        for row in range(len(part)):
            key = next(iter(prints([part.x[row]])))
            found[int(part.person[row]), part.meta.classes[part.y[row]], key] += 1
    assert found == expected


def test_watch_needs_no_import_of_seglearn():
    code = (
        "import sys; from shared.data import watch; watch.load(None); "
        "sys.exit(any(name.split('.')[0] == 'seglearn' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_watch_is_not_unpickled_when_its_checksum_is_wrong(monkeypatch, tmp_path):
    other = tmp_path / "watch_dataset.npy"
    np.save(other, np.array({"X": []}, dtype=object), allow_pickle=True)
    monkeypatch.setattr(watch, "_find", lambda: other)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(UserError, match=f"expected {watch.SHA256}, found [0-9a-f]{{64}}"):
        watch.load(None)


def test_watch_says_what_to_install(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(UserError, match="pip install seglearn"):
        watch.load(None)


def test_synthetic_is_the_same_each_time_and_has_the_documented_size():
    first, second = load(settings_of("synthetic")), load(settings_of("synthetic"))
    for a, b in zip(first, second, strict=True):
        assert a.x.tobytes() == b.x.tobytes()
    assert first[0].x.shape == (4 * 4 * 24, 6, 64)
    assert first[1].x.shape == (2 * 4 * 24, 6, 64)


def test_synthetic_has_postures_paces_and_people():
    train, test = load(settings_of("synthetic"))
    walking, running, lying = (train.meta.classes.index(name) for name in ("walking", "running", "lying"))

    def pace(windows: Windows) -> float:
        step = np.abs(np.fft.rfft(windows.x[:, :3] - windows.x[:, :3].mean(axis=2, keepdims=True), n=1024)).sum(1)
        return float(np.median(step.argmax(axis=1)) * 50 / 1024)

    paces = []
    for person in by_person(train):
        slow, fast = (pace(person[person.y == k]) for k in (walking, running))
        assert 1.2 < slow < fast < 4
        assert person[person.y == lying].x[:, 0].mean() > 0.8
        paces.append(slow)
    assert np.std(paces) > 0.03

    def features(windows: Windows) -> np.ndarray:
        return np.concatenate([windows.x.mean(axis=2), windows.x.std(axis=2)], axis=1)

    probe = LogisticRegression(max_iter=1000, C=100).fit(features(train), train.y)
    assert probe.score(features(test), test.y) > 0.9


# --- label regimes -----------------------------------------------------------------------------------------


@given(people_and_labels, st.integers(1, 5), seeds)
def test_draw_labels_takes_so_many_of_each_person_and_class(windows, per_class, seed):
    drawn = draw_labels(windows, per_class, seed)
    assert drawn.dtype == np.int64
    assert (np.diff(drawn) > 0).all()
    sizes = Counter(zip(windows.person.tolist(), windows.y.tolist(), strict=True))
    taken = Counter(zip(windows.person[drawn].tolist(), windows.y[drawn].tolist(), strict=True))
    assert taken == {cell: min(size, per_class) for cell, size in sizes.items()}


@given(people_and_labels, st.integers(1, 5), seeds)
def test_a_persons_draw_does_not_depend_on_the_others(windows, per_class, seed):
    drawn = draw_labels(windows, per_class, seed)
    for client in by_person(windows):
        own = drawn[windows.person[drawn] == client.people[0]]
        alone = draw_labels(client, per_class, seed)
        assert prints(windows.x[own]) == prints(client.x[alone])


@given(people_and_labels, st.integers(1, 5), seeds)
def test_more_labels_contain_fewer(windows, per_class, seed):
    fewer, more = draw_labels(windows, per_class, seed), draw_labels(windows, per_class + 1, seed)
    assert set(fewer) <= set(more)


def test_draws_repeat_with_a_seed_and_differ_between_seeds():
    windows = make_windows([1] * 100 + [2] * 100, [0, 1] * 100)
    for draw, amount in ((draw_labels, 5), (draw_fraction, 0.1)):
        draws = [tuple(draw(windows, amount, seed)) for seed in (0, 0, 1, 2)]
        assert draws[0] == draws[1]
        assert len(set(draws)) == 3
        assert draws[0] != tuple(range(len(draws[0]))), "the first windows, not drawn ones"


def test_all_labels_are_all_windows():
    windows = make_windows([1, 1, 2], [0, 1, 0])
    assert draw_labels(windows, None, 0).tolist() == [0, 1, 2]
    assert draw_fraction(windows, 1.0, 0).tolist() == [0, 1, 2]


@given(people_and_labels, st.floats(0.01, 1), seeds)
def test_draw_fraction_takes_each_class_its_share_spread_over_people(windows, fraction, seed):
    drawn = draw_fraction(windows, fraction, seed)
    assert (np.diff(drawn) > 0).all()
    for label in set(windows.y.tolist()):
        rows = windows.y == label
        taken = drawn[windows.y[drawn] == label]
        assert len(taken) == max(1, round(fraction * int(rows.sum())))
        for person in set(windows.person[rows].tolist()):
            fair = len(taken) / rows.sum() * (rows & (windows.person == person)).sum()
            assert abs((windows.person[taken] == person).sum() - fair) <= 1


@given(people_and_labels, st.integers(0, 2**32), st.integers(1, 5), st.floats(0.01, 1), seeds)
def test_windows_without_a_label_are_never_drawn_and_change_no_draw(windows, scattered, per_class, fraction, seed):
    rng = np.random.default_rng(scattered)
    rows = np.sort(rng.integers(0, len(windows), 2 * len(windows)))  # some twice or more often, some not at all
    first = np.diff(rows, prepend=-1) > 0
    known, mixed = windows[rows[first]], windows[rows]
    mixed = replace(mixed, y=np.where(first, mixed.y, UNLABELLED))
    for draw, amount in ((draw_labels, per_class), (draw_labels, None), (draw_fraction, fraction)):
        drawn = draw(mixed, amount, seed)
        assert mixed.labelled[drawn].all()
        assert np.flatnonzero(first)[draw(known, amount, seed)].tolist() == drawn.tolist()


def test_draws_of_no_windows_are_empty():
    nothing = make_windows([1], [0])[:0]
    assert draw_labels(nothing, 3, 0).tolist() == []
    assert draw_fraction(nothing, 0.5, 0).tolist() == []
    assert by_person(nothing) == []


@pytest.mark.parametrize("per_class", [0, -1])
def test_draw_labels_refuses_less_than_one(per_class):
    with pytest.raises(UserError, match="at least 1"):
        draw_labels(make_windows([1], [0]), per_class, 0)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_draw_fraction_refuses_what_is_no_share(fraction):
    with pytest.raises(UserError, match="above 0 and at most 1"):
        draw_fraction(make_windows([1], [0]), fraction, 0)


def test_a_negative_seed_is_refused():
    with pytest.raises(UserError, match="seed"):
        draw_labels(make_windows([1], [0]), 1, -1)


# --- partition and statistics ------------------------------------------------------------------------------


@given(people_and_labels)
def test_by_person_keeps_each_row_together_and_in_order(windows):
    clients = by_person(windows)
    assert [client.people[0] for client in clients] == sorted(set(windows.person.tolist()), key=int)
    for client in clients:
        rows = [row for row in range(len(windows)) if windows.person[row] == client.people[0]]
        assert client.x.tobytes() == windows.x[rows].tobytes()
        assert client.y.tolist() == windows.y[rows].tolist()


@settings(max_examples=50)
@given(people_and_labels, st.floats(-1e3, 1e3), st.floats(1e-2, 1e3))
def test_statistics_agree_with_numpy(windows, offset, scale):
    x = (windows.x * scale + offset).astype(np.float32)
    moved = Windows(x, windows.y, windows.person, windows.meta)
    parts = [ChannelStatistics.of(client) for client in by_person(moved)]
    pooled = sum(parts[1:], start=parts[0])
    size = np.abs(x).max()
    np.testing.assert_allclose(pooled.mean, x.mean(axis=(0, 2), dtype=np.float64), atol=1e-10 * size)
    variance = x.var(axis=(0, 2), dtype=np.float64)
    np.testing.assert_allclose(pooled.std**2, variance, rtol=1e-6, atol=1e-10 * size**2)


def test_a_constant_channel_does_not_divide_by_zero():
    windows = make_windows([1, 1], [0, 0])
    windows.x[:, 0] = 7.1
    assert ChannelStatistics.of(windows).std[0] == SMALLEST_STD
    windows.x[:, 0] = 0
    assert ChannelStatistics.of(windows).std[0] == SMALLEST_STD


def test_statistics_that_cannot_be_are_refused():
    some = ChannelStatistics.of(make_windows([1], [0]))
    with pytest.raises(UserError, match="of 2 and of 3 channels"):
        some + ChannelStatistics(1, np.zeros(3), np.zeros(3))
    with pytest.raises(UserError, match="no windows"):
        _ = ChannelStatistics.of(make_windows([1], [0])[:0]).mean


# --- command line ------------------------------------------------------------------------------------------


def run_module(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shared.data", *arguments],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "100"} | environment,
        capture_output=True,
        text=True,
    )


def test_info_counts_the_windows_of_people_and_classes():
    result = run_module("info", "watch")
    assert result.returncode == 0, result.stderr
    train, _ = load(settings_of("watch"))
    counts = [int(((train.person == "3") & (train.y == k)).sum()) for k in range(7)]
    assert ["train", "3", *map(str, counts), str(sum(counts)), "0"] in [
        line.split() for line in result.stdout.splitlines()
    ]
    assert "50 Hz (2.56 s)" in result.stdout
    assert "rad/s" in result.stdout


def test_info_lists_many_classes_below_each_other_and_says_how_to_cite(dsads_zip):
    result = run_module("info", "dsads", "--path", str(dsads_zip))
    assert result.returncode == 0, result.stderr
    train, test = load(settings_of("dsads", dsads_zip))
    lines = [line.split() for line in result.stdout.splitlines()]
    for label, name in enumerate(train.meta.classes):
        assert [name, *(str(int((part.y == label).sum())) for part in (train, test))] in lines
    assert ["train", "3", str(len(train.of(["3"]))), "0"] in lines
    assert "Altun" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "uci_har", "--path", "nowhere.zip"), "no such file or folder: nowhere.zip"),
        (("info", "uci_har"), "python -m shared.data download uci_har"),
        (("info", "folder"), "set data.path"),
        (("info", "wach"), "did you mean 'watch'?"),
        (("info", "watch", "--holdout", "9"), "unknown people ['9']"),
        (("download", "uci_har", "--url", "ftp://example.org/x.zip"), "expected an http or https address"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments, message, tmp_path):
    result = run_module(*arguments, FEDHAR_CACHE=str(tmp_path), FEDHAR_UCI_HAR="")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_commands():
    result = run_module("--help")
    assert result.returncode == 0
    assert "info" in result.stdout
    assert "download" in result.stdout
