"""The protocol "knn": a vote of the most similar labelled windows, by the cosine of standardised embeddings.

Nothing is fitted, so it shows how an embedding lays out the activities by itself. The number of neighbours is chosen
with training people held out.
"""

import numpy as np
from numpy.typing import NDArray

from shared.evaluate.representation import Embeddings
from shared.evaluate.selection import held_out_folds

K_GRID = (1, 3, 5, 10, 20, 50, 100)
"""Numbers of neighbours to choose from."""

CHUNK = 1024
"""Windows that are compared with all labelled ones at a time."""


def nearest_neighbours(
    z: Embeddings, y: NDArray[np.int64], queries: Embeddings, ks: tuple[int, ...]
) -> NDArray[np.int64]:
    """Classify by the most frequent label of the k nearest; of equally frequent ones, the more similar wins.

    Args:
        z: float32 (N, D) embeddings of labelled windows.
        y: int64 (N,) their labels.
        queries: float32 (M, D) embeddings to classify.
        ks: Numbers of neighbours, each at most N.

    Returns:
        int64 (len(ks), M) labels.
    """
    z, queries = _unit(z), _unit(queries)
    parts = np.array_split(queries, max(1, -(-len(queries) // CHUNK)))
    return np.concatenate([_vote(z, y, part, ks) for part in parts], axis=1)


def choose_k(z: Embeddings, y: NDArray[np.int64], people: NDArray[np.str_]) -> int:
    """Return the k of ``K_GRID`` that classifies held-out people best; the smallest wins ties.

    Args:
        z: float32 (N, D), standardised embeddings of labelled windows.
        y: int64 (N,) labels.
        people: text (N,) person ids; nobody is in the fitted and the held-out part of a fold at once.

    Raises:
        UserError: See ``held_out_folds``.
    """
    folds = held_out_folds(y, people)
    fewest = min(len(fitted) for fitted, _ in folds)
    ks = tuple(k for k in K_GRID if k <= fewest)
    right = np.zeros(len(ks), dtype=np.int64)
    for fitted, held_out in folds:
        right += (nearest_neighbours(z[fitted], y[fitted], z[held_out], ks) == y[held_out]).sum(axis=1)
    return ks[int(right.argmax())]


def _vote(z: Embeddings, y: NDArray[np.int64], queries: Embeddings, ks: tuple[int, ...]) -> NDArray[np.int64]:
    similarity = queries @ z.T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, : max(ks)]
    # A cosine adds less than one vote over all neighbours, so that it decides between equal counts alone.
    votes = 1 + np.take_along_axis(similarity, order, axis=1) / (4 * max(ks))
    ballots = np.zeros((*order.shape, int(y.max()) + 1))
    np.put_along_axis(ballots, y[order][:, :, None], votes[:, :, None], axis=2)
    counts = ballots.cumsum(axis=1)
    return np.stack([counts[:, k - 1].argmax(axis=1) for k in ks])


def _unit(z: Embeddings) -> Embeddings:
    scaled: Embeddings = z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
    return scaled
