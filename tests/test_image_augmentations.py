"""What each transformation of images keeps, against computations of single images."""

import colorsys
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from shared import image_augmentations
from shared.augmentations import compose
from shared.data.spec import InputSpec
from shared.errors import UserError
from shared.image_augmentations import BLURRED, ERASED_AREA, IMAGE_TRANSFORMS, crop
from shared.transforms import transforms_of

pytestmark = pytest.mark.numerics

seeds = st.integers(0, 2**31)
SPEC = InputSpec(channels=("red", "green", "blue"), units=("1/255",) * 3, size=(16, 16))
every_transform = pytest.mark.parametrize("name", IMAGE_TRANSFORMS)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(n: int = 8, size: tuple[int, int] = (16, 16), seed: int = 0) -> Tensor:
    return torch.rand(n, 3, *size, generator=generator(seed)) * 255


def always(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_augmentations, name, 1.0)


@every_transform
@pytest.mark.parametrize("size", [(16, 16), (12, 20), (1, 1)])
def test_a_batch_is_changed_and_its_input_is_not(name: str, size: tuple[int, int]) -> None:
    if name in ("turn_90", "turn_270") and size[0] != size[1]:
        with pytest.raises(UserError, match="expected square images to turn by a quarter, found 12 x 20 pixels"):
            IMAGE_TRANSFORMS[name](images(size=size), generator(), SPEC)
        return
    x = images(64, size)
    before = x.clone()
    changed = IMAGE_TRANSFORMS[name](x, generator(1), SPEC)
    assert torch.equal(x, before) and changed.shape == x.shape and changed.dtype == x.dtype
    assert changed.min() >= -1e-3 and changed.max() <= 255 + 1e-3
    assert torch.equal(changed, IMAGE_TRANSFORMS[name](x, generator(1), SPEC))
    if size != (1, 1):
        assert not torch.equal(changed, x)
        rows = (changed != x).flatten(1).any(dim=1)
        assert rows.float().mean() > 0.1


@every_transform
def test_each_image_is_changed_in_its_own_way(name: str) -> None:
    """Copies of one image come out different, but for what is not random; a constant image keeps its colour."""
    changed = IMAGE_TRANSFORMS[name](images(1).expand(64, -1, -1, -1), generator(), SPEC)
    different = len(torch.unique(changed.flatten(1), dim=0))
    expected = {"flip": 2, "grey": 2, "turn_90": 1, "turn_180": 1, "turn_270": 1}
    assert different == expected[name] if name in expected else different > 16
    if name not in ("colour_jitter", "grey"):
        plain = torch.tensor([10.0, 100.0, 200.0]).view(1, 3, 1, 1).expand(8, -1, 16, 16)
        torch.testing.assert_close(IMAGE_TRANSFORMS[name](plain, generator(), SPEC), plain)


