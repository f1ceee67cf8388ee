"""Masked tasks: what is hidden, what counts, and codes against loops over their equations."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from shared.config import Config
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import Encoded, Encoder
from shared.errors import UserError
from shared.extras.clusters import FLOOR, cluster_codes, keep_names, patch_features
from shared.losses import code_monotony, contrast_positions, cosine_logits
from shared.masks import patches
from shared.model import prepare
from shared.seeding import make_generator
from shared.tasks.mae import EPSILON
from shared.train import Training, collapse_warnings
from tests.pretext import batch_of, build, only, plain_batch, synthetic_windows

pytestmark = pytest.mark.numerics

KINDS = ("tube", "span", "block", "random", "sensor")
TASKS = ("mae", "codes", "wav2vec2")
quick = settings(max_examples=25, deadline=None)
few = settings(max_examples=10, deadline=None)  # each builds a model
seeds = st.integers(0, 2**31)


def cut(count: int = 6, samples: int = 64) -> Windows:
    """Some windows; with samples that no encoder's stride divides, the last position is shorter."""
    windows = synthetic_windows()[:count]
    spec = windows.meta.spec.model_copy(update={"size": (samples,)})
    return replace(windows, x=windows.x[:, :, :samples].copy(), meta=replace(windows.meta, spec=spec))


def masked(task: str, encoder: str, kind: str, *overrides: str) -> Config:
    """One masked task; positions are left out only where that is asked for."""
    stay = ["tasks.mae.visible_only=false"] if task == "mae" else []
    mask = [f"tasks.{task}.mask.kind={kind}", f"tasks.{task}.mask.ratio=0.5"]
    return only(
        task, f"encoder.name={encoder}", "encoder.log_input=0.03", "encoder.hidden=12", *stay, *mask, *overrides
    )


@quick
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 8), seeds)
def test_patches_hold_what_stands_at_each_position(n: int, channels: int, samples: int, stride: int, seed: int) -> None:
    x = torch.randn(n, channels, samples, generator=make_generator(seed))
    found = patches(x, stride)
    positions = -(-samples // stride)
    assert found.shape == (n, positions, channels * stride)
    for i, place, c, s in product(range(n), range(positions), range(channels), range(stride)):
        time = place * stride + s
        assert found[i, place, c * stride + s] == (x[i, c, time] if time < samples else 0)


@quick
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), seeds)
def test_patches_of_an_image_hold_what_stands_there(
    n: int, channels: int, height: int, width: int, side: int, seed: int
) -> None:
    x = torch.randn(n, channels, height, width, generator=make_generator(seed))
    found = patches(x, side)
    rows, columns = -(-height // side), -(-width // side)
    assert found.shape == (n, rows * columns, channels * side * side)
    for i, row, column, c, down, right in product(*map(range, (n, rows, columns, channels, side, side))):
        y, z = row * side + down, column * side + right
        expected = x[i, c, y, z] if y < height and z < width else 0
        assert found[i, row * columns + column, (c * side + down) * side + right] == expected


LEAVING_OUT = [("mae", "transformer", kind, ["tasks.mae.visible_only=true"]) for kind in KINDS[:3]]
MASKING = [(task, encoder, kind, []) for task in TASKS for encoder in ("fcn", "transformer") for kind in KINDS]


@pytest.mark.parametrize(("task", "encoder", "kind", "overrides"), [*LEAVING_OUT, *MASKING])
def test_nothing_of_what_is_hidden_reaches_the_encoder(
    task: str, encoder: str, kind: str, overrides: list[str]
) -> None:
    windows = cut(samples=60)
    model = build(masked(task, encoder, kind, *overrides), windows)
    x = torch.from_numpy(windows.x)
    (view,), memory = model.tasks[task].views(plain_batch(x), make_generator(3))
    if view.mask is None:
        hidden = memory
        assert view.keep.shape == (6, 4)
    else:
        hidden = view.mask
    hidden = hidden.repeat_interleave(model.encoder.layout.stride, dim=2)[:, :, :60]
    assert 0 < hidden.float().mean() < 1
    other = torch.randn(x.shape, generator=make_generator(4))
    encoded, same = (
        model.encoder.encode(view._replace(x=value), model.blank) for value in (x, torch.where(hidden, other, x))
    )
    assert torch.equal(encoded.pooled, same.pooled)
    assert torch.equal(encoded.tokens, same.tokens)
    seen = model.encoder.encode(view._replace(x=torch.where(hidden, x, other)), model.blank)
    assert not torch.equal(encoded.pooled, seen.pooled)
    assert not torch.equal(encoded.tokens, seen.tokens)


def mae_step(kind: str, seed: int, *overrides: str) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor]:
    """Return the loss for standardised windows, windows, what is hidden of them, and what is told."""
    windows = cut(3, 60)
    model = build(masked("mae", "transformer", kind, *overrides), windows)
    task = model.eval().tasks["mae"]
    x = torch.from_numpy(windows.x)
    views, mask = task.views(plain_batch(x), make_generator(seed))
    encoded = [model.encoder.encode(views[0], model.blank)]
    hidden = mask.repeat_interleave(8, dim=2)[:, :, :60]
    tokens = encoded[0].tokens
    everywhere = mask.all(dim=1)
    if tokens.shape[1] < mask.shape[2]:
        told = task.decoder(tokens, keep=torch.stack([places.nonzero()[:, 0] for places in ~everywhere]))
    else:
        told = task.decoder(tokens, hidden=everywhere)
    return lambda value: task.loss(encoded, mask, plain_batch(value)), x, hidden, told


