"""One conformance test for every pretext task, then what is particular to each."""

import math

import pytest
import torch

from shared.augmentations import TILT_DEGREES, TRANSFORMS, Channels
from shared.config import DEFAULTS, Config, load_config
from shared.data import load
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.features import expert_features
from shared.model import Model, build_model, prepare
from shared.seeding import make_generator
from shared.tasks import TASKS, Batch, Task, TaskContext
from shared.tasks.base import mlp

pytestmark = pytest.mark.numerics

VARIANTS = [
    ("transformation", []),
    ("reconstruction", []),
    ("reconstruction", ["tasks.reconstruction.patch=7", "tasks.reconstruction.ratio=0.9"]),
    ("contrastive", []),
    ("contrastive", ["tasks.contrastive.objective=vicreg"]),
    ("contrastive", ["tasks.contrastive.objective=barlow_twins"]),
    ("features", []),
    ("features", ["tasks.features.mode=align"]),
]


def configure(*overrides: str) -> Config:
    return load_config(DEFAULTS, ["data.name=synthetic", "encoder.width=8", *overrides])


def only(task: str, *overrides: str) -> Config:
    return configure(*[f"tasks.{name}.enabled={'true' if name == task else 'false'}" for name in TASKS], *overrides)


@pytest.fixture(scope="module")
def windows() -> Windows:
    return load(configure().data)[0]


def build(config: Config, windows: Windows) -> Model:
    return build_model(config, windows.meta, windows.x.shape[2], ChannelStatistics.of(windows))


def test_feature_targets_are_standardised_for_each_person(windows: Windows) -> None:
    everybody = prepare(only("features"), windows).features
    assert everybody.abs().max() <= 5
    for person in windows.people:
        own = prepare(only("features"), windows.of([person])).features
        torch.testing.assert_close(everybody[torch.from_numpy(windows.subject == person)], own)
        spread = expert_features(torch.from_numpy(windows.of([person]).x), windows.meta).std(dim=0)
        plain = (own.abs().amax(dim=0) < 5) & (spread > 0.01)  # nothing was cut off, and rounding is small beside it
        assert plain.sum() > own.shape[1] / 2
        torch.testing.assert_close(own.mean(dim=0)[plain], torch.zeros(int(plain.sum())), atol=1e-3, rtol=0)
        torch.testing.assert_close(own.std(dim=0, correction=0)[plain], torch.ones(int(plain.sum())), atol=1e-3, rtol=0)


def test_the_variants_cover_the_registry() -> None:
    assert {name for name, _ in VARIANTS} == set(TASKS)


