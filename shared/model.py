"""One encoder, several pretext tasks, the rule that weighs them, and what makes gradients of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from shared.augmentations import Channels, compose
from shared.body import of_channels
from shared.columns import Column, column, placed, taken
from shared.config import Config
from shared.data.spec import InputSpec
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Meta, Windows
from shared.encoders import Encoded, Encoder, View, build_encoder
from shared.errors import UserError
from shared.large import blocks, stack
from shared.seeding import seeded_initialisation
from shared.steps import Losses, Step, StepContext, build_step
from shared.tasks import TASKS, Batch, Draw, Task, TaskContext
from shared.teacher import MovingAverage, TeacherSettings
from shared.transforms import transforms_of
from shared.weighting import Weighting, build_weighting

EVERYBODY = "0"
"""Stands for the person where windows of several people are trained together."""


@dataclass(frozen=True)
class TrainingData:
    """One person's, or all people's, windows, as the training loop takes them.

    Args:
        x: float32 (N, C, T) in physical units, or uint8 (N, C, H, W) of images.
        extras: What tasks need beside the windows, N rows each, by the name of the task.
        windows: The windows that ``x`` is of.
        person: Whose windows they are; ``EVERYBODY`` where they are of several people.
    """

    x: Column
    extras: Mapping[str, Column]
    windows: Windows
    person: str

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> "TrainingData":
        """Return the data on a device; what lies in files stays there."""
        return replace(self, x=placed(self.x, device), extras={k: placed(v, device) for k, v in self.extras.items()})

    def rows(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return some windows and their extras, on the device that the numbers of the rows, int64 (B,), are on."""
        return taken(self.x, rows), {name: taken(extra, rows) for name, extra in self.extras.items()}


