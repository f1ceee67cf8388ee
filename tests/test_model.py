"""Which views share a pass of the encoder."""

import pytest
import torch

from shared.encoders import View
from shared.model import grouped
from tests.pretext import batch_of, build, configure, draw, losses, synthetic_windows

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
