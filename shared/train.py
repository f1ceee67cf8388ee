"""The only training loop: a federated client's round and the centralized baseline both run it."""

import logging
import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from shared.checkpoint import pack_optimizer, unpack_optimizer
from shared.collapse import common_complaint, signs
from shared.columns import placed
from shared.config import Config, TrainSettings
from shared.data.person import person_seed
from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import Encoder
from shared.errors import UserError
from shared.model import Model, TrainingData, build_model, prepare
from shared.sampling import Sampler
from shared.seeding import make_generator
from shared.steps import Pass
from shared.tasks import TASKS

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochLog:
    """What one pass over the windows gave: mean losses, the weights after it, windows, seconds and memory.

    ``signs`` are those of a collapse, by the name of the task (``shared.collapse.signs``), at the last batch.
    ``precision`` is what "auto" came to on this machine; ``memory`` is the most that this process has held so far, in
    bytes, main memory only.
    """

    epoch: int
    loss: float
    losses: dict[str, float]
    weights: dict[str, float]
    signs: dict[str, dict[str, float]]
    learning_rate: float
    windows: int
    precision: str
    seconds: float
    memory: int

    def row(self) -> dict[str, Any]:
        """Return the log flat, as a line of ``metrics.jsonl``: ``loss.TASK``, ``weight.TASK``, ``spread.TASK`` ..."""
        flat = {k: v for k, v in asdict(self).items() if k not in ("losses", "weights", "signs")}
        flat |= {f"{sign}.{name}": v for name, signs in self.signs.items() for sign, v in signs.items()}
        flat |= {f"loss.{name}": value for name, value in self.losses.items()}
        return flat | {f"weight.{name}": value for name, value in self.weights.items()}


def pick_device(name: str) -> torch.device:
    """Return the named device; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: The machine has no such device.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name != "auto":
        if not available[name]:
            raise UserError(f"train.device is {name!r}, which this machine does not have; choose auto or cpu")
        return torch.device(name)
    return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type that the encoder computes in; "auto" takes bfloat16 on CUDA and x86 that can compute in it.

    Without them it would be computed in float32 and rounded, which is slower than float32.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities()
        able = device.type == "cpu" and bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return torch.bfloat16 if able else torch.float32


def build_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019) with weight decay on matrices and kernels only."""
    parameters = [p for p in model.parameters() if p.requires_grad]  # a teacher's are moved without gradients
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def schedule(settings: TrainSettings, progress: float) -> float:
    """Return the learning rate at a point of the whole run, ``progress`` from 0 to 1.

    Linear warm-up, then constant or half a cosine down to zero (Loshchilov and Hutter 2017).
    """
    if progress < settings.warmup:
        return settings.learning_rate * progress / settings.warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    rest = (progress - settings.warmup) / (1 - settings.warmup)
    return settings.learning_rate * (1 + math.cos(math.pi * rest)) / 2


