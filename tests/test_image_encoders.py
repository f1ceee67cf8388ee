"""The conformance suite over every encoder of images, norm and pooling."""

import copy
import re
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from shared.data.spec import InputSpec
from shared.encoders import ENCODERS, IMAGE_ENCODERS, Encoder, EncoderSettings, View, build_encoder
from shared.errors import UserError
from tests.pretext import encoder_of
from tests.test_encoders import AUTOCAST_ERROR, relative_error

pytestmark = pytest.mark.numerics

EVERY = [
    encoder_of(name, 4, norm=norm, pooling=pooling, pooled_blocks=blocks, hidden=hidden)
    for name, norm, (pooling, blocks, hidden) in product(
        IMAGE_ENCODERS, ("batch", "group"), (("mean", "last", None), ("mean_max_std", "every", 6))
    )
]
every_setting = pytest.mark.parametrize(
    "settings", EVERY, ids=lambda s: f"{s.name}-{s.norm}-{s.pooling}-{s.pooled_blocks}-{s.hidden}"
)
every_encoder = pytest.mark.parametrize("name", IMAGE_ENCODERS)


def spec_of(channels: int, size: tuple[int, int]) -> InputSpec:
    return InputSpec(channels=tuple(f"c{n}" for n in range(channels)), units=("1/255",) * channels, size=size)


def build(settings: EncoderSettings, channels: int = 3, size: tuple[int, int] = (64, 64), seed: int = 0) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_encoder(settings, spec_of(channels, size))