@few
@given(st.sampled_from(KINDS), st.booleans(), st.booleans(), seeds)
def test_mae_is_the_mean_squared_error_of_hidden_samples(
    kind: str, visible_only: bool, normalise: bool, seed: int
) -> None:
    visible_only = visible_only and kind in KINDS[:3]
    knobs = [f"tasks.mae.visible_only={visible_only}".lower(), f"tasks.mae.normalise={normalise}".lower()]
    loss, x, hidden, told = mae_step(kind, seed, *knobs)
    errors = []
    for i, c, t in product(range(3), range(x.shape[1]), range(60)):
        if not hidden[i, c, t]:
            continue
        place = t // 8
        target = x[i, c, t]
        if normalise:
            patch = torch.zeros(x.shape[1], 8)
            there = x[i, :, place * 8 : place * 8 + 8]
            patch[:, : there.shape[1]] = there
            target = (target - patch.mean()) / (patch.var(correction=0) + EPSILON).sqrt()
        errors.append(float((told[i, place, c * 8 + t % 8] - target).detach()) ** 2)
    assert loss(x).item() == pytest.approx(np.mean(errors), rel=1e-4)


@few
@given(st.sampled_from(KINDS), seeds)
def test_mae_counts_hidden_samples_only(kind: str, seed: int) -> None:
    loss, x, hidden, _ = mae_step(kind, seed, "tasks.mae.normalise=false")
    assert torch.equal(loss(x), loss(torch.where(hidden, x, x + 5)))
    assert not torch.equal(loss(x), loss(torch.where(hidden, x + 5, x)))


def test_mae_does_not_decode_what_the_encoder_says_of_hidden_positions() -> None:
    windows = cut()
    model = build(masked("mae", "fcn", "tube"), windows)
    task = model.tasks["mae"]
    batch = plain_batch(torch.from_numpy(windows.x))
    (view,), memory = task.views(batch, make_generator(1))
    encoded = model.encoder.encode(view)
    hidden = memory[:, 0, :, None]
    other = encoded._replace(
        tokens=torch.where(hidden, torch.randn(encoded.tokens.shape, generator=make_generator(2)), encoded.tokens)
    )
    assert torch.equal(task.loss([encoded], memory, batch), task.loss([other], memory, batch))