class Model(nn.Module):
    """The shared encoder, and beside it what stays private: heads, weighting, step, teacher, blank token.

    Args:
        encoder: The shared part.
        tasks: By name.
        weighting: Of their losses.
        step: Makes gradients.
        teacher: How teachers follow.
        reorient: Turns the windows of a batch before their views are made.
    """

    def __init__(
        self,
        encoder: Encoder,
        tasks: Mapping[str, Task],
        weighting: Weighting,
        step: Step,
        teacher: TeacherSettings,
        reorient: Callable[[Tensor, torch.Generator], Tensor],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(tasks)
        self.tasks = dict(tasks)
        self.weighting = weighting
        self.step = step
        self.teacher_settings = teacher
        self.reorient = reorient
        self.teacher = MovingAverage(encoder) if any(task.teacher for task in tasks.values()) else None
        self.blank: nn.Parameter | None = None
        if encoder.takes_tokens and any(task.masks for task in tasks.values()):
            self.blank = nn.Parameter(torch.zeros(encoder.width, 1))
        self._teachers = [module for module in self.modules() if isinstance(module, MovingAverage)]

    def draw(self, batch: Batch, generator: torch.Generator) -> Draw:
        """Draw the views of all tasks; every random choice comes from ``generator``."""
        drawn = [task.views(batch, generator) for task in self.tasks.values()]
        return Draw(batch, tuple(views for views, _ in drawn), tuple(memory for _, memory in drawn))

    def batch(self, x: Tensor, extras: Mapping[str, Tensor], generator: torch.Generator) -> Batch:
        """Return windows (N, C, T) as the tasks see them, with their rows of the extras.

        They may be turned at random. An encoder that aligns windows could not tell how they were: the tasks then see
        them aligned too. The extras are those of the windows before.
        """
        x = self.encoder.aligned(self.reorient(x.float(), generator))  # images are bytes
        return Batch(x, (x - self.encoder.mean) / self.encoder.std, extras)

    def losses(
        self,
        parts: Sequence[Draw],
        precision: torch.dtype,
        *,
        weights: Mapping[str, Tensor] | None = None,
        calibrate: Callable[[Tensor], Tensor] | None = None,
    ) -> Losses:
        """Return the losses of the K tasks on each of P parts of a batch.

        Views that can share a pass of the encoder do.

        Args:
            parts: The parts, with their views.
            precision: Of the encoder's arithmetic; the heads and the losses are float32.
            weights: Parameters and buffers by name, instead of its own.
            calibrate: Makes of the embeddings what the heads see; None: they see them as they are.
        """
        if weights is not None:
            # The signs of a collapse stay those of the model's own weights.
            signs = [(task, task.projections, task.code_shares) for task in self.tasks.values()]
            found = torch.func.functional_call(self, dict(weights), (parts, precision, calibrate))
            for task, projections, code_shares in signs:
                task.projections, task.code_shares = projections, code_shares
            return cast(Losses, found)
        return self.forward(parts, precision, calibrate)

    def forward(
        self, parts: Sequence[Draw], precision: torch.dtype, calibrate: Callable[[Tensor], Tensor] | None
    ) -> Losses:
        """Return ``losses`` at the weights of now."""
        views = [view for part in parts for of_task in part.views for view in of_task]
        encoded: dict[int, Encoded] = {}
        embeddings, tokens = [], []
        for members, together in grouped(views):
            with torch.autocast(together.x.device.type, precision, enabled=precision != torch.float32):
                whole = self._encode(together)
            if not together.teacher:
                if calibrate is not None:
                    whole = whole._replace(pooled=calibrate(whole.pooled))
                embeddings.append(whole.pooled)
                tokens.append(whole.tokens)
            encoded |= zip(members, whole.split([len(views[member].x) for member in members]), strict=True)
        numbers = iter(range(len(views)))
        values: list[list[Tensor]] = [[] for _ in self.tasks]
        for part in parts:
            for of_task, task, wanted, memory in zip(
                values, self.tasks.values(), part.views, part.memories, strict=True
            ):
                of_task.append(task.loss([encoded[next(numbers)] for _ in wanted], memory, part.batch))
        return Losses(tuple(torch.stack(of_task) for of_task in values), tuple(embeddings), tuple(tokens))

    def _encode(self, view: View) -> Encoded:
        if view.teacher:
            with torch.no_grad():
                return cast(MovingAverage[Encoder], self.teacher).module.encode(view)
        return self.encoder.encode(view, self.blank)

    def after_step(self, progress: float) -> None:
        """Move teachers, and what else moves after a step of the optimizer, at a point of the whole run (0 to 1)."""
        momentum = self.teacher_settings.momentum_at(progress)
        for teacher in self._teachers:
            teacher.follow(momentum)
        for task in self.tasks.values():
            task.after_step(progress)

    def after_new_encoder(self, first: bool) -> None:
        """Adapt to an encoder that has arrived from the server.

        Args:
            first: Whether this is the first that this model has seen, so that there is nothing to follow from.
        """
        if self.teacher is not None and (first or self.teacher_settings.on_new_encoder == "restart"):
            self.teacher.follow(0.0)
        for task in self.tasks.values():
            task.after_new_encoder()


def grouped(views: Sequence[View]) -> list[tuple[list[int], View]]:
    """Return the views that can share a pass of the encoder, together, each group with its members' numbers."""
    groups: dict[Any, list[int]] = {}
    for number, view in enumerate(views):
        length = None if view.keep is None else view.keep.shape[1]
        groups.setdefault((view.teacher, view.x.shape[1:], view.mask is None, length), []).append(number)
    together = []
    for members in groups.values():
        x, keep, mask, teacher = zip(*(views[member] for member in members), strict=True)
        together.append((members, View(torch.cat(x), _cat(keep), _cat(mask), teacher[0])))
    return together


def _cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.cat(present) if present else None


def build_initial_encoder(config: Config, spec: InputSpec) -> Encoder:
    """Return the encoder as every run of this configuration starts it, for windows of this kind."""
    with seeded_initialisation(config.seed, "encoder"):
        return build_encoder(config.encoder, spec)


def own_statistics(config: Config, pooled: ChannelStatistics, spec: InputSpec) -> ChannelStatistics:
    """Return what a federation has pooled over everybody, for the channels of one spec.

    Args:
        config: The configuration.
        pooled: One value for each channel; by ``shared.body.pooled_by_kind`` where the encoder is of single sensors.
        spec: Of the windows.

    Raises:
        UserError: Another number of values.
    """
    if config.any_sensors:
        return of_channels(pooled, spec)
    if (found := len(pooled.total)) != (expected := len(spec.channels)):
        raise UserError(f"expected sums of {expected} channels, found {found}")
    return pooled


def build_model(config: Config, meta: Meta, statistics: ChannelStatistics) -> Model:
    """Build the model for the windows that ``meta`` describes.

    Heads start from the configuration's seed alone: clients that begin alike disagree less at first.

    Args:
        config: The configuration.
        meta: What the windows are.
        statistics: Of the training people; standardises the encoder's input.

    Raises:
        UserError: A task asks for what the encoder cannot do, or for what the windows do not have.
    """
    encoder = build_initial_encoder(config, meta.spec)
    encoder.standardise(statistics.mean, statistics.std)
    channels = Channels(meta.spec, encoder.std.flatten())
    context = TaskContext(
        channels=channels,
        transform=compose(config.views.transforms, transforms_of(meta.spec)),
        dim=encoder.dim,
        width=encoder.width,
        layout=encoder.layout,
        takes_tokens=encoder.takes_tokens,
        encoder=config.encoder.name,
        extra=0,
    )
    if meta.spec.rate is None and (of_time := [name for name in config.enabled_tasks if TASKS[name].of_time]):
        raise UserError(
            f"{', '.join(of_time)}: tasks of windows with a time axis, which images do not have; set "
            f"{', '.join(f'tasks.{name}.enabled=false' for name in of_time)}"
        )
    with seeded_initialisation(config.seed, "tasks"):
        tasks = {
            name: TASKS[name](settings, replace(context, extra=TASKS[name].extra_width(settings, meta)))
            for name, settings in config.enabled_tasks.items()
        }
    weights = {name: settings.weight for name, settings in config.enabled_tasks.items()}
    with seeded_initialisation(config.seed, "step"):
        pooled = any(task.pooled for task in tasks.values())
        step = build_step(config.step, StepContext(encoder.dim, len(tasks), pooled))
    reorient = _reorientation(config, channels)
    return Model(encoder, tasks, build_weighting(config.weighting, weights), step, config.teacher, reorient)


def _reorientation(config: Config, channels: Channels) -> Callable[[Tensor, torch.Generator], Tensor]:
    name = config.views.reorient
    if name is not None and not channels.spec.triads:
        raise UserError(
            f"views.reorient={name} turns three-axis sensors; expected channels such as total_acc_x, with y and z, "
            f"found none among {len(channels.spec.channels)}"
        )
    turn = compose([] if name is None else [name])
    return lambda x, generator: turn(x, generator, channels)


def prepare(config: Config, windows: Windows) -> TrainingData:
    """Turn windows into what the training loop takes, with what the tasks need beside them.

    An encoder that aligns windows gets them aligned, and so does what is computed of them.

    Raises:
        UserError: A task cannot have what it needs of these windows, or they are too short for the encoder.
    """
    encoder = build_initial_encoder(config, windows.meta.spec).eval()
    if encoder.align is not None:
        aligned = (encoder.aligned(torch.from_numpy(np.array(block))).numpy() for block in blocks(windows.x))
        windows = replace(windows, x=stack(aligned, windows.meta.spec.shape, np.float32))
    extras = {
        name: make(windows, encoder, settings, None)
        for name, settings in config.enabled_tasks.items()
        if (make := TASKS[name].extra) is not None
    }
    person = windows.people[0] if len(windows.people) == 1 else EVERYBODY
    return TrainingData(column(windows.x), extras, windows, person)