def images(n: int, channels: int = 3, size: tuple[int, int] = (64, 64), seed: int = 0) -> Tensor:
    """Noise on a colour: images differ in their level per channel."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, 1, 1, generator=generator) + torch.randn(n, channels, *size, generator=generator)


def of(name: str, width: int = 4) -> EncoderSettings:
    return EVERY[0].model_copy(update={"name": name, "width": width})


@every_setting
@pytest.mark.parametrize(("channels", "size"), [(3, (64, 64)), (1, (67, 80))])
def test_any_batch_becomes_embeddings_and_tokens(
    settings: EncoderSettings, channels: int, size: tuple[int, int]
) -> None:
    encoder = build(settings, channels, size)
    for n, training in product((1, 3), (True, False)):
        encoded = encoder.train(training).encode(View(images(n, channels, size)))
        assert encoded.pooled.shape == (n, encoder.dim)
        assert encoded.tokens.shape == (n, encoder.layout.tokens, encoder.width)
        assert encoded.pooled.dtype == encoded.tokens.dtype == torch.float32
        assert encoded.pooled.isfinite().all()


@every_encoder
def test_what_is_pooled_is_pooled_over_the_tokens(name: str) -> None:
    encoder = build(of(name).model_copy(update={"pooling": "mean_max_std"})).eval()
    encoded = encoder.encode(View(images(3)))
    mean, maximum, std = encoded.pooled.double().chunk(3, dim=1)
    tokens = encoded.tokens.double()
    torch.testing.assert_close(mean, tokens.mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maximum, tokens.amax(dim=1))
    expected = (tokens.std(dim=1, correction=0).square() + 1e-5).sqrt()
    torch.testing.assert_close(std, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("resnet18", (64, 96), (2, 3)),
        ("resnet18_small", (32, 32), (4, 4)),
        ("vit", (32, 32), (8, 8)),
        ("vit", (96, 100), (8, 9)),
    ],
)
def test_a_token_is_a_patch_of_the_image(name: str, size: tuple[int, int], grid: tuple[int, int]) -> None:
    """What is changed in one corner of an image changes the tokens there the most, and of patches that one alone."""
    encoder = build(of(name), size=size).eval()
    assert encoder.layout.grid == grid
    x = images(1, size=size)
    changed = x.clone()
    changed[:, :, -1, -1] += 1
    patches = encoder.layout.patches(changed) != encoder.layout.patches(x)
    assert patches.any(dim=2).flatten().tolist() == [False] * (encoder.layout.tokens - 1) + [True]
    assert encoder.layout.patches(x).shape == (1, encoder.layout.tokens, encoder.layout.values)
    moved = (encoder.encode(View(changed)).tokens - encoder.encode(View(x)).tokens).norm(dim=2)
    assert int(moved.argmax()) == encoder.layout.tokens - 1


@every_setting
@pytest.mark.parametrize("n", [1, 4])
def test_every_parameter_learns(settings: EncoderSettings, n: int) -> None:
    encoder = build(settings)
    encoder(images(n)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    if n > 1:
        assert all(bool((p.grad != 0).any()) for name, p in encoder.named_parameters() if not name.endswith("bias"))


@every_setting
def test_an_image_alone_is_encoded_as_in_its_batch(settings: EncoderSettings) -> None:
    encoder = build(settings)
    encoder(images(8, seed=1))
    encoder.eval()
    x = images(3)
    with torch.no_grad():
        together, alone = encoder(x), torch.cat([encoder(row[None]) for row in x])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


@every_setting
def test_bytes_are_standardised_inside(settings: EncoderSettings) -> None:
    encoder = build(settings).eval()
    plain = copy.deepcopy(encoder)
    encoder.standardise([100.0, 120.0, 140.0], [50.0, 60.0, 70.0])
    x = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    mean, std = torch.tensor([100.0, 120.0, 140.0]), torch.tensor([50.0, 60.0, 70.0])
    expected = plain((x.float() - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(encoder(x), expected, rtol=1e-4, atol=1e-4)


@every_encoder
def test_a_masked_patch_does_not_show(name: str) -> None:
    encoder = build(of(name)).eval()
    x = images(2)
    mask = torch.zeros(2, 1, encoder.layout.tokens, dtype=torch.bool)
    mask[:, :, 0] = True
    other, side = x.clone(), encoder.layout.stride
    other[:, :, :side, :side] += 5
    mask = mask.expand(-1, 3, -1)
    blank = torch.zeros(encoder.width, 1) if encoder.takes_tokens else None
    first, second = (encoder.encode(View(part, mask=mask), blank) for part in (x, other))
    assert torch.equal(first.tokens, second.tokens)
    assert not torch.equal(first.tokens, encoder.encode(View(x)).tokens)


def test_a_vit_leaves_out_what_is_not_kept() -> None:
    encoder = build(of("vit")).eval()
    x = images(2)
    keep = torch.tensor([[0, 5, 9], [1, 2, 63]])
    other = x.clone()
    other[0, :, 8:16, :8] += 5  # patch 8 of the first image
    first, second = (encoder.encode(View(part, keep=keep)) for part in (x, other))
    assert first.tokens.shape == (2, 3, encoder.width)
    assert torch.equal(first.tokens, second.tokens)
    every = torch.arange(64).expand(2, -1)
    torch.testing.assert_close(encoder.encode(View(x, keep=every)).pooled, encoder(x))
    with pytest.raises(ValueError, match="made of tokens"):
        build(of("resnet18")).encode(View(x, keep=keep))


@every_setting
def test_autocast_gives_float32_embeddings_close_to_full_precision(settings: EncoderSettings) -> None:
    encoder = build(settings)
    x = images(4)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(x)
    assert half.dtype == torch.float32
    units = settings.hidden or 0
    pooled = slice(encoder.dim - units)
    assert 0 < relative_error(half[:, pooled], encoder(x)[:, pooled]) < 2 * AUTOCAST_ERROR


@every_encoder
def test_group_norm_replaces_every_batch_norm_and_the_seed_decides_the_weights(name: str) -> None:
    group = build(of(name).model_copy(update={"norm": "group"}))
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in group.modules())
    first, again, other = (build(of(name), seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_encoder
def test_images_that_are_too_small_or_of_another_size_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}.*expected sides of at least \d+ pixels, found 1") as refusal:
        build(of(name), size=(64, 1))
    smallest = int(re.findall(r"at least (\d+)", str(refusal.value))[0])
    encoder = build(of(name), size=(smallest, smallest))
    encoder(images(1, size=(smallest, smallest))).sum().backward()
    with pytest.raises(UserError, match=re.escape(f"(N, 3, {smallest}, {smallest}), found (2, 3, 7, 9)")):
        encoder(torch.zeros(2, 3, 7, 9))


def test_encoders_of_windows_and_of_images_do_not_take_the_others() -> None:
    windows = InputSpec(channels=("x",), units=("g",), size=(128,), rate=50.0)
    for name in IMAGE_ENCODERS:
        with pytest.raises(UserError, match=f"'{name}' does not take windows with a time axis; expected one of: fcn"):
            build_encoder(of(name), windows)
    for name in ENCODERS:
        with pytest.raises(UserError, match=f"'{name}' does not take images; expected one of: resnet18, "):
            build(of(name))
    with pytest.raises(UserError, match=r"set encoder\.log_input=null"):
        build(of("vit").model_copy(update={"log_input": 0.03}))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_176_512),  # of He et al. 2016, in torchvision: 11,689,512, of which the classifier has 513,000
        ("resnet18_small", 11_168_832),
    ],
)
def test_a_resnet_has_the_size_of_the_papers(name: str, parameters: int) -> None:
    encoder = build(of(name, width=64))
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder.dim == 512
