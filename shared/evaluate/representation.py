"""What can be judged: a trained encoder, and the baselines that it has to beat."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import Encoder, EncoderSettings, build_encoder
from shared.errors import UserError
from shared.features import expert_features
from shared.seeding import make_generator, seeded_initialisation

Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class Representation:
    """Something to judge; at least one of ``embed`` and ``encoder`` is there.

    Args:
        embed: Seed to float32 (N, D) embeddings of (train, test), or None: there is only a network to train.
        encoder: Seed to the network that the embeddings are from, or None: they are from no network.
        seeded: Whether the seed changes them.
    """

    embed: Callable[[int], tuple[Embeddings, Embeddings]] | None
    encoder: Callable[[int], Encoder] | None = None
    seeded: bool = False


def encoded(encoder: Encoder, train: Windows, test: Windows) -> Representation:
    """A frozen encoder's embeddings, and the encoder for protocols that train a copy of it."""
    return Representation(lambda seed: (embed(encoder, train.x), embed(encoder, test.x)), lambda seed: encoder)


def encoded_by_seed(by_seed: Callable[[int], Encoder], train: Windows, test: Windows) -> Representation:
    """The embeddings of another encoder for each seed, such as one configuration trained once with each."""

    def embeddings(seed: int) -> tuple[Embeddings, Embeddings]:
        encoder = by_seed(seed)
        return embed(encoder, train.x), embed(encoder, test.x)

    return Representation(embeddings, by_seed, seeded=True)


def random_encoder(settings: EncoderSettings, train: Windows, test: Windows) -> Representation:
    """Embeddings by an encoder that was never trained, initialised afresh for each seed.

    What a trained encoder knows of its data without learning, this one knows too: the training people's channel
    statistics and its own BatchNorm statistics on their windows.
    """

    def by_seed(seed: int) -> Encoder:
        encoder = untrained(settings, train, seed)
        estimate_norm_statistics(encoder, train.x)
        return encoder

    return encoded_by_seed(by_seed, train, test)


def supervised(settings: EncoderSettings, train: Windows, test: Windows) -> Representation:
    """No embeddings, but the same network to train from scratch on the labels alone."""
    return Representation(None, lambda seed: untrained(settings, train, seed), seeded=True)


def expert(settings: EncoderSettings, train: Windows, test: Windows) -> Representation:
    """Expert time and frequency features of the windows; the settings play no part."""
    return Representation(
        lambda seed: (
            expert_features(torch.from_numpy(train.x), train.meta.spec).numpy(),
            expert_features(torch.from_numpy(test.x), test.meta.spec).numpy(),
        )
    )


def raw(settings: EncoderSettings, train: Windows, test: Windows) -> Representation:
    """The samples, or pixels, themselves, (N, C * T); the protocols standardise each. The settings play no part."""
    return Representation(lambda seed: (_flat(train), _flat(test)))


def _flat(windows: Windows) -> Embeddings:
    return windows.x.reshape(len(windows), -1).astype(np.float32, copy=False)


BASELINES: dict[str, Callable[[EncoderSettings, Windows, Windows], Representation]] = {
    "random": random_encoder,
    "features": expert,
    "raw": raw,
    "supervised": supervised,
}
"""What a trained encoder has to beat, by name."""


def untrained(settings: EncoderSettings, train: Windows, seed: int) -> Encoder:
    """Return an encoder as training would start it, with the training people's channel statistics."""
    with seeded_initialisation(seed, "encoder"):
        encoder = build_encoder(settings, train.meta.spec)
    statistics = ChannelStatistics.of(train)
    encoder.standardise(statistics.mean, statistics.std)
    return encoder


def embed(encoder: nn.Module, x: NDArray[np.float32], batch: int = 1024) -> Embeddings:
    """Encode windows without changing the encoder: evaluation mode, no gradient, modes put back afterwards.

    Args:
        encoder: Maps (N, C, T) to (N, D).
        x: float32 (N, C, T), raw.
        batch: Most windows at a time.

    Returns:
        float32 (N, D).
    """
    device = next(encoder.parameters()).device
    with modes_kept(encoder), torch.no_grad():
        encoder.eval()
        parts = torch.from_numpy(x).tensor_split(max(1, math.ceil(len(x) / batch)))
        embedded = [encoder(part.to(device)).float().cpu() for part in parts]
    embeddings: Embeddings = torch.cat(embedded).numpy()
    return embeddings


def estimate_norm_statistics(encoder: nn.Module, x: NDArray[np.float32], batch: int = 1024) -> None:
    """Set the running statistics of every BatchNorm layer from unlabelled windows, in one pass.

    For encoders whose statistics never left the clients (policy "local"; FedBN, Li et al. 2021). Layers average the
    statistics of nearly equal batches in an order that mixes people. Nothing else is in training mode, so that the
    statistics are those of the encoder as it will be used. The encoder is left in evaluation mode.

    Args:
        encoder: Maps (N, C, T) to (N, D); without BatchNorm it stays as it is.
        x: float32 (N, C, T), raw, of training people.
        batch: Most windows at a time.

    Raises:
        UserError: No windows.
    """
    if not len(x):
        raise UserError("normalisation statistics cannot be estimated from no windows")
    encoder.eval()
    layers = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch: the plain average of all batches
        layer.train()
    device = next(encoder.parameters()).device
    order = torch.randperm(len(x), generator=make_generator("norm statistics"))
    with torch.no_grad():
        for rows in order.tensor_split(math.ceil(len(x) / batch)):
            encoder(torch.from_numpy(x[rows.numpy()]).to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    encoder.eval()


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Put the training flag of every submodule back when the block ends."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
