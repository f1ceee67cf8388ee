"""Has a representation collapsed? How many directions it uses, whether its dimensions vary, and whether a task learns.

While a model trains, each task is watched by what its loss compares: its projections, the shares of its codes, and how
far its loss is from that of a head that knows nothing. After training, embeddings are described by ``spread``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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


SIGNS = ("spread", "rank", "perplexity", "chance")
"""What ``signs`` tells of a task."""

LEAST_SPREAD = 0.15
"""Spread of projections below which a task is called collapsed, see ``signs``; random directions have 1. BYOL with a
predictor has 0.7 on made-up people, and 0.11 without one."""

LEAST_PROJECTED_RANK = 2.0
"""Effective rank of projections below which a task is called collapsed."""

LEAST_PERPLEXITY = 1.5
"""Perplexity of codes below which a task is called collapsed: nearly every window has one and the same."""

LEAST_GAIN = 0.01
"""A loss that is less than this below that of a head that knows nothing has taught nothing."""


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


def signs(
    projections: NDArray[np.float32] | None,
    code_shares: NDArray[np.float32] | None,
    loss: float,
    chance: float | None,
) -> dict[str, float]:
    """Return what a task shows of a collapse, by the name of the sign.

    Args:
        projections: (N, P) of a batch; None where the task has none.
        code_shares: (K,) the mean share of each code; None where the task has none.
        loss: Mean of the epoch.
        chance: The loss of a head that knows nothing; None where there is no such number.

    Returns:
        ``spread``: root of P times the mean standard deviation of the projections' dimensions, each projection being
        scaled to length 1 (Chen and He 2021, section 4.1): 1 where they point anywhere, 0 where they are one point.
        ``rank``: their effective rank. ``perplexity``: exp of the entropy of the code shares, from 1 to K. ``chance``:
        the loss as a share of ``chance``.
    """
    found = {}
    if projections is not None and len(projections) > 1:
        z = projections / np.linalg.norm(projections, axis=1, keepdims=True).clip(1e-12)
        found["spread"] = float(np.sqrt(z.shape[1]) * z.std(axis=0).mean())
        found["rank"] = effective_rank(projections)
    if code_shares is not None:
        shares = code_shares[code_shares > 0] / code_shares.sum()
        found["perplexity"] = float(np.exp(-(shares * np.log(shares)).sum()))
    if chance is not None:
        found["chance"] = loss / chance
    return found


def signs_of(row: Mapping[str, Any], task: str) -> dict[str, float]:
    """Return the signs of a task in a row of ``metrics.jsonl``."""
    return {sign: row[f"{sign}.{task}"] for sign in SIGNS if f"{sign}.{task}" in row}


def complaints(found: Mapping[str, float]) -> list[str]:
    """Say in words which of a task's signs tell of a collapse; [] where none does."""
    words = []
    if found.get("spread", 1.0) < LEAST_SPREAD:
        words.append(f"its projections hardly differ from window to window (spread {found['spread']:.3f} of 1)")
    elif found.get("rank", np.inf) < LEAST_PROJECTED_RANK:
        words.append(f"its projections differ in hardly more than one direction (effective rank {found['rank']:.1f})")
    if found.get("perplexity", np.inf) < LEAST_PERPLEXITY:
        words.append(f"nearly all windows have one code (perplexity {found['perplexity']:.2f})")
    if found.get("chance", 0.0) > 1 - LEAST_GAIN:
        words.append(f"its loss is {100 * found['chance']:.0f} % of what a head has that knows nothing")
    return words


def common_complaint(rows: Sequence[Mapping[str, Any]], task: str) -> list[str]:
    """Say which signs of a task tell of a collapse on most of those who trained it; [] where they do on half or fewer.

    Args:
        rows: Of ``metrics.jsonl``, one for each of them.
        task: Its name.
    """
    collapsed = [words for row in rows if (words := complaints(signs_of(row, task)))]
    return collapsed[0] if len(collapsed) > len(rows) / 2 else []


def _moments(z: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return mean, standard deviation and constancy of each dimension."""
    mean, std = z.mean(axis=0, dtype=np.float64), z.std(axis=0, dtype=np.float64)
    return mean, std, std <= CONSTANT * np.hypot(mean, std)
