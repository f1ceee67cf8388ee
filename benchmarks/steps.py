"""One training step, beside the bare encoder on the same views."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from shared.config import Config
from shared.cpu import set_up_process
from shared.data import training_people
from shared.data.statistics import ChannelStatistics
from shared.model import grouped, prepare
from shared.seeding import make_generator
from shared.train import Training, pick_device

Measurement = tuple[str, str, str]
"""What was measured, the figure, and what is aimed at."""

_REPETITIONS = 15


def measure_steps(config: Config) -> list[Measurement]:
    """Time a client's training step and its parts, with the client's number of threads."""
    set_up_process(config.train.threads)
    person = training_people(config.data, config.any_sensors)[0]
    size = min(config.train.batch_size, len(person))
    training = Training.federated(config, prepare(config, person[:size]), ChannelStatistics.of(person))
    model, device = training.model, training.device
    generator = make_generator(0, device=device)
    everything = torch.arange(size, device=device)
    batch = model.batch(*training.data.rows(everything), generator)
    passes = [view for _, view in grouped([v for views in model.draw(batch, generator).views for v in views])]
    passes = [view for view in passes if not view.teacher]
    targets = [torch.randn(len(v.x), model.encoder.dim, generator=generator, device=device) for v in passes]
    count = sum(len(view.x) for view in passes)

    def step(precision: torch.dtype) -> None:
        training.precision = precision
        training.step(everything, generator, 0.5)

    def bare(precision: torch.dtype) -> None:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            embeddings = [model.encoder.encode(view, model.blank).pooled for view in passes]
        model.encoder.zero_grad(set_to_none=True)
        torch.autograd.backward(embeddings, targets)

    def augment() -> None:
        model.draw(batch, generator)

    whole, encoder, views, half, half_encoder = _medians(
        lambda: step(torch.float32),
        lambda: bare(torch.float32),
        augment,
        lambda: step(torch.bfloat16),
        lambda: bare(torch.bfloat16),
        synchronise=torch.cuda.synchronize if device.type == "cuda" else None,
    )
    where = f"{device.type}, {config.train.threads} thread" + "s" * (config.train.threads > 1)
    return [
        (f"training step, {size} windows, {count} views ({where})", f"{1e3 * whole:.1f} ms", ""),
        ("windows a second, all tasks", f"{size / whole:.0f}", ""),
        ("bare encoder forward + backward on the same views / training step", f"{encoder / whole:.2f}", "≥ 0.80"),
        ("share of the step spent on making views", f"{100 * views / whole:.1f} %", "≤ 10 %"),
        ("float32 / bfloat16, training step", f"{whole / half:.2f}", ""),
        ("float32 / bfloat16, bare encoder", f"{encoder / half_encoder:.2f}", ""),
    ]


def step_times(configs: Mapping[str, Config]) -> dict[str, float]:
    """Return the seconds of a client's training step of each configuration, measured in turns.

    Args:
        configs: By name; of one data set.
    """
    first = next(iter(configs.values())).train
    set_up_process(first.threads)
    device, steps = pick_device(first.device), {}
    for name, config in configs.items():
        person = training_people(config.data, config.any_sensors)[0][: config.train.batch_size]
        training = Training.federated(config, prepare(config, person), ChannelStatistics.of(person))
        rows, generator = torch.arange(len(person), device=device), make_generator(0, device=device)
        steps[name] = partial(training.step, rows, generator, 0.5)
    synchronise = torch.cuda.synchronize if device.type == "cuda" else None
    return dict(zip(steps, _medians(*steps.values(), synchronise=synchronise), strict=True))


def _medians(*actions: Callable[[], Any], synchronise: Callable[[], None] | None) -> list[float]:
    """Return the median seconds of each action; they take turns, so that drift of the machine meets them all."""
    seconds: list[list[float]] = [[] for _ in actions]
    for repetition in range(_REPETITIONS + 2):
        for action, times in zip(actions, seconds, strict=True):
            started = time.perf_counter()
            action()
            if synchronise:
                synchronise()
            if repetition >= 2:  # the first two warm caches and kernels up
                times.append(time.perf_counter() - started)
    return [statistics.median(times) for times in seconds]
