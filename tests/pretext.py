"""Builds pretext tasks on made-up people, for the tests of tasks."""

from functools import cache

import torch
from torch import nn

from shared.config import DEFAULTS, Config, load_config
from shared.data import load
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import EncoderSettings
from shared.layers import Attention
from shared.model import Model, build_model, prepare
from shared.seeding import make_generator
from shared.steps import Losses
from shared.tasks import TASKS, Batch, Draw, Task


def configure(*overrides: str) -> Config:
    return load_config(DEFAULTS, ["data.name=synthetic", "encoder.width=8", *overrides])


def encoder_of(name: str, width: int, **changes: object) -> EncoderSettings:
    """An encoder without what can be left out: embeddings are the means of the last block."""
    plain = {
        "norm": "batch",
        "pooling": "mean",
        "log_input": None,
        "pooled_blocks": "last",
        "hidden": None,
        "align": None,
    }
    return EncoderSettings.model_validate({"name": name, "width": width} | plain | changes)


def only(task: str, *overrides: str) -> Config:
    """One task alone."""
    return configure(*[f"tasks.{name}.enabled={'true' if name == task else 'false'}" for name in TASKS], *overrides)


@cache
def synthetic_windows() -> Windows:
    return load(configure().data)[0]


def build(config: Config, windows: Windows) -> Model:
    return build_model(config, windows.meta, ChannelStatistics.of(windows))


def task_of(config: Config, windows: Windows, name: str) -> Task:
    return build(config, windows).tasks[name]


def batch_of(config: Config, windows: Windows, model: Model) -> Batch:
    """All windows as one batch."""
    data = prepare(config, windows)
    return model.batch(data.x, data.extras, make_generator(0))


def plain_batch(x: torch.Tensor) -> Batch:
    """Windows whose channels have mean 0 and standard deviation 1 already."""
    return Batch(x, x, {})


def draw(config: Config, windows: Windows, model: Model, seed: int) -> Draw:
    """The views of all windows."""
    return model.draw(batch_of(config, windows, model), make_generator(seed))


def losses(config: Config, windows: Windows, model: Model, seed: int = 1) -> Losses:
    """The losses of all windows as one batch."""
    return model.losses([draw(config, windows, model, seed)], torch.float32)


def attention_of_torch(layer: Attention) -> nn.MultiheadAttention:
    """Torch's own attention, of width 16 and 4 heads, with a layer's weights."""
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    reference.load_state_dict(
        {
            "in_proj_weight": layer.projections.weight,
            "in_proj_bias": layer.projections.bias,
            "out_proj.weight": layer.output.weight,
            "out_proj.bias": layer.output.bias,
        }
    )
    return reference