class Training:
    """A model, its optimizer and its data: the one recipe that a client, the baseline and the benchmarks start.

    Set the number of threads (``shared.cpu.set_up_process``) before the data is prepared: sums over windows depend on
    it.

    Args:
        config: Of the run.
        data: What to train on.
        statistics: Of all training people; standardises the encoder's input.
        batch_size: Windows a step.
        total_epochs: Of the whole run; the learning rate follows them.

    Attributes:
        config: Of the run.
        batch_size: Windows a step, at most.
        total_epochs: Of the whole run.
        model: In the state of its initialisation, on the device.
        optimizer: Of all its parameters.
        data: On the device, but for what is large.
        device: That the model is on.
        precision: Of the encoder's arithmetic.

    Raises:
        UserError: The machine lacks the device, or the model cannot be built for these windows.
    """

    def __init__(
        self,
        config: Config,
        data: TrainingData,
        statistics: ChannelStatistics,
        *,
        batch_size: int,
        total_epochs: int,
    ) -> None:
        self.device = device = pick_device(config.train.device)
        self.model = build_model(config, data.windows.meta, statistics).to(device)
        self.optimizer = build_optimizer(self.model, config.train)
        self.data = data.to(device)
        self.precision = pick_precision(config.train.precision, device)
        self.config = config
        self.sampler = Sampler(config.train, config.seed, data.windows, statistics)
        self._remade = {n: every for n, s in config.enabled_tasks.items() if (every := s.remake_every) is not None}
        self._made = {name: torch.zeros((), dtype=torch.int64) for name in self._remade}
        self.batch_size = batch_size
        self.total_epochs = total_epochs

    @classmethod
    def federated(cls, config: Config, data: TrainingData, statistics: ChannelStatistics) -> Self:
        """Return a client's training, by the configuration's blocks ``train`` and ``federation``."""
        return cls(
            config,
            data,
            statistics,
            batch_size=config.train.batch_size,
            total_epochs=config.federation.rounds * config.federation.local_epochs,
        )

    @classmethod
    def centralized(cls, config: Config, data: TrainingData, statistics: ChannelStatistics) -> Self:
        """Return the baseline's training, by the configuration's block ``centralized``."""
        settings = config.centralized
        return cls(
            config,
            data,
            statistics,
            batch_size=settings.batch_size,
            total_epochs=settings.epochs,
        )

    def run(self, epochs: range, proximal_mu: float = 0.0) -> Iterator[EpochLog]:
        """Train for the given epochs, counted from 0 over the whole run, and yield a log after each.

        Batches are nearly equal parts of a fresh permutation, so that no batch is a small rest. Windows, their order
        and views are drawn from (seed, epoch, person): the same epoch gives the same steps whether or not a run was
        interrupted.

        With ``proximal_mu`` the loss has the term mu / 2 ||w - w_0||^2 over the encoder's weights, w_0 being those at
        the beginning (FedProx, Li et al. 2020, equation 2).

        Raises:
            UserError: A loss that is not finite; names the task.
        """
        origin = [weight.detach().clone() for weight in self.model.encoder.parameters()]
        for epoch in epochs:
            one = _Epoch(self, epoch, proximal_mu, origin)
            for number in range(len(one)):
                one.step(number)
            yield one.log()

    @property
    def encoder(self) -> Encoder:
        """Of the model."""
        return self.model.encoder

    def step(
        self, rows: Tensor, generator: torch.Generator, progress: float, pull: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Take one step of the optimizer on some windows.

        Args:
            rows: int64 (B,), the windows' numbers.
            generator: Source of every random choice in the batch and its views.
            progress: Of the whole run, from 0 to 1.
            pull: A scalar that is added to the loss.

        Returns:
            The losses of the K tasks, (K,), and the scalar that was minimised; without gradients.
        """
        model = self.model
        batch = model.batch(*self.data.rows(rows), generator)
        parts = [model.draw(part, generator) for part in batch.split(model.step.parts(len(rows)))]
        self.optimizer.zero_grad(set_to_none=True)
        losses_at = partial(model.losses, precision=self.precision)
        losses, loss = model.step.backward(Pass(losses_at, parts, model.weighting, model, pull))
        self.optimizer.step()
        model.after_step(progress)
        return losses, loss

    def state(self) -> dict[str, Tensor]:
        """Return all that a later ``load`` needs: the model, the optimizer, and extras that are made again."""
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        state |= {f"extra.{name}": torch.as_tensor(self.data.extras[name]) for name in self._remade}
        state |= {f"made.{name}": epoch.clone() for name, epoch in self._made.items()}
        return state | pack_optimizer(self.optimizer)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what ``state`` returned, or a part of it; of the model, what is missing stays as it is."""
        model = self.model.state_dict()
        self.model.load_state_dict(model | {n: tensors[f"model.{n}"] for n in model if f"model.{n}" in tensors})
        unpack_optimizer(self.optimizer, tensors)
        extras = {name: tensors[f"extra.{name}"].to(self.device) for name in self._remade}
        self.data = replace(self.data, extras=dict(self.data.extras) | extras)
        self._made = {name: tensors[f"made.{name}"].clone() for name in self._remade}

    def remake_extras(self, epoch: int) -> None:
        """Make those extras again, by the encoder of now, whose time it is, or has been while others trained."""
        for name, every in self._remade.items():
            if epoch // every > int(self._made[name]) // every and (make := TASKS[name].extra) is not None:
                self._made[name].fill_(epoch)
                extras = dict(self.data.extras)
                encoder = self.model.encoder.eval()
                made = make(self.data.windows, encoder, self.config.tasks[name], extras[name])
                encoder.train()
                self.data = replace(self.data, extras=extras | {name: placed(made, self.device)})


class _Epoch:
    """One pass over the windows of a training, step by step.

    Args:
        training: Whose.
        epoch: Its number, from 0.
        proximal_mu: See ``Training.run``.
        origin: The encoder's weights, from which the proximal term holds back.
    """

    def __init__(self, training: Training, epoch: int, proximal_mu: float, origin: list[Tensor]) -> None:
        self._started = time.perf_counter()
        self._training = training
        self._epoch = epoch
        self._mu, self._origin = proximal_mu, origin
        model, data = training.model.train(), training.data
        training.remake_extras(epoch)
        device = training.device
        self._generator = make_generator(training.config.seed, epoch, person_seed(data.person), device=device)
        drawn = training.sampler.draw(epoch).to(device)
        order = drawn[torch.randperm(len(drawn), generator=self._generator, device=device)]
        self._batches = order.tensor_split(math.ceil(len(order) / training.batch_size))
        self._sums = torch.zeros(len(model.tasks), device=device)
        self._total = torch.zeros((), device=device)
        self._rate = 0.0

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._batches)

    def step(self, number: int) -> None:
        """Take a step, counted from 0; one after the other."""
        training, rows = self._training, self._batches[number]
        progress = (self._epoch + (number + 0.5) / len(self)) / training.total_epochs
        self._rate = schedule(training.config.train, progress)
        for group in training.optimizer.param_groups:
            group["lr"] = self._rate
        pull = self._mu / 2 * _squared_distance(training.model.encoder, self._origin) if self._mu else None
        losses, loss = training.step(rows, self._generator, progress, pull)
        self._sums += losses * len(rows)
        self._total += loss * len(rows)

    def log(self) -> EpochLog:
        """Return the log, after the last step.

        Raises:
            UserError: A loss that is not finite; names the task.
        """
        model, windows = self._training.model, len(self._training.sampler)
        means = self._sums / windows
        if not torch.isfinite(means).all():
            broken = [n for n, v in zip(model.tasks, means.tolist(), strict=True) if not math.isfinite(v)]
            raise UserError(
                f"epoch {self._epoch + 1}: the loss of {', '.join(broken)} is not finite; a smaller "
                f"train.learning_rate (now {self._training.config.train.learning_rate:g}) may help"
            )
        weights = model.weighting.weights().tolist()
        model.weighting.end_epoch(means)
        return EpochLog(
            epoch=self._epoch + 1,
            loss=float(self._total) / windows,
            losses=dict(zip(model.tasks, means.tolist(), strict=True)),
            weights=dict(zip(model.tasks, weights, strict=True)),
            signs=_signs(model, means.tolist()),
            learning_rate=self._rate,
            windows=windows,
            precision=str(self._training.precision).removeprefix("torch."),
            seconds=time.perf_counter() - self._started,
            memory=_peak_memory(),
        )


