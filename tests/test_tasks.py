"""One conformance test for every pretext task on every kind of encoder, then what is particular to the first four."""

import math
from dataclasses import replace

import pytest
import torch

from shared.augmentations import TILT_DEGREES, TRANSFORMS, Channels, compose
from shared.config import DEFAULTS, load_config
from shared.data import load
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import Encoded
from shared.errors import UserError
from shared.features import expert_features
from shared.masks import Layout
from shared.model import prepare
from shared.seeding import make_generator
from shared.tasks import TASKS, TaskContext
from shared.tasks.base import mlp
from tests.pretext import batch_of, build, configure, draw, losses, only, plain_batch, synthetic_windows, task_of

pytestmark = pytest.mark.numerics

ENCODERS = ("fcn", "transformer", "sensors")


def refusal(name: str, encoder: str) -> str | None:
    """What a task says of an encoder that it cannot train; None where it can."""
    try:
        build(only(name, f"encoder.name={encoder}"), synthetic_windows())
    except UserError as error:
        return str(error)
    return None


VARIANTS = [
    *((name, [f"encoder.name={encoder}"]) for name in TASKS for encoder in ENCODERS if refusal(name, encoder) is None),
    ("mae", ["encoder.name=transformer", "tasks.mae.mask.ratio=0.9"]),
    ("reconstruction", ["tasks.reconstruction.patch=7", "tasks.reconstruction.ratio=0.9"]),
    ("contrastive", ["tasks.contrastive.objective=vicreg"]),
    ("contrastive", ["tasks.contrastive.objective=barlow_twins"]),
    ("features", ["tasks.features.mode=align"]),
    ("mae", ["tasks.mae.visible_only=false"]),
    ("mae", ["tasks.mae.visible_only=false", "tasks.mae.mask.kind=sensor", "tasks.mae.normalise=true"]),
    ("codes", ["tasks.codes.source=patches", "tasks.codes.mask.kind=random"]),
    *(
        ("mae", ["encoder.name=sensors", "tasks.mae.visible_only=false", f"tasks.mae.mask.kind={kind}", *more])
        for kind, more in (("sensor", ["tasks.mae.cosine=2"]), ("random", []))
    ),
    ("data2vec", ["encoder.name=sensors", "tasks.data2vec.mask.kind=sensor"]),
]


@pytest.fixture
def windows() -> Windows:
    return synthetic_windows()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains_on_any_encoder_or_says_which_it_needs(name: str) -> None:
    assert refusal(name, "transformer") is None
    for encoder in ENCODERS:
        if words := refusal(name, encoder):
            assert f"encoder '{encoder}'" in words and "encoder.name=transformer" in words


def test_feature_targets_are_standardised_for_each_person(windows: Windows) -> None:
    everybody = prepare(only("features"), windows).extras["features"]
    assert everybody.abs().max() <= 5
    for person in windows.people:
        own = prepare(only("features"), windows.of([person])).extras["features"]
        torch.testing.assert_close(everybody[torch.from_numpy(windows.person == person)], own)
        spread = expert_features(torch.from_numpy(windows.of([person]).x), windows.meta.spec).std(dim=0)
        plain = (own.abs().amax(dim=0) < 5) & (spread > 0.01)  # nothing was cut off, and rounding is small beside it
        assert plain.sum() > own.shape[1] / 2
        torch.testing.assert_close(own.mean(dim=0)[plain], torch.zeros(int(plain.sum())), atol=1e-3, rtol=0)
        torch.testing.assert_close(own.std(dim=0, correction=0)[plain], torch.ones(int(plain.sum())), atol=1e-3, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 17])