@pytest.mark.parametrize("kind", ["random", "sensor"])
def test_positions_that_are_hidden_in_part_cannot_be_left_out(kind: str) -> None:
    with pytest.raises(
        UserError, match=rf"masks of kind '{kind}' hide some of the channels .* tasks.mae.visible_only=false"
    ):
        build(masked("mae", "transformer", kind, "tasks.mae.visible_only=true"), cut())


@quick
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 8), st.floats(0.05, 2), seeds)
def test_cosine_logits_follow_their_equation(m: int, k: int, features: int, temperature: float, seed: int) -> None:
    z = torch.randn(m, features, generator=make_generator(seed), dtype=torch.float64)
    codes = torch.randn(k, features, generator=make_generator(seed + 1), dtype=torch.float64)
    expected = torch.cosine_similarity(z[:, None], codes[None], dim=2) / temperature
    torch.testing.assert_close(cosine_logits(z, codes, temperature), expected)
    raised = cosine_logits(z.bfloat16(), codes.bfloat16(), temperature)
    assert raised.dtype == torch.float32


def test_codes_is_the_cross_entropy_of_hidden_positions() -> None:
    windows = cut()
    config = masked("codes", "fcn", "span", "tasks.codes.clusters=5")
    model = build(config, windows)
    task, batch = model.tasks["codes"], batch_of(config, windows, model)
    (view,), hidden = task.views(batch, make_generator(2))
    tokens = torch.randn(6, 8, model.encoder.width, generator=make_generator(3))
    found = task.loss([Encoded(torch.empty(6, 0), tokens, ())], hidden, batch)
    assert torch.equal(hidden, view.mask[:, 0])
    total = []
    for i, place in product(range(6), range(8)):
        if hidden[i, place]:
            z = task.head(tokens[i, place])
            logits = [torch.cosine_similarity(z, code, dim=0).item() / 0.1 for code in task.embeddings]
            target = int(batch.extras["codes"][i, place])
            total.append(np.log(np.sum(np.exp(logits))) - logits[target])
    assert found.item() == pytest.approx(np.mean(total), rel=1e-4)
    assert task.code_shares.shape == (5,)
    assert task.code_shares.sum().item() == pytest.approx(1, rel=1e-5)


def contrast_by_loops(context: Tensor, target: Tensor, codes: Tensor, hidden: Tensor, temperature: float) -> float:
    losses = []
    for i in range(len(context)):
        places = [place for place in range(context.shape[1]) if hidden[i, place]]
        for place in places:
            distractors = [q for q in places if not torch.equal(codes[i, q], codes[i, place])]
            scores = [
                float(torch.cosine_similarity(context[i, place], target[i, q], dim=0)) / temperature
                for q in [place, *distractors]
            ]
            losses.append(np.log(np.sum(np.exp(scores))) - scores[0])
    return float(np.mean(losses))


@quick
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 2), st.floats(0.1, 2), seeds)
def test_contrast_follows_its_equation(n: int, positions: int, groups: int, temperature: float, seed: int) -> None:
    generator = make_generator(seed)
    context, target = torch.randn(2, n, positions, 5, generator=generator, dtype=torch.float64)
    codes = torch.randint(2, (n, positions, groups), generator=generator)
    hidden = torch.rand(n, positions, generator=generator) < 0.6
    hidden[0, 0] = True
    found = contrast_positions(context, target, codes, hidden, temperature)
    expected = contrast_by_loops(context, target, codes, hidden, temperature)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_same_codes_are_no_distractors() -> None:
    """Where all positions have the same codes there is nothing to tell apart, whatever stands there."""
    context, target = torch.randn(2, 3, 6, 4, generator=make_generator(1), requires_grad=True)
    hidden = torch.ones(3, 6, dtype=torch.bool)
    alike = contrast_positions(context, target, torch.zeros(3, 6, 2, dtype=torch.long), hidden, 0.1)
    assert alike.item() == 0
    alike.backward()
    codes = torch.arange(6)[None, :, None].expand(3, -1, 2)
    assert contrast_positions(context, target, codes, hidden, 0.1).item() > 0