class Together:
    """Trainings of windows that differ, such as of other sensors, with one encoder and one optimizer.

    Each kind of windows has a model of its own, as every client of a federation has; the encoders of all models have
    the same weights. A batch is of one kind. Batches of all kinds are spread evenly over an epoch, in which each window
    is seen once.

    Args:
        trainings: One for each kind of windows; from now on their encoders and optimizers are those of the first.

    Attributes:
        trainings: As given.
        encoder: The one of the first training.
    """

    def __init__(self, trainings: Sequence[Training]) -> None:
        self.trainings = trainings
        first, *others = trainings
        self.encoder = first.model.encoder
        for other in others:
            share_weights(self.encoder, other.model.encoder)
        self._optimizer = build_optimizer(nn.ModuleList(one.model for one in trainings), first.config.train)
        for one in trainings:
            one.optimizer = self._optimizer

    def run(self, epochs: range) -> Iterator[EpochLog]:
        """Train for the given epochs, as ``Training.run`` does, and yield a log of all windows after each."""
        for epoch in epochs:
            started = time.perf_counter()
            ones = [_Epoch(training, epoch, 0.0, []) for training in self.trainings]
            for _, kind, number in sorted(
                ((number + 0.5) / len(one), kind, number) for kind, one in enumerate(ones) for number in range(len(one))
            ):
                ones[kind].step(number)
            yield _pooled([one.log() for one in ones], time.perf_counter() - started)

    def state(self) -> dict[str, Tensor]:
        """Return all that a later ``load`` needs; the encoder, which all have, once."""
        state = pack_optimizer(self._optimizer)
        for number, training in enumerate(self.trainings):
            left_out = ("optimizer.", "model.encoder.") if number else ("optimizer.",)
            own = {name: value for name, value in training.state().items() if not name.startswith(left_out)}
            state |= {f"{number}.{name}": value for name, value in own.items()}
        return state

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what ``state`` returned."""
        for number, training in enumerate(self.trainings):
            begin = f"{number}."
            training.load({name.removeprefix(begin): v for name, v in tensors.items() if name.startswith(begin)})
        unpack_optimizer(self._optimizer, tensors)


def share_weights(source: nn.Module, target: nn.Module) -> None:
    """Give a module the parameters, and the buffers of the state dict, of another that is built alike, not copies."""
    for name in source.state_dict():
        place, _, leaf = name.rpartition(".")
        setattr(target.get_submodule(place), leaf, getattr(source.get_submodule(place), leaf))


def _pooled(logs: Sequence[EpochLog], seconds: float) -> EpochLog:
    """Return one log of an epoch of several trainings: of everything the mean over their windows."""

    def mean(values: Mapping[int, float]) -> float:
        """Return the mean of values by the number of their log."""
        return sum(value * logs[n].windows for n, value in values.items()) / sum(logs[n].windows for n in values)

    def means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the mean of each name's values, over the logs that have it."""
        names = dict.fromkeys(name for one in found for name in one)
        return {name: mean({n: one[name] for n, one in enumerate(found) if name in one}) for name in names}

    return replace(
        logs[0],
        loss=mean({n: log.loss for n, log in enumerate(logs)}),
        losses=means([log.losses for log in logs]),
        weights=means([log.weights for log in logs]),
        signs={name: means([log.signs[name] for log in logs]) for name in logs[0].signs},
        windows=sum(log.windows for log in logs),
        seconds=seconds,
        memory=_peak_memory(),
    )