@given(st.floats(0.05, 1.0), seeds)
def test_a_crop_is_a_part_of_the_image_of_the_share_asked_for(share: float, seed: int) -> None:
    """In an image whose values tell the place, the values tell which part is shown."""
    side = 32
    place = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    x = torch.stack([place[:, None].expand(side, side), place.expand(side, side), torch.zeros(side, side)])
    y, z, _ = crop(x.expand(16, -1, -1, -1), generator(seed), (share, share)).unbind(1)
    inside = slice(side // 4, 3 * side // 4)  # at the border of the image its last pixel goes on
    height, width = (
        (values[:, -1] - values[:, 0]) / (side // 2 - 1) * side
        for values in (y[:, inside, side // 2], z[:, side // 2, inside])
    )
    assert (height <= 1 + 1e-4).all() and (width <= 1 + 1e-4).all()
    whole = (height > 1 - 1e-4) | (width > 1 - 1e-4)
    torch.testing.assert_close((height * width)[~whole], torch.full_like(height[~whole], share), rtol=1e-3, atol=1e-3)
    assert ((height / width).log().abs() <= math.log(4 / 3) + 1e-3).logical_or(whole).all()
    for values in (y, z):
        assert values.min() >= 0.5 / side - 1e-6 and values.max() <= 1 - 0.5 / side + 1e-6


def test_the_whole_image_is_a_crop_that_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_augmentations, "CROP_LOG_ASPECT", (0.0, 0.0))
    x = images(size=(12, 20))
    torch.testing.assert_close(crop(x, generator(), (1.0, 1.0)), x, rtol=1e-4, atol=1e-3)


def test_quarter_turns_go_round() -> None:
    x = images()
    turned = IMAGE_TRANSFORMS["turn_90"](x, generator(), SPEC)
    assert torch.equal(turned[:, :, -1, 0], x[:, :, 0, 0]), "the top left is now at the bottom left"
    assert torch.equal(IMAGE_TRANSFORMS["turn_90"](turned, generator(), SPEC), x.flip(2, 3))
    assert torch.equal(IMAGE_TRANSFORMS["turn_180"](x, generator(), SPEC), x.flip(2, 3))
    assert torch.equal(IMAGE_TRANSFORMS["turn_270"](turned, generator(), SPEC), x)


def test_flip_mirrors_half_of_the_images() -> None:
    x = images(2000, (2, 3))
    flipped = IMAGE_TRANSFORMS["flip"](x, generator(), SPEC)
    mirrored = (flipped == x.flip(3)).flatten(1).all(dim=1)
    assert ((flipped == x).flatten(1).all(dim=1) != mirrored).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_grey_keeps_the_brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    always("GREYED", monkeypatch)
    x = images()
    grey = IMAGE_TRANSFORMS["grey"](x, generator(), SPEC)
    expected = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    for channel in range(3):
        torch.testing.assert_close(grey[:, channel], expected)


@pytest.mark.parametrize("only", ["brightness", "contrast", "saturation"])
def test_colour_jitter_is_that_of_each_image_by_itself(only: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fixed factor, against the definitions of torchvision's documentation; the hue stays."""
    always("JITTERED", monkeypatch)
    monkeypatch.setattr(image_augmentations, "HUE_TURN", 0.0)
    x = images() / 2 + 60
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    luma = (x * weights).sum(dim=1, keepdim=True)
    towards = {
        "brightness": torch.zeros_like(x),
        "contrast": luma.mean(dim=(2, 3), keepdim=True),
        "saturation": luma,
    }[only]

    def factors(x: Tensor, generator: Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        if shape[0] != 3:
            return torch.zeros(shape)
        drawn = torch.ones(shape)
        drawn[["brightness", "contrast", "saturation"].index(only)] = 0.7
        return drawn

    monkeypatch.setattr(image_augmentations, "_uniform", factors)
    jittered = IMAGE_TRANSFORMS["colour_jitter"](x, generator(), SPEC)
    torch.testing.assert_close(jittered, 0.7 * x + 0.3 * towards, rtol=1e-4, atol=1e-2)


def test_a_turned_hue_keeps_the_brightness_and_turns_colours_round(monkeypatch: pytest.MonkeyPatch) -> None:
    always("JITTERED", monkeypatch)
    monkeypatch.setattr(image_augmentations, "STRENGTH", (1.0, 1.0))
    x = torch.full((64, 3, 2, 2), 110.0)
    x[:, 0] += 25  # a pale red: the circle of its hues is inside of all colours
    jittered = IMAGE_TRANSFORMS["colour_jitter"](x, generator(), SPEC)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close((jittered * weights).sum(dim=1), (x * weights).sum(dim=1), rtol=1e-3, atol=1e-1)
    hues = torch.tensor([colorsys.rgb_to_hsv(*(pixel / 255).tolist())[0] for pixel in jittered[:, :, 0, 0]])
    hues = (hues + 0.5) % 1 - 0.5
    assert hues.min() < -0.06 and hues.max() > 0.06 and hues.abs().max() < 0.16


def test_blur_is_a_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one bright pixel, it makes a Gaussian of the drawn width; of a narrow one, nearly the pixel itself."""
    always("BLURRED", monkeypatch)
    monkeypatch.setattr(image_augmentations, "BLUR", (1.5, 1.5))
    side = 96
    x = torch.zeros(1, 3, side, side)
    x[:, :, 48, 40] = 255.0
    blurred = IMAGE_TRANSFORMS["blur"](x, generator(), SPEC)
    place = torch.arange(side, dtype=torch.float32)
    profile = torch.exp(-(((place - 48) / 1.5) ** 2) / 2), torch.exp(-(((place - 40) / 1.5) ** 2) / 2)
    expected = 255 * torch.outer(profile[0] / profile[0].sum(), profile[1] / profile[1].sum())
    torch.testing.assert_close(blurred[0, 0], expected, rtol=1e-2, atol=5e-2)


def test_as_many_are_blurred_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_augmentations, "BLUR", (3.0, 6.0))
    x = images(1000, (16, 16))
    changed = (IMAGE_TRANSFORMS["blur"](x, generator(), SPEC) != x).flatten(1).any(dim=1).float().mean()
    assert abs(changed - BLURRED) < 0.1


def test_erase_hides_a_rectangle_and_keeps_the_rest() -> None:
    x = images(200, (32, 32))
    erased = IMAGE_TRANSFORMS["erase"](x, generator(), SPEC)
    for before, after in zip(x, erased, strict=True):
        hidden = (before != after).all(dim=0)
        rows, columns = hidden.any(dim=1), hidden.any(dim=0)
        assert torch.equal(hidden, rows[:, None] & columns), "a rectangle"
        assert 0 < hidden.float().mean() <= 1.2 * ERASED_AREA[1]
        assert torch.equal(after[:, ~hidden], before[:, ~hidden])
        torch.testing.assert_close(after[:, hidden].mean(dim=1), before.mean(dim=(1, 2)))


@pytest.mark.parametrize("name", ["colour_jitter", "grey"])
def test_colours_are_those_of_three_channels(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' needs red, green and blue, found 1 channels"):
        IMAGE_TRANSFORMS[name](images()[:, :1], generator(), SPEC)


def test_an_augmentation_of_sensors_is_none_of_images() -> None:
    with pytest.raises(UserError, match="unknown augmentation 'tilt'; expected one of: resize_crop, flip"):
        compose(["flip", "tilt"], transforms_of(SPEC))
    windows = InputSpec(channels=("x",), units=("g",), size=(64,), rate=50.0)
    with pytest.raises(UserError, match=r"unknown augmentation 'flip'.*expected one of: jitter"):
        compose(["flip"], transforms_of(windows))
