"""Large arrays lie in files, and nothing else changes: the same values, the same training, far less memory."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings as make
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared import large
from shared.config import DEFAULTS, Config, load_config
from shared.data import folder, load, training_people
from shared.data.__main__ import main
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Meta, Windows
from shared.errors import UserError
from shared.large import Stack, blocks, concatenate, finite_rows, let_go, mapping_of, take_rows
from shared.model import prepare
from shared.train import Training


@contextmanager
def everything_is_large(block: int = 5000) -> Iterator[None]:
    """Inside, all arrays are large, and are read in many blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LARGE", 1)
        patch.setattr(large, "BLOCK", block)
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("FEDHAR_CACHE", str(cache))
        yield cache
        assert list(cache.iterdir()) == [], "a file without a name leaves nothing behind"


PARTS = st.lists(st.integers(0, 40), max_size=5)


@given(counts=PARTS, large_from=st.integers(1, 4000), block=st.integers(1, 500), seed=st.integers(0, 9), data=st.data())
def test_what_lies_in_a_file_is_what_would_be_in_memory(
    counts: list[int], large_from: int, block: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(count, 2, 3)).astype(np.float32) for count in counts]
    expected = np.concatenate([np.zeros((0, 2, 3), np.float32), *parts])
    expected[rng.random(len(expected)) < 0.1, 1, 2] = np.inf
    parts = np.split(expected, np.cumsum(counts)[:-1]) if counts else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LARGE", large_from)
        patch.setattr(large, "BLOCK", block)
        made = concatenate(parts, (2, 3), np.float32)
        assert (mapping_of(made) is not None) == (made.nbytes >= large_from)
        assert made.dtype == np.float32 and made.tobytes() == expected.tobytes()
        assert np.concatenate([expected[:0], *blocks(made)]).tobytes() == expected.tobytes()
        assert finite_rows(made).tolist() == np.isfinite(expected).all(axis=(1, 2)).tolist()
        row = st.integers(-len(made), max(0, len(made) - 1))
        numbers = np.array(data.draw(st.lists(row) if len(made) else st.just([])), np.int64)
        first = data.draw(row)
        for rows in (
            numbers,
            np.isin(np.arange(len(made)), numbers),
            np.arange(first, len(made)),
            np.arange(-len(made), 0),
            slice(first, None),
        ):
            taken = take_rows(made, rows)
            assert taken.tobytes() == expected[rows].tobytes() and taken.shape == expected[rows].shape
        let_go(made)
        assert made.tobytes() == expected.tobytes()


def test_rows_that_follow_one_another_are_not_copied() -> None:
    with everything_is_large():
        made = concatenate([np.arange(60.0).reshape(20, 3)], (3,), np.float64)
        assert np.shares_memory(take_rows(made, np.arange(4, 9)), made)
        assert not np.shares_memory(take_rows(made, np.array([4, 6])), made)


@pytest.mark.parametrize("is_large", [True, False])
def test_numbers_are_converted_as_numpy_does(is_large: bool) -> None:
    values = np.random.default_rng(0).normal(size=(50, 3))
    with everything_is_large() if is_large else pytest.MonkeyPatch.context():
        stacked = Stack((3,), np.float32)
        for row in values:
            stacked.append(row[np.newaxis])
        assert np.array_equal(stacked.array(), values.astype(np.float32))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDHAR_CACHE", str(tmp_path / "file" / "cache"))
    with (
        everything_is_large(),
        pytest.raises(
            UserError, match=r"cannot keep a large array in .*file/cache: .*FEDHAR_CACHE names another folder"
        ),
    ):
        concatenate([np.zeros((2, 2))], (2,), np.float64)


@given(
    windows=st.integers(1, 60),
    samples=st.integers(1, 50),
    summed=st.integers(128, 700),
    scale=st.sampled_from([1.0, 1e-6, 1e5]),
    seed=st.integers(0, 99),
)
def test_sums_in_parts_are_those_of_all_values_at_once(
    windows: int, samples: int, summed: int, scale: float, seed: int
) -> None:
    """To the last bit: the parts are added as NumPy adds the parts of a long array."""
    x = (scale * np.random.default_rng(seed).normal(1, size=(windows, 2, samples))).astype(np.float32)
    meta = Meta("noise", folder.InputSpec(channels=("a", "b"), units=("g", "g"), size=(samples,), rate=50.0), ())
    of = Windows(x, np.full(windows, -1), np.full(windows, "1"), meta)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.data.statistics.SUMMED", summed)
        found = ChannelStatistics.of(of)
    for channel in range(2):
        values = x[:, channel].astype(np.float64).ravel()
        assert found.total[channel] == values.sum() and found.squares[channel] == np.square(values).sum()
    assert found.count == windows * samples


