"""Snapshots and saved encoders: whole or not at all, and never by pickle."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shared.checkpoint import (
    CARD_VERSION,
    EncoderCard,
    Snapshot,
    load_encoder,
    load_snapshot,
    pack_optimizer,
    save_encoder,
    save_snapshot,
    unpack_optimizer,
)
from shared.config import DEFAULTS, load_config
from shared.data import load
from shared.data.statistics import ChannelStatistics
from shared.errors import UserError
from shared.model import build_initial_encoder

CARDS = sorted((Path(__file__).parent / "cards").iterdir())
"""Encoders as the code of each time saved them, after one epoch on synthetic windows, and what they made of two."""


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"a": torch.full((2, 3), float(step)), "n": torch.tensor(step)}, {"step": step})


def steps_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_three_newest_snapshots_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save_snapshot(tmp_path, snapshot(step))
    assert steps_in(tmp_path) == [f"step-{step:06d}.safetensors" for step in (2, 3, 10)]
    newest, earlier = load_snapshot(tmp_path), load_snapshot(tmp_path, latest=9)
    assert newest is not None and newest.step == 10 and newest.meta == {"step": 10}
    assert torch.equal(newest.tensors["a"], torch.full((2, 3), 10.0))
    assert earlier is not None and earlier.step == 3


def test_a_snapshot_takes_the_place_of_a_future_that_was_given_up(tmp_path: Path) -> None:
    for step in (4, 5, 4):
        save_snapshot(tmp_path, snapshot(step))
    assert steps_in(tmp_path) == ["step-000004.safetensors"]


@pytest.mark.parametrize("damage", ["truncate", "empty", "header"])
def test_a_damaged_snapshot_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_snapshot(tmp_path, snapshot(1))
    save_snapshot(tmp_path, snapshot(2))
    path = tmp_path / "step-000002.safetensors"
    content = path.read_bytes()
    path.write_bytes({"truncate": content[:-5], "empty": b"", "header": b"\xff" * len(content)}[damage])
    found = load_snapshot(tmp_path)
    assert found is not None and found.step == 1
    assert "step-000002" in caplog.text


def test_no_snapshot_is_none(tmp_path: Path) -> None:
    assert load_snapshot(tmp_path / "missing") is None


def test_an_optimizer_goes_on_from_its_packed_state_as_if_nothing_had_happened() -> None:
    def build() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer, times: int) -> None:
        for i in range(times):
            optimizer.zero_grad()
            layer(torch.arange(6.0).view(2, 3) + i).square().sum().backward()
            optimizer.step()

    unbroken, optimizer = build()
    step(unbroken, optimizer, 3)
    first, first_optimizer = build()
    step(first, first_optimizer, 2)
    second, second_optimizer = build()
    second.load_state_dict(first.state_dict())
    unpack_optimizer(second_optimizer, {k: v.clone() for k, v in pack_optimizer(first_optimizer).items()})
    optimizer.zero_grad()
    for i in (2,):
        second_optimizer.zero_grad()
        second(torch.arange(6.0).view(2, 3) + i).square().sum().backward()
        second_optimizer.step()
    assert torch.equal(second.weight, unbroken.weight)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    config = load_config(DEFAULTS, ["data.name=synthetic", "encoder.width=8"])
    train, _ = load(config.data)
    encoder = build_initial_encoder(config, train.meta.spec)
    statistics = ChannelStatistics.of(train)
    encoder.standardise(statistics.mean, statistics.std)
    save_encoder(tmp_path, encoder, EncoderCard.describe(encoder, train.meta, statistics, config.digest("centralized")))
    return tmp_path


def test_a_saved_encoder_embeds_raw_windows_as_before(saved: Path) -> None:
    config = load_config(DEFAULTS, ["data.name=synthetic", "encoder.width=8"])
    train, _ = load(config.data)
    statistics = ChannelStatistics.of(train)
    original = build_initial_encoder(config, train.meta.spec).eval()
    original.standardise(statistics.mean, statistics.std)
    loaded, card = load_encoder(saved)
    x = torch.from_numpy(train.x[:5])
    assert torch.equal(loaded(x), original(x))
    assert card.spec == train.meta.spec
    assert card.fit(train) is train


def test_no_file_of_a_saved_encoder_is_a_pickle(saved: Path) -> None:
    for path in saved.iterdir():
        assert path.suffix in (".json", ".safetensors")
        assert path.read_bytes()[:1] != b"\x80"


def test_an_encoder_that_does_not_fit_names_both_sides(saved: Path) -> None:
    _, card = load_encoder(saved)
    watch, _ = load(load_config(DEFAULTS, ["data.channels=[total_acc_x,total_acc_y,total_acc_z]"]).data)
    with pytest.raises(
        UserError, match=r"does not fit the data set 'watch'.*'synthetic'.*missing channels: gyro_x, gyro_y"
    ):
        card.fit(watch)


def test_windows_of_another_data_set_are_brought_to_what_the_encoder_takes(saved: Path) -> None:
    encoder, card = load_encoder(saved)
    watch, _ = load(load_config(DEFAULTS).data)
    fitted = card.fit(watch[:3])
    assert torch.equal(encoder(torch.from_numpy(fitted.x)), encoder(torch.from_numpy(watch.x[:3, :, 32:96])))


@pytest.mark.parametrize("name", ["encoder.json", "encoder.safetensors"])
def test_a_missing_or_damaged_file_is_a_readable_error(saved: Path, name: str) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_encoder(saved)
    (saved / name).unlink()
    with pytest.raises(UserError, match=f"holds no encoder: expected {name}"):
        load_encoder(saved)


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_an_encoder_that_any_version_saved_embeds_as_it_did_then(folder: Path, tmp_path: Path) -> None:
    encoder, card = load_encoder(folder)
    then = load_file(folder / "embedded.safetensors")
    torch.testing.assert_close(encoder(then["windows"]), then["embeddings"], rtol=1e-4, atol=1e-5)
    save_encoder(tmp_path, encoder, card)
    again, same = load_encoder(tmp_path)
    assert same == card
    assert torch.equal(again(then["windows"]), encoder(then["windows"]))


def test_every_version_of_the_card_is_kept() -> None:
    kept = {json.loads((folder / "encoder.json").read_bytes()).get("version", 1) for folder in CARDS}
    assert kept == set(range(1, CARD_VERSION + 1))


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, rf"encoder.json has version 99, .* reads versions up to {CARD_VERSION}"),
        ({"version": 0}, "damaged"),
        ({"version": "2"}, "damaged"),
        ({"version": None}, "damaged"),
        ({"architecture": None}, "damaged"),
        ({"architecture": {}}, "damaged"),
        ({"architecture": {"name": "fcn", "width": 4, "norm": "batch", "pooling": "mean", "depth": 3}}, "depth"),
        ({"rate": "fast"}, "damaged"),
        ({"samples": 0}, "damaged"),
        ({"units": ["g"]}, "damaged"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_card_that_cannot_be_read_is_refused_in_words(
    folder: Path, change: dict[str, object], words: str, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    card = json.loads((folder / "encoder.json").read_bytes()) | change
    (tmp_path / "encoder.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=words):
        load_encoder(tmp_path)


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null", "{}", ""])
def test_what_is_no_card_is_refused_in_words(content: str, saved: Path) -> None:
    (saved / "encoder.json").write_text(content)
    with pytest.raises(UserError, match=r"encoder.json is damaged"):
        load_encoder(saved)
