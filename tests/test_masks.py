"""What masks hide, how much of it, and what an encoder makes of it."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from shared.augmentations import Channels
from shared.data.spec import InputSpec
from shared.errors import UserError
from shared.masks import Masks, MaskSettings, fill, mask_patches, of_samples, stretches, visible_positions

pytestmark = pytest.mark.numerics

seeds = st.integers(0, 2**31)
KINDS = ("tube", "span", "block", "random", "sensor")


def channels_of(kinds: tuple[str, ...]) -> Channels:
    names = tuple(f"{kind}_{axis}" for kind in kinds for axis in "xyz")
    spec = InputSpec(channels=names, units=("g",) * len(names), size=(128,), rate=50.0)
    return Channels(spec, torch.ones(len(names)))


PHONE = channels_of(("total_acc", "body_acc", "gyro"))


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance)


def runs(row: Tensor) -> list[int]:
    """The lengths of the stretches that are hidden."""
    text = "".join("x" if hidden else " " for hidden in row.tolist())
    return [len(stretch) for stretch in text.split()]


@given(st.sampled_from(KINDS), st.integers(1, 6), st.integers(2, 40), st.floats(0.01, 0.99), st.integers(1, 50), seeds)
def test_a_mask_hides_the_share_it_is_told_to(
    kind: str, n: int, positions: int, ratio: float, span: int, seed: int
) -> None:
    settings = MaskSettings(kind=kind, ratio=ratio, span=span)
    mask = Masks(settings, PHONE, (positions,)).draw(n, generator(seed))
    assert mask.dtype == torch.bool and mask.shape == (n, 9, positions)
    assert torch.equal(mask, Masks(settings, PHONE, (positions,)).draw(n, generator(seed)))
    assert torch.equal(mask[:, :3], mask[:, 3:6]), "total and body acceleration are one sensor"
    parts = 2 if kind == "sensor" else positions
    expected = min(max(round(ratio * parts), 1), parts - 1)
    shown = mask[:, [0, 6], 0] if kind == "sensor" else mask[:, 0]
    assert (shown.sum(dim=1) == expected).all()
    if kind == "sensor":
        assert (mask.all(dim=2) == mask.any(dim=2)).all()
    if settings.whole_positions:
        assert (mask.all(dim=1) == mask.any(dim=1)).all()
        keep = visible_positions(mask)
        assert keep.shape == (n, positions - expected)
        assert not mask[:, 0].gather(1, keep).any()
        assert (keep.diff(dim=1) > 0).all()
    if kind == "block":
        assert all(runs(row) == [expected] for row in mask[:, 0])


def test_spans_hide_whole_stretches() -> None:
    mask = Masks(MaskSettings(kind="span", ratio=0.5, span=4), PHONE, (32,)).draw(400, generator())[:, 0]
    inner = [length for row in mask for length in runs(row)]
    # At either end of a window a stretch may be cut, and so may the last one.
    assert sum(length % 4 == 0 for length in inner) > 0.6 * len(inner)
    assert close(mask.float().mean(dim=0), torch.full((32,), 0.5), 0.1)


def test_random_masks_hide_sensors_at_different_times() -> None:
    mask = Masks(MaskSettings(kind="random", ratio=0.5, span=1), PHONE, (32,)).draw(100, generator())
    assert (mask[:, 0] != mask[:, 6]).any(dim=1).all()


def test_a_single_sensor_cannot_be_hidden() -> None:
    gyro = channels_of(("gyro",))
    with pytest.raises(UserError, match=r"'sensor' need at least 2 sensors in a window, found 1"):
        Masks(MaskSettings(kind="sensor", ratio=0.5, span=1), gyro, (16,))
    Masks(MaskSettings(kind="sensor", ratio=0.5, span=1), PHONE, (16,))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 30), seeds)
def test_fill_puts_the_mean_of_what_stays(n: int, channels: int, samples: int, seed: int) -> None:
    x = torch.randn(n, channels, samples, generator=generator(seed), dtype=torch.float64)
    mask = torch.rand(n, channels, samples, generator=generator(seed + 1)) < 0.5
    otherwise = torch.arange(channels, dtype=torch.float64)[:, None]
    filled = fill(x, mask, otherwise)
    for window in range(n):
        for channel in range(channels):
            stays = x[window, channel][~mask[window, channel]]
            mean = stays.mean() if len(stays) else otherwise[channel, 0]
            expected = torch.where(mask[window, channel], mean, x[window, channel])
            assert torch.allclose(filled[window, channel], expected)


@given(
    st.integers(1, 6),
    st.integers(2, 140),
    st.integers(1, 150),
    st.floats(0.01, 0.99),
    seeds,
)
def test_mask_patches(n: int, samples: int, patch: int, ratio: float, seed: int) -> None:
    mask = mask_patches((n, samples), patch, ratio, generator(seed))
    assert mask.dtype == torch.bool and mask.shape == (n, samples)
    assert mask.any(1).all() and not mask.all(1).any()
    assert torch.equal(mask, mask_patches((n, samples), patch, ratio, generator(seed)))
    size = min(patch, math.ceil(samples / 2))
    starts = range(0, samples, size)
    patches = torch.stack([mask[:, s : s + size].float().mean(1) for s in starts], 1)
    assert set(patches.unique().tolist()) == {0.0, 1.0}, "a patch is hidden as a whole or not at all"
    hidden = min(max(round(ratio * len(starts)), 1), len(starts) - 1)
    assert (patches.sum(1) == hidden).all()


def test_mask_patches_hides_each_patch_equally_often() -> None:
    mask = mask_patches((4000, 128), 8, 0.5, generator())
    assert close(mask.float().mean(0), torch.full((128,), 0.5), 0.04)
    assert len({tuple(row) for row in mask[:100].tolist()}) > 90


@pytest.mark.parametrize(("samples", "patch", "ratio"), [(1, 8, 0.5), (64, 0, 0.5), (64, 8, 0.0), (64, 8, 1.0)])
def test_mask_patches_refuses_the_impossible(samples: int, patch: int, ratio: float) -> None:
    with pytest.raises(UserError, match=f"found ratio {ratio}, patch {patch}, {samples} samples"):
        mask_patches((2, samples), patch, ratio, generator())


SIDES = st.integers(2, 9)


@given(st.integers(1, 5), SIDES, SIDES, st.floats(0.01, 0.99), seeds)
def test_a_region_of_an_image_is_a_rectangle_but_for_its_last_row_or_column(
    n: int, height: int, width: int, ratio: float, seed: int
) -> None:
    settings = MaskSettings(kind="block", ratio=ratio, span=1)
    mask = Masks(settings, PHONE, (height, width)).draw(n, generator(seed))
    assert torch.equal(mask, mask[:, :1].expand(-1, 9, -1))
    expected = min(max(round(ratio * height * width), 1), height * width - 1)
    for region in mask[:, 0].view(n, height, width):
        assert region.sum() == expected
        rows, columns = region.any(dim=1).nonzero().flatten(), region.any(dim=0).nonzero().flatten()
        box = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.numel() - expected < max(box.shape)
        assert (~box).any(dim=1).sum() <= 1 or (~box).any(dim=0).sum() <= 1, "what is missing is of one row or column"


def test_regions_are_anywhere_in_an_image_and_of_any_aspect() -> None:
    mask = stretches((4000,), 12, (8, 8), generator()).view(-1, 8, 8).float()
    assert mask.mean(dim=0).amin() > 0.05
    tall = mask.amax(dim=2).sum(dim=1) > mask.amax(dim=1).sum(dim=1)
    wide = mask.amax(dim=2).sum(dim=1) < mask.amax(dim=1).sum(dim=1)
    assert 0.3 < tall.float().mean() < 0.6 and 0.3 < wide.float().mean() < 0.6


@given(SIDES, SIDES, st.integers(1, 4), st.floats(0.01, 0.99), seeds)
def test_the_pixels_of_masked_patches_are_hidden(height: int, width: int, patch: int, ratio: float, seed: int) -> None:
    mask = mask_patches((3, height, width), patch, ratio, generator(seed))
    assert mask.shape == (3, height, width) and mask.dtype == torch.bool
    assert mask.flatten(1).any(dim=1).all() and not mask.flatten(1).all(dim=1).any()
    side = min(patch, (max(height, width) + 1) // 2)
    positions = mask[:, ::side, ::side]
    assert torch.equal(of_samples(positions.flatten(1)[:, None], side, (height, width))[:, 0], mask)
    for y, x in product(range(height), range(width)):
        assert torch.equal(mask[:, y, x], positions[:, y // side, x // side])


def test_hidden_pixels_get_the_mean_of_the_others() -> None:
    x = torch.randn(2, 3, 4, 5, generator=generator())
    mask = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    mask[0, :, 1:3, 1:] = True
    mask[1] = True
    filled = fill(x, mask, torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
    for channel in range(3):
        kept = x[0, channel][~mask[0, 0]]
        torch.testing.assert_close(filled[0, channel][mask[0, 0]], kept.mean().expand(8))
        assert torch.equal(filled[0, channel][~mask[0, 0]], kept)
        assert (filled[1, channel] == channel + 1).all()


def test_images_have_no_stretches_of_time() -> None:
    with pytest.raises(UserError, match="'span' hide stretches of time, which images do not have: use tube or block"):
        Masks(MaskSettings(kind="span", ratio=0.5, span=2), PHONE, (4, 4))