# --- folders, training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real people of the watch data, one of whom tests; two have a file of float64 and a compressed one."""
    path = tmp_path_factory.mktemp("people") / "watch"
    train, test = load(load_config(DEFAULTS, ["data.name=watch"]).data)
    few = train.of(train.people[:4])
    folder.write_folder(path, few, test.of(test.people[:1]))
    for person, save, dtype in (
        (few.people[1], np.savez, np.float64),
        (few.people[2], np.savez_compressed, np.float32),
    ):
        file = path / f"person_{person}.npz"
        arrays: dict[str, Any] = dict(np.load(file))
        save(file, **arrays | {"x": arrays["x"].astype(dtype)})
    return path


def configure(written: Path, *more: str) -> Config:
    return load_config(
        DEFAULTS, ["data.name=folder", f"data.path={written}", "encoder.width=8", "train.device=cpu", *more]
    )


def same(first: Windows, second: Windows) -> bool:
    fields = ((first.x, second.x), (first.y, second.y), (first.person, second.person))
    return all(one.shape == other.shape and one.tolist() == other.tolist() for one, other in fields)


def test_a_folder_is_the_same_in_memory_and_in_files(written: Path) -> None:
    expected = folder.load(written)
    with everything_is_large():
        found = folder.load(written)
        assert all(mapping_of(part.x) is not None for part in found)
        files = folder.PersonFiles(written)
        places = {person: mapping_of(files.read(person).x) is not None for person in files.people}
    assert all(same(one, other) for one, other in zip(expected, found, strict=True))
    compressed = expected[0].people[2]
    assert places == {person: person != compressed for person in files.people}


def test_a_file_is_the_one_that_numpy_writes(written: Path, tmp_path: Path) -> None:
    person = folder.PersonFiles(written).read(folder.PersonFiles(written).people[0])
    for is_large in (False, True):
        path = tmp_path / f"{is_large}"
        with everything_is_large() if is_large else pytest.MonkeyPatch.context():
            folder.write_folder(path, person, person[:0])
        np.savez(tmp_path / "numpy.npz", x=person.x, y=person.y)
        (file,) = path.glob("*.npz")
        assert file.read_bytes() == (tmp_path / "numpy.npz").read_bytes()