@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_a_task_trains_on_any_number_of_windows(name: str, overrides: list[str], count: int, windows: Windows) -> None:
    config = only(name, *overrides)
    model = build(config, windows)
    found = losses(config, windows[:count], model).values
    model.weighting(found[0]).backward()
    assert found.shape == (1, 1)
    assert torch.isfinite(found).all()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    without = [n for n, gradient in gradients.items() if gradient is None]
    # A task that looks at tokens only has no use for what follows them.
    assert all(n.startswith("encoder.hidden") for n in without), without
    assert all(g is None or torch.isfinite(g).all() for g in gradients.values())
    model.after_step(0.5)
    model.after_new_encoder(first=False)
    assert torch.isfinite(losses(config, windows[:count], model).values).all()


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_views_come_from_the_generator_alone_and_leave_the_windows_alone(
    name: str, overrides: list[str], windows: Windows
) -> None:
    config = only(name, *overrides)
    windows = windows[:40]
    model = build(config, windows)
    before, state = windows.x.copy(), torch.random.get_rng_state()
    first, again, other = (draw(config, windows, model, seed).views[0] for seed in (7, 7, 8))
    assert (windows.x == before).all()
    assert torch.equal(torch.random.get_rng_state(), state)
    for view, same in zip(first, again, strict=True):
        assert view.x.shape[1:] == windows.x.shape[1:]
        for a, b in zip(view, same, strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    random = any(
        isinstance(a, torch.Tensor) and not torch.equal(a, b)
        for view, fresh in zip(first, other, strict=True)
        for a, b in zip(view, fresh, strict=True)
    )
    assert random or name in ("features", "crossmodal")


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_the_same_draw_gives_the_same_loss_twice(name: str, overrides: list[str], windows: Windows) -> None:
    """Nothing moves in a loss: what moves, moves after the step."""
    config = only(name, *overrides)
    model = build(config, windows[:20]).eval()
    drawn = draw(config, windows[:20], model, 3)
    first, again = (model.losses([drawn], torch.float32).values for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_a_few_steps_on_real_recordings_lower_the_loss(name: str, overrides: list[str]) -> None:
    config = only(name, "data.name=watch", *overrides)
    watch = load(config.data)[0][:48]
    model = build(config, watch)
    batch = batch_of(config, watch, model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    history: list[float] = []
    for step in range(150):
        loss = model.losses([model.draw(batch, make_generator(step))], torch.float32).values.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step(step / 150)
        history.append(float(loss.detach()))
        first, last = sum(history[1:6]), sum(history[-5:])  # the first step is easier: a queue is still empty
        if step > 10 and last < first - 0.05 * abs(first):
            return
    pytest.fail(f"the loss went from {first / 5:.4f} to {last / 5:.4f}")


def test_a_head_does_not_mind_the_size_of_what_is_pooled() -> None:
    """The dimensions that spread most would otherwise be all that it sees."""
    embeddings = torch.randn(40, 6, generator=make_generator(1))
    size = torch.tensor([1e-1, 1.0, 1e1, 1e2, 1e3, 1e4])
    head = mlp(6, 5, 4)
    outputs = head(embeddings)
    assert torch.allclose(outputs, head(size * embeddings + 1), atol=0.01 * float(outputs.detach().std()))


def test_a_head_does_not_mind_the_size_of_its_first_weights() -> None:
    embeddings = torch.randn(40, 6, generator=make_generator(1))
    head = mlp(6, 5, 4)
    outputs = head(embeddings)
    with torch.no_grad():
        next(layer for layer in head if isinstance(layer, torch.nn.Linear)).weight.mul_(100)
    assert torch.allclose(outputs, head(embeddings), atol=0.01 * float(outputs.detach().std()))


def test_a_head_takes_one_window_by_what_it_saw_before() -> None:
    embeddings = torch.randn(400, 6, generator=make_generator(1)) * 5 + 3
    head = mlp(6, 5, 4)
    for _ in range(100):
        together = head(embeddings)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    alone = torch.cat([head(row[None]) for row in embeddings])
    assert torch.allclose(alone, together, atol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def context_of(windows: Windows, **changes: object) -> TaskContext:
    """What a task may know of these windows, encoded to 16 numbers and 8 tokens of 8."""
    std = torch.from_numpy(ChannelStatistics.of(windows).std).float()
    channels = Channels(windows.meta.spec, std)
    transform = compose(configure().views.transforms)
    layout = Layout((tuple(range(windows.x.shape[1])),), (windows.x.shape[2] // 8,), 8)
    context = TaskContext(channels, transform, 16, 8, layout, True, "transformer", 0)
    return replace(context, **changes)


def test_transformation_tells_the_truth_about_what_it_did(windows: Windows) -> None:
    """With each transformation replaced by a constant of its own, the targets can be read off the views."""
    task = TASKS["transformation"](configure().tasks["transformation"], context_of(windows))
    task.transforms = [lambda x, g, c, k=k: torch.full_like(x, k) for k in range(1, len(task.transforms) + 1)]
    for count in (5, 13, 64, 100):
        x = torch.zeros(count, 6, 64)
        (view,), targets = task.views(plain_batch(x), make_generator(count))
        assert torch.equal(view.x[:, 0, 0].long(), targets)
        sizes = torch.bincount(targets, minlength=len(task.transforms) + 1)
        assert int(sizes.max() - sizes.min()) <= 1


def test_transformation_meets_every_class_even_in_small_batches(windows: Windows) -> None:
    task = task_of(only("transformation"), windows, "transformation")
    x = torch.from_numpy(windows.x[:4])
    seen = {int(t) for seed in range(60) for t in task.views(plain_batch(x), make_generator(seed))[1]}
    assert len(seen) == len(configure().tasks["transformation"].model_dump()["transforms"]) + 1


def test_at_least_twelve_transformations_are_told_apart() -> None:
    chosen = configure().tasks["transformation"].model_dump()["transforms"]
    assert len(set(chosen)) >= 12
    assert set(chosen) <= set(TRANSFORMS)


def test_reconstruction_hides_what_it_asks_for(windows: Windows) -> None:
    """Whatever stands in the masked samples, the view is the same."""
    task = task_of(only("reconstruction"), windows, "reconstruction")
    x = torch.from_numpy(windows.x[:20])
    (view,), mask = task.views(plain_batch(x), make_generator(3))
    hidden = mask.unsqueeze(1).expand_as(x)
    changed = torch.where(hidden, x + 100, x)
    assert 0 < int(hidden.sum()) < hidden.numel()
    assert torch.equal(task.views(plain_batch(changed), make_generator(3))[0][0].x, view.x)
    assert torch.equal(view.x[~hidden], x[~hidden])


def test_reconstruction_counts_masked_samples_only(windows: Windows) -> None:
    task = task_of(only("reconstruction"), windows, "reconstruction")
    x = torch.from_numpy(windows.x[:6])
    _, mask = task.views(plain_batch(x), make_generator(3))
    embeddings = torch.randn(6, task.decoder[0].num_features, generator=make_generator(4))
    encoded = [Encoded(embeddings, torch.empty(6, 8, 0), ())]
    kept = (~mask).unsqueeze(1).expand_as(x)
    batch, other = plain_batch(x), plain_batch(torch.where(kept, x + 5, x))
    assert torch.equal(task.loss(encoded, mask, batch), task.loss(encoded, mask, other))


def test_default_contrastive_views_keep_gravity() -> None:
    """While a real arm is nearly still, its mean acceleration turns by hardly more than the tilt."""
    watch = load(load_config(DEFAULTS).data)[0]
    task = TASKS["contrastive"](configure().tasks["contrastive"], context_of(watch))
    acceleration = list(next(t for t in watch.meta.spec.triads if t.kind == "total_acc").channels)
    x = torch.from_numpy(watch.x)
    still = x[:, acceleration].std(dim=2).sum(dim=1).argsort()[:200]
    views = task.views(plain_batch(x[still]), make_generator(2))[0][0].x[:200, acceleration].mean(dim=2)
    cosine = torch.cosine_similarity(views, x[still][:, acceleration].mean(dim=2))
    assert TILT_DEGREES <= 45  # beyond it, another axis may point down
    assert float(cosine.quantile(0.05)) > math.cos(math.radians(TILT_DEGREES + 5))
