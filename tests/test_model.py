"""Which views share a pass of the encoder."""

import pytest
import torch

from shared.encoders import View
from shared.model import grouped
from tests.pretext import batch_of, build, configure, draw, losses, only, synthetic_windows

pytestmark = pytest.mark.numerics

SEVEN = ["encoder.name=transformer", *(f"tasks.{task}.enabled=true" for task in ("byol", "data2vec", "ijepa"))]


def test_seven_tasks_with_one_teacher_make_four_passes() -> None:
    config, windows = configure(*SEVEN), synthetic_windows()[:20]
    model = build(config, windows)
    assert len(model.tasks) == 7
    views = [view for of_task in draw(config, windows, model, 1).views for view in of_task]
    passes = grouped(views)
    assert len(passes) == 4
    assert sorted(member for members, _ in passes for member in members) == list(range(len(views)))
    encoded = []
    model.encoder.encode = lambda view, blank, of=model.encoder.encode: encoded.append(view) or of(view, blank)
    losses(config, windows, model)
    assert len(encoded) == 3, "the fourth is the teacher's"


def test_four_tasks_make_one_pass() -> None:
    config, windows = configure(), synthetic_windows()[:20]
    views = draw(config, windows, build(config, windows), 1).views
    ((members, together),) = grouped([view for of_task in views for view in of_task])
    assert len(members) == 4
    assert len(together.x) == 5 * 20


def test_views_together_are_what_they_are_alone() -> None:
    """Rows come back to whose they are, whatever is masked, left out or the teacher's."""
    config, windows = configure(*SEVEN, "encoder.norm=group"), synthetic_windows()[:6]
    model = build(config, windows).eval()
    x = batch_of(config, windows, model).x
    keep = torch.arange(1, 6).expand(6, -1)
    mask = torch.rand(6, x.shape[1], 8, generator=torch.Generator().manual_seed(1)) < 0.5
    views = [
        View(x), View(x + 1, mask=mask), View(x, keep=keep), View(x * 2), View(x * 3, mask=~mask), View(x, teacher=True)
    ]  # fmt: skip
    for members, together in grouped(views):
        parts = model.encoder.encode(together, model.blank).split([6] * len(members))
        for member, part in zip(members, parts, strict=True):
            alone = model.encoder.encode(views[member], model.blank)
            torch.testing.assert_close(part.pooled, alone.pooled, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(part.tokens, alone.tokens, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("task", ["moco", "dino"])
def test_what_moves_after_a_step_has_seen_all_parts_once(task: str) -> None:
    """A step that cuts the batch, and asks for losses at other weights, leaves the queue and the centre as one pass."""
    config, windows = only(task, "encoder.norm=group"), synthetic_windows()[:20]
    batch = batch_of(config, windows, model := build(config, windows))
    drawn = [model.draw(part, torch.Generator().manual_seed(part.part)) for part in batch.split(3)]
    other = {name: value + 0.1 for name, value in model.named_parameters()}
    model.losses(drawn, torch.float32)
    model.losses(drawn[1:], torch.float32, weights=other)
    moved = model.tasks[task]
    moved.after_step(0.5)
    if task == "moco":
        assert int(moved.written) == 2 * 20
        keys = [moved.slow_head(model.teacher.module.encode(part.views[0][1]).pooled) for part in drawn]
        torch.testing.assert_close(moved.queued, torch.nn.functional.normalize(torch.cat(keys)), atol=1e-4, rtol=1e-3)
    else:
        slow = moved.distillation.slow_head
        scores = torch.cat([slow(model.teacher.module.encode(part.views[0][1]).pooled) for part in drawn])
        torch.testing.assert_close(moved.distillation.centre, 0.1 * scores.mean(dim=0), atol=1e-4, rtol=1e-3)
    before = {name: value.clone() for name, value in moved.state_dict().items()}
    moved.after_step(0.5)
    assert all(torch.equal(value, before[name]) for name, value in moved.state_dict().items())