@pytest.mark.parametrize("bad", ["bit", "header", "end"])
def test_a_damaged_large_file_is_refused(written: Path, tmp_path: Path, bad: str) -> None:
    (tmp_path / "dataset.json").write_text(
        json.dumps(json.loads((written / "dataset.json").read_text()) | {"test_people": []})
    )
    source = written / f"person_{folder.PersonFiles(written).people[0]}.npz"
    content = bytearray(source.read_bytes())
    if bad == "bit":
        content[len(content) // 2] ^= 1
    elif bad == "end":
        del content[-1000:]
    file = tmp_path / source.name
    file.write_bytes(content)
    if bad == "header":
        arrays = dict(np.load(source))
        with zipfile.ZipFile(file, "w") as archive, archive.open("x.npy", "w") as member:
            shape = (len(arrays["x"]) + 1, *arrays["x"].shape[1:])
            np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": shape})
            member.write(arrays["x"].tobytes())
    with everything_is_large(), pytest.raises(UserError, match=r"person_.*\.npz: expected an npz file of plain arrays"):
        folder.load(tmp_path)


@pytest.mark.parametrize("block", [3000, 10**6])
def test_recordings_are_imported_into_files_as_into_memory(tmp_path: Path, block: int) -> None:
    """People take turns in the order of the files, have labels and gaps, and one of them tests."""
    for number, person in enumerate(("ben", "anna", "ben", "carl")):
        x = make.recording(number, 3000)
        time = make.RATE**-1 * np.arange(len(x)) + np.where(np.arange(len(x)) < 1200, 0, 2.0)
        label = np.where(np.arange(len(x)) // 500 % 2 == 0, "rest", "move").tolist()
        make.write(tmp_path / "in" / f"{number}_{person}.csv", make.text(make.columns(x, time) | {"label": label}))
    recipe = make.write_recipe(tmp_path, path=r"_(?P<person>\w+)\.csv", label_column="label", test_people=["ben"])

    def imported(out: Path) -> tuple[Windows, Windows]:
        main(["import", str(tmp_path / "in"), "--recipe", str(recipe), "--out", str(out)])
        return folder.load(out)

    expected = imported(tmp_path / "memory")
    with everything_is_large(block):
        found = imported(tmp_path / "files")
    assert [part.people for part in expected] == [["anna", "carl"], ["ben"]] and len(expected[1]) > 40
    assert all(same(one, other) for one, other in zip(expected, found, strict=True))
    assert set(expected[0].y.tolist()) == {0, 1}
    for file in (tmp_path / "memory").iterdir():
        assert (tmp_path / "files" / file.name).read_bytes() == file.read_bytes(), file.name


WAYS = {
    "all": [],
    "few": ["train.windows_per_epoch=50"],
    "movement": ["train.windows_per_epoch=50", "train.sampling=movement"],
    "codes": ["tasks.codes.enabled=true", "tasks.codes.refresh=1", "tasks.codes.clusters=8"],
    "channels": ["data.channels=[gyro_x, gyro_y, gyro_z, total_acc_z]"],
}


@pytest.mark.numerics
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", ["federated", "centralized"])
def test_a_person_in_a_file_trains_to_the_same_bits_as_in_memory(written: Path, way: str, place: str) -> None:
    config = configure(written, *WAYS[way])

    def train() -> dict[str, torch.Tensor]:
        windows = training_people(config.data)[0] if place == "federated" else load(config.data)[0]
        data = prepare(config, windows)
        assert (mapping_of(windows.x) is not None) == isinstance(data.x, np.ndarray) == large.is_large(2)
        assert isinstance(data.extras["features"], np.ndarray) == large.is_large(2)
        training = Training(config, data, ChannelStatistics.of(windows), batch_size=32, total_epochs=2)
        losses = torch.tensor([log.loss for log in training.run(range(2))])
        return training.state() | {"losses": losses}

    expected = train()
    with everything_is_large(200_000):
        found = train()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


TRAIN = """
import resource, sys
from pathlib import Path
from shared.config import DEFAULTS, load_config
from shared.data import training_people
from shared.data.statistics import ChannelStatistics
from shared.model import prepare
from shared.train import Training
off = [f"tasks.{name}.enabled=false" for name in ("features", "transformation", "reconstruction")]
settings = ["data.name=folder", f"data.path={sys.argv[1]}", "encoder.width=8", "train.windows_per_epoch=512"]
config = load_config(DEFAULTS, [*settings, "train.sampling=movement", "train.device=cpu", *off])
windows = training_people(config.data)[0]
training = Training.federated(config, prepare(config, windows), ChannelStatistics.of(windows))
print([log.windows for log in training.run(range(3))], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_windows_of_a_person(written: Path, tmp_path: Path) -> None:
    files = folder.PersonFiles(written)
    person = files.read(files.people[0])
    copies = -(-large.LARGE * 3 // person.x.nbytes)
    noise = np.random.default_rng(0)

    def repeated() -> Iterator[NDArray[np.float32]]:
        for _ in range(copies):
            yield person.x * noise.normal(1, 0.02, (1, person.x.shape[1], 1)).astype(np.float32)

    x = large.stack(repeated(), person.x.shape[1:], np.float32)
    many = Windows(x, np.tile(person.y, copies), np.tile(person.person, copies), person.meta)
    memory = {}
    for name, windows in (("one", person), ("many", many)):
        folder.write_folder(tmp_path / name, windows, windows[:0])
        done = subprocess.run(
            [sys.executable, "-c", TRAIN, str(tmp_path / name)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        trained, _, kilobytes = done.stdout.strip().rpartition(" ")
        memory[name] = int(kilobytes) * (1 if sys.platform == "darwin" else 1024)
        assert trained == str([min(512, len(windows))] * 3)
    assert many.x.nbytes >= 3 * large.LARGE
    assert memory["many"] - memory["one"] < many.x.nbytes / 3


STANDARDISE = """
import resource, sys
import numpy as np
from shared.large import stack
from shared.tasks.features import standardise_by_person
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
noise = np.random.default_rng(0)
features = stack((noise.normal(1, 1, (4096, 300)).astype(np.float32) for _ in range(80)), (300,), np.float32)
standardised = standardise_by_person(features, np.full(len(features), "1"))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert abs(standardised[:4096].mean()) < 0.01 and abs(standardised[-4096:].std() - 1) < 0.01
print(features.nbytes, after - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_features_of_a_person() -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STANDARDISE], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    size, more = map(int, done.stdout.split())
    assert size >= 2.9 * large.LARGE
    assert more * (1 if sys.platform == "darwin" else 1024) < 2 * large.LARGE