def _signs(model: Model, losses: list[float]) -> dict[str, dict[str, float]]:
    """Return each task's signs of a collapse."""
    found = {}
    for (name, task), loss in zip(model.tasks.items(), losses, strict=True):
        projections, shares = (None if z is None else z.cpu().numpy() for z in (task.projections, task.code_shares))
        found[name] = signs(projections, shares, loss, task.chance)
    return found


def collapse_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which tasks have collapsed, by what it shows, and what to turn.

    Args:
        rows: The rows of one epoch (``EpochLog.row``), one for each of those who trained it.
    """
    who = f" on most of {len(rows)} clients" if len(rows) > 1 else ""
    return [
        f"task {name!r} may have collapsed{who}: {' and '.join(words)}. {TASKS[name].advice}"
        for name in TASKS
        if (words := common_complaint(rows, name))
    ]


def time_to_warn(step: int, total: int) -> bool:
    """Whether to warn of a collapse after an epoch or round, from 1: after a quarter of the run, and at its end."""
    return step in (math.ceil(total / 4), total)


def check_trainable(config: Config, *parts: Windows) -> None:
    """Compute the losses of two windows, so that what cannot be trained is refused before a run's folder is made.

    Args:
        config: Of the run to come.
        parts: Windows of the training people, of each kind that there is.

    Raises:
        UserError: The device, the encoder or a task cannot work with these settings on these windows.
    """
    for windows in parts:
        try:
            _check_trainable(config, windows)
        except UserError as error:
            raise UserError(f"{windows.meta.name}: {error}" if len(parts) > 1 else str(error)) from None


def _check_trainable(config: Config, windows: Windows) -> None:
    if not len(windows):
        raise UserError(f"the data set {windows.meta.name!r} has no training people")
    if config.train.sampling == "movement" and windows.meta.spec.rate is None:
        raise UserError("train.sampling=movement is of windows with a time axis, found images: set it to uniform")
    device = pick_device(config.train.device)
    few = windows[np.arange(min(2, len(windows)))]
    model = build_model(config, few.meta, ChannelStatistics.of(few)).to(device)
    if config.encoder.hidden is not None and not any(task.pooled for task in model.tasks.values()):
        raise UserError("the tasks look at tokens alone and would not train the hidden layer: set encoder.hidden=null")
    data = prepare(config, few).to(device)
    generator = make_generator(config.seed, device=device)
    draw = model.draw(model.batch(*data.rows(torch.arange(len(few), device=device)), generator), generator)
    model.losses([draw], torch.float32)


def warn_of_lone_windows(config: Config, windows: Iterable[int], block: Literal["train", "centralized"]) -> None:
    """Warn where batches of one window would come up and a task compares the windows of a batch: it learns nothing.

    Args:
        config: Of the run to come.
        windows: How many each of those who train takes in an epoch.
        block: Of the configuration, with the batch size that they train with.
    """
    size: int = getattr(config, block).batch_size
    lone = [count for count in windows if count < 2 * math.ceil(count / size)]
    tasks = [name for name in config.enabled_tasks if TASKS[name].compares_windows]
    if lone and tasks:
        LOG.warning(
            "with %s.batch_size=%d some batches of %d windows hold one window, of which %s learns nothing, because it "
            "compares the windows of a batch: set a larger %s.batch_size",
            block, size, min(lone), " and ".join(tasks), block,
        )  # fmt: skip


def _squared_distance(encoder: nn.Module, origin: list[Tensor]) -> Tensor:
    return torch.stack([(w - o).square().sum() for w, o in zip(encoder.parameters(), origin, strict=True)]).sum()


def _peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
