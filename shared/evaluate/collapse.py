"""Has a representation collapsed? How many directions embeddings use, and whether their dimensions vary at all."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

CONSTANT = 1e-3
"""A dimension is constant whose standard deviation is at most this share of its root mean square."""

MOST_CONSTANT = 0.5
"""Share of constant dimensions above which a representation is called collapsed."""

LEAST_RANK = 0.05
"""Effective rank, as a share of D, below which it is called collapsed. On UCI HAR encoders have 40 % and more, trained
or not; what remains when all but a few directions are lost is far below."""

LEAST_DIRECTIONS = 1.5
"""Effective rank below which it is called collapsed, however small D is."""


class EmbeddingSpread(BaseModel):
    """How embeddings of the training people are spread.

    Args:
        effective_rank: See ``effective_rank``; from 1 to D, or 0 where no dimension varies.
        std: Standard deviation of each dimension, D numbers in the embedding's own units.
        constant: Number of constant dimensions, see ``CONSTANT``.
        warnings: What looks like a collapse, in words; empty where nothing does.
    """

    model_config = ConfigDict(frozen=True)

    effective_rank: float
    std: list[float]
    constant: int
    warnings: list[str]


def effective_rank(z: NDArray[np.float32]) -> float:
    """Return exp of the entropy of the normalised singular values (Roy and Vetterli 2007).

    The values are those of the standardised embeddings, because features of different units share a vector and
    because that is what every protocol sees; constant dimensions are left out.

    Args:
        z: float32 (N, D).
    """
    mean, std, constant = _moments(z)
    if constant.all():
        return 0.0
    scaled = ((z - mean) / np.where(constant, 1, std))[:, ~constant]
    gram = scaled.T @ scaled if len(scaled) > scaled.shape[1] else scaled @ scaled.T
    values = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0))
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spread(z: NDArray[np.float32]) -> EmbeddingSpread:
    """Describe how embeddings (N, D) are spread, with warnings where they look collapsed."""
    _, std, constant = _moments(z)
    rank, warnings = effective_rank(z), []
    if rank < max(LEAST_RANK * z.shape[1], LEAST_DIRECTIONS):
        warnings.append(f"the embeddings have an effective rank of {rank:.1f} in {z.shape[1]} dimensions")
    if constant.mean() > MOST_CONSTANT:
        warnings.append(f"{constant.sum()} of {z.shape[1]} dimensions of the embeddings hardly vary")
    return EmbeddingSpread(effective_rank=rank, std=std.tolist(), constant=int(constant.sum()), warnings=warnings)


def _moments(z: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return mean, standard deviation and constancy of each dimension."""
    mean, std = z.mean(axis=0, dtype=np.float64), z.std(axis=0, dtype=np.float64)
    return mean, std, std <= CONSTANT * np.hypot(mean, std)