def test_contrast_gradients_are_those_of_the_value() -> None:
    context, target = (
        torch.randn(2, 4, 3, generator=make_generator(seed), dtype=torch.float64).requires_grad_() for seed in (1, 2)
    )
    codes = torch.tensor([[[0], [1], [1], [2]], [[0], [0], [0], [0]]])
    hidden = torch.tensor([[True, True, True, False], [True, False, True, True]])
    assert torch.autograd.gradcheck(lambda c, t: contrast_positions(c, t, codes, hidden, 0.5), (context, target))
    with torch.autocast("cpu", torch.bfloat16):
        low = contrast_positions(context.bfloat16(), target.bfloat16(), codes, hidden, 0.5)
    assert low.dtype == torch.float32


@quick
@given(st.integers(1, 8), st.integers(1, 3), st.integers(2, 6), seeds)
def test_code_monotony_follows_its_equation(m: int, groups: int, codes: int, seed: int) -> None:
    logits = 3 * torch.randn(m, groups, codes, generator=make_generator(seed), dtype=torch.float64)
    probabilities = logits.softmax(dim=2)
    used = 0.0
    for g in range(groups):
        mean = probabilities[:, g].mean(dim=0).tolist()
        used += np.exp(-sum(p * np.log(p) for p in mean))
    expected = (groups * codes - used) / (groups * codes)
    assert code_monotony(probabilities).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_code_monotony_is_least_for_all_codes_and_most_for_one() -> None:
    one = torch.zeros(7, 2, 5)
    one[:, :, 3] = 1
    one.requires_grad_()
    most = code_monotony(one)
    most.backward()
    assert most.item() == pytest.approx(1 - 1 / 5)
    assert one.grad.isfinite().all()
    each = torch.eye(5)[:, None].expand(-1, 2, -1)
    assert code_monotony(each).item() == pytest.approx(0, abs=1e-6)


def test_wav2vec2_draws_hard_codes_with_gumbel_noise() -> None:
    windows = cut()
    model = build(masked("wav2vec2", "fcn", "span", "tasks.wav2vec2.codes=4"), windows)
    task, batch = model.tasks["wav2vec2"], plain_batch(torch.from_numpy(windows.x))
    _, memory = task.views(batch, make_generator(2))
    tokens = torch.randn(6, 8, model.encoder.width, generator=make_generator(3), requires_grad=True)
    found = task.loss([Encoded(torch.empty(6, 0), tokens, ())], memory, batch)

    logits = task.choose(patches(batch.x, 8)).view(6, 8, 2, 4)
    codes = (logits + memory.noise).argmax(dim=3)
    entries = torch.cat([task.codebook[g][codes[:, :, g]] for g in range(2)], dim=2)
    target, context = task.project_code(entries), task.project_token(tokens)
    contrast = contrast_by_loops(context.detach(), target.detach(), codes, memory.hidden, 0.1)
    diversity = code_monotony(logits[memory.hidden].softmax(dim=2))
    assert found.item() == pytest.approx(contrast + 0.1 * diversity.item(), rel=1e-4)
    assert task.code_shares.shape == (4,)
    assert task.code_shares.sum().item() == pytest.approx(1, rel=1e-5)
    found.backward()
    assert all(weight.grad.count_nonzero() for weight in task.choose.parameters())


def test_one_code_for_everything_is_warned_of() -> None:
    windows = synthetic_windows()
    person = windows.of([windows.people[0]])
    training = start(only("wav2vec2", "encoder.name=transformer"), person)
    chooses = training.model.tasks["wav2vec2"].choose[-1]
    for bias in (0, 50):
        with torch.no_grad():
            chooses.bias[:1] += bias  # of the first of two groups
        warnings = collapse_warnings([log.row() for log in training.run(range(1))])
        assert len(warnings) == bool(bias)
    assert "one code" in warnings[0]
    assert "tasks.wav2vec2.diversity" in warnings[0]