@pytest.mark.parametrize("count", [1, 2, 3, 17])
@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_a_task_trains_on_any_number_of_windows(name: str, overrides: list[str], count: int, windows: Windows) -> None:
    config = only(name, *overrides)
    model = build(config, windows)
    data = prepare(config, windows[:count])
    losses = model.losses(data.x, data.features, make_generator(1), torch.float32)
    model.weighting(losses).backward()
    assert losses.shape == (1,)
    assert torch.isfinite(losses).all()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_views_come_from_the_generator_alone_and_leave_the_windows_alone(
    name: str, overrides: list[str], windows: Windows
) -> None:
    task = build(only(name, *overrides), windows).tasks[name]
    x = torch.from_numpy(windows.x[:40])
    before, state = x.clone(), torch.random.get_rng_state()
    first, again = task.views(x, make_generator(7)), task.views(x, make_generator(7))
    assert torch.equal(first.windows, again.windows)
    assert torch.equal(x, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.windows.shape[1:] == x.shape[1:]
    if name != "features":
        assert not torch.equal(first.windows, task.views(x, make_generator(8)).windows)


@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_a_few_steps_on_real_recordings_lower_the_loss(name: str, overrides: list[str]) -> None:
    config = only(name, "data.name=watch", *overrides)
    watch = load(config.data)[0][:96]
    model = build(config, watch)
    data = prepare(config, watch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for step in range(60):
        loss = model.losses(data.x, data.features, make_generator(step), torch.float32).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert sum(history[-5:]) < 0.95 * sum(history[:5])


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


def task_of(config: Config, windows: Windows, name: str) -> Task:
    return build(config, windows).tasks[name]


def test_transformation_tells_the_truth_about_what_it_did(windows: Windows) -> None:
    """With each transformation replaced by a constant of its own, the targets can be read off the views."""
    context = TaskContext(Channels(windows.meta.triads, torch.ones(6), windows.meta.rate), 64, 16, 0)
    settings = configure().tasks["transformation"]
    task = TASKS["transformation"](settings, context)
    task.transforms = [lambda x, g, c, k=k: torch.full_like(x, k) for k in range(1, len(task.transforms) + 1)]
    for count in (5, 13, 64, 100):
        x = torch.zeros(count, 6, 64)
        views, targets = task.views(x, make_generator(count))
        assert torch.equal(views[:, 0, 0].long(), targets)
        sizes = torch.bincount(targets, minlength=len(task.transforms) + 1)
        assert int(sizes.max() - sizes.min()) <= 1


def test_transformation_meets_every_class_even_in_small_batches(windows: Windows) -> None:
    task = task_of(only("transformation"), windows, "transformation")
    x = torch.from_numpy(windows.x[:4])
    seen = {int(t) for seed in range(60) for t in task.views(x, make_generator(seed)).targets}
    assert len(seen) == len(configure().tasks["transformation"].model_dump()["transforms"]) + 1


def test_at_least_twelve_transformations_are_told_apart() -> None:
    chosen = configure().tasks["transformation"].model_dump()["transforms"]
    assert len(set(chosen)) >= 12
    assert set(chosen) <= set(TRANSFORMS)


def test_reconstruction_hides_what_it_asks_for(windows: Windows) -> None:
    """Whatever stands in the masked samples, the view is the same."""
    task = task_of(only("reconstruction"), windows, "reconstruction")
    x = torch.from_numpy(windows.x[:20])
    views, mask = task.views(x, make_generator(3))
    hidden = mask.unsqueeze(1).expand_as(x)
    changed = torch.where(hidden, x + 100, x)
    assert 0 < int(hidden.sum()) < hidden.numel()
    assert torch.equal(task.views(changed, make_generator(3)).windows, views)
    assert torch.equal(views[~hidden], x[~hidden])


def test_reconstruction_counts_masked_samples_only(windows: Windows) -> None:
    task = task_of(only("reconstruction"), windows, "reconstruction")
    x = torch.from_numpy(windows.x[:6])
    _, mask = task.views(x, make_generator(3))
    embeddings = torch.randn(6, task.decoder[0].num_features, generator=make_generator(4))
    kept = (~mask).unsqueeze(1).expand_as(x)
    batch, other = Batch(x, torch.empty(6, 0)), Batch(torch.where(kept, x + 5, x), torch.empty(6, 0))
    assert torch.equal(task.loss(embeddings, mask, batch), task.loss(embeddings, mask, other))


def test_contrastive_views_are_two_different_ones_of_each_window(windows: Windows) -> None:
    task = task_of(only("contrastive"), windows, "contrastive")
    x = torch.from_numpy(windows.x[:10])
    first, second = task.views(x, make_generator(5)).windows.chunk(2)
    assert first.shape == x.shape
    assert (first != second).flatten(1).any(dim=1).all()


def test_default_contrastive_views_keep_gravity() -> None:
    """While a real arm is nearly still, its mean acceleration turns by hardly more than the tilt."""
    watch = load(load_config(DEFAULTS).data)[0]
    std = torch.from_numpy(ChannelStatistics.of(watch).std).float()
    context = TaskContext(Channels(watch.meta.triads, std, watch.meta.rate), 128, 8, 0)
    task = TASKS["contrastive"](configure().tasks["contrastive"], context)
    acceleration = list(next(t for t in watch.meta.triads if t.kind == "total_acc").channels)
    x = torch.from_numpy(watch.x)
    still = x[:, acceleration].std(dim=2).sum(dim=1).argsort()[:200]
    views = task.views(x[still], make_generator(2)).windows[:200, acceleration].mean(dim=2)
    cosine = torch.cosine_similarity(views, x[still][:, acceleration].mean(dim=2))
    assert TILT_DEGREES <= 45  # beyond it, another axis may point down
    assert float(cosine.quantile(0.05)) > math.cos(math.radians(TILT_DEGREES + 5))