def test_codes_that_nobody_learns_to_tell_are_warned_of() -> None:
    windows = synthetic_windows()
    person = windows.of([windows.people[0]])
    (log,) = start(only("codes", "train.learning_rate=1e-9"), person).run(range(1))
    (warning,) = collapse_warnings([log.row()])
    assert "knows nothing" in warning
    assert "tasks.codes.clusters" in warning


def test_wav2vec2_draws_the_noise_that_it_says() -> None:
    task = build(masked("wav2vec2", "fcn", "span"), cut()).tasks["wav2vec2"]
    x = torch.zeros(64, 6, 64)
    noise = task.views(plain_batch(x), make_generator(5))[1].noise
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.03)
    assert noise.var().item() == pytest.approx(np.pi**2 / 6, rel=0.05)


def test_wav2vec2_codes_harden_over_the_run() -> None:
    task = build(masked("wav2vec2", "fcn", "span"), cut()).tasks["wav2vec2"]
    history = []
    for progress in (0.0, 0.5, 1.0):
        task.after_step(progress)
        history.append(task.softness.item())
    assert history == pytest.approx([2.0, 1.0, 0.5])


def test_hand_made_features_tell_what_they_say() -> None:
    time = torch.arange(8.0)
    rising, still = 0.5 * time - 1, torch.full((8,), 3.0)
    wave = torch.cos(2 * np.pi * 2 * time / 8)
    found = patch_features(torch.stack([rising, still, wave])[None, None])
    assert found.shape == (1, 1, 3 * 7)
    mean, slope, spread, *bins = found.view(3, 7).T
    torch.testing.assert_close(mean, torch.tensor([0.75, 3.0, 0.0]))
    torch.testing.assert_close(slope[:2], torch.tensor([0.5, 0.0]))
    torch.testing.assert_close(spread.exp() - FLOOR, torch.stack([rising, still, wave]).std(dim=1, correction=0))
    strengths = torch.stack(bins, dim=1)[2].exp() - FLOOR
    torch.testing.assert_close(strengths, torch.tensor([0.0, 0.5, 0.0, 0.0]))


def encoder_of(windows: Windows, name: str = "transformer") -> Encoder:
    encoder = build(only("codes", f"encoder.name={name}"), windows).encoder
    return encoder.eval()


@pytest.mark.parametrize("source", ["patches", "features", "tokens"])
@pytest.mark.parametrize("name", ["fcn", "resnet1d", "transformer"])
def test_codes_depend_on_the_windows_alone(source: str, name: str) -> None:
    windows = cut(len(synthetic_windows()), samples=60)
    encoder = encoder_of(windows, name)

    def make(seed: int) -> Tensor:
        np.random.seed(seed)
        return cluster_codes(windows, encoder, 16, source, None)

    first = make(0)
    with ThreadPoolExecutor(2) as pool:
        assert all(torch.equal(first, codes) for codes in pool.map(make, (1, 2)))
    assert first.dtype == torch.int64
    assert first.shape == (len(windows), encoder.layout.tokens)
    assert first.unique().tolist() == list(range(16))


def of_three_kinds(seed: int) -> tuple[Windows, Tensor]:
    """Windows whose positions are of three kinds, and which."""
    generator = make_generator(seed)
    windows = cut(40)
    kinds = torch.randint(3, (40, 8), generator=generator)
    shapes = torch.randn(3, windows.x.shape[1], 8, generator=generator)
    x = shapes[kinds].permute(0, 2, 1, 3).flatten(2)
    x = x + 0.01 * torch.randn(x.shape, generator=generator)
    return replace(windows, x=x.numpy()), kinds


@pytest.mark.parametrize("source", ["patches", "features"])
def test_codes_find_kinds_of_positions(source: str) -> None:
    windows, kinds = of_three_kinds(1)
    codes = cluster_codes(windows, encoder_of(windows), 3, source, None)
    assert adjusted_rand_score(kinds.flatten(), codes.flatten()) == 1


def test_there_are_no_more_codes_than_positions_that_differ() -> None:
    still = replace(cut(3), x=np.ones((3, 6, 64), dtype=np.float32))
    assert not cluster_codes(still, encoder_of(still), 16, "patches", None).any()
    one = cut(1)
    assert cluster_codes(one, encoder_of(one), 16, "features", None).max() < 8


def test_many_windows_are_clustered_by_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    windows, kinds = of_three_kinds(2)
    monkeypatch.setattr("shared.extras.clusters.MOST_FITTED", 100)
    monkeypatch.setattr("shared.extras.clusters.CHUNK", 7)
    codes = cluster_codes(windows, encoder_of(windows), 3, "patches", None)
    assert adjusted_rand_score(kinds.flatten(), codes.flatten()) == 1


@quick
@given(st.integers(1, 20), st.integers(1, 10), seeds)
def test_clusters_keep_their_names(count: int, clusters: int, seed: int) -> None:
    generator = make_generator(seed)
    before = torch.randint(clusters, (count, 4), generator=generator)
    renamed = torch.randperm(clusters, generator=generator)[before]
    assert torch.equal(keep_names(renamed, before, clusters), before)
    other = torch.randint(clusters, (count, 4), generator=generator)
    kept = keep_names(other, before, clusters)
    assert int((kept == before).sum()) >= int((other == before).sum())
    assert len(set(zip(kept.flatten().tolist(), other.flatten().tolist(), strict=True))) == len(other.unique())


def start(config: Config, windows: Windows) -> Training:
    torch.set_num_threads(1)
    return Training(config, prepare(config, windows), ChannelStatistics.of(windows), batch_size=32, total_epochs=4)


@pytest.mark.parametrize(
    ("task", "overrides"),
    [
        ("mae", []),
        ("codes", ["tasks.codes.refresh=2", "tasks.codes.clusters=12"]),
        ("codes", ["tasks.codes.refresh=1", "tasks.codes.source=patches"]),
        ("wav2vec2", []),
    ],
)
@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_a_stopped_and_resumed_training_equals_an_unbroken_one(task: str, overrides: list[str], stopped: int) -> None:
    windows = synthetic_windows()
    person = windows.of([windows.people[0]])
    config = only(task, "encoder.name=transformer", *overrides)
    whole, before, after = (start(config, person) for _ in range(3))
    list(whole.run(range(4)))
    list(before.run(range(stopped)))
    after.load({name: value.clone() for name, value in before.state().items()})
    list(after.run(range(stopped, 4)))
    expected = whole.state()
    found = after.state()
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def test_codes_are_made_again_later_by_whoever_missed_their_time() -> None:
    """A client that is drawn for epochs 0, 1 and 5 only, where codes are made again every second epoch."""
    config = only("codes", "encoder.name=transformer", "tasks.codes.refresh=2", "tasks.codes.clusters=12")
    first, later = (start(config, synthetic_windows()[:60]) for _ in range(2))
    list(first.run(range(2)))
    later.load(first.state())
    before = later.data.extras["codes"].clone()
    list(later.run(range(5, 6)))
    assert not torch.equal(later.data.extras["codes"], before)


def test_codes_are_made_again_from_the_encoder_of_then() -> None:
    windows = synthetic_windows()
    person = windows.of([windows.people[0]])
    config = only("codes", "encoder.name=transformer", "tasks.codes.refresh=2", "tasks.codes.clusters=12")
    training = start(config, person)
    first = training.data.extras["codes"].clone()
    list(training.run(range(2)))
    assert torch.equal(training.data.extras["codes"], first)
    expected = cluster_codes(person, training.model.encoder.eval(), 12, "tokens", first)
    list(training.run(range(2, 3)))
    assert torch.equal(training.data.extras["codes"], expected)
    assert not torch.equal(expected, first)
    assert training.model.encoder.training
