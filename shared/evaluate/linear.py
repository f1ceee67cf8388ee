"""The protocol "linear": multinomial logistic regression on frozen embeddings.

Embeddings are standardised with the mean and spread of all training embeddings, labels are not needed for that. The
classifier sees the labels of the drawn training windows only, and its strength is chosen by the log-loss of
cross-validation with training people held out.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from shared.data.windows import Windows
from shared.errors import UserError
from shared.evaluate.representation import Embeddings
from shared.evaluate.selection import draw_regime, held_out_folds

C_GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Inverse strengths of the L2 penalty, strongest penalty first; weaker ones changed nothing on UCI HAR."""

SEARCH_STEPS = 200
SEARCH_TOLERANCE = 3e-4
"""Most L-BFGS steps, and the gradient at which to stop, while C is chosen: fits are compared, not kept."""
FIT_STEPS = 2000
FIT_TOLERANCE = 1e-4
"""The same for the probe itself."""


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe, the C that it was fitted with, and the number of labels that it saw."""

    scaler: StandardScaler
    classifier: LogisticRegression
    C: float
    labels: int

    def predict(self, z: Embeddings) -> NDArray[np.int64]:
        """Return the predicted labels (N,) of embeddings (N, D)."""
        predicted: NDArray[np.int64] = self.classifier.predict(self.scaler.transform(z))
        return predicted


def fit_linear_probe(train: Windows, z_train: Embeddings, regime: str, seed: int, copies: int = 0) -> LinearProbe:
    """Fit a probe to the labels that a regime reveals.

    The standardisation uses all training embeddings, which needs no labels.

    Args:
        train: Training people's windows.
        z_train: float32 (N, D), their embeddings.
        regime: See ``draw_regime``.
        seed: Of the draw of labels.
        copies: See ``draw_regime``.

    Raises:
        UserError: Fewer than two people or classes among the drawn windows, or embeddings that are not finite or
            do not belong to the windows.
    """
    check_embeddings(train, z_train)
    rows = draw_regime(train, regime, seed, copies)
    scaler = StandardScaler().fit(z_train)
    z, y = scaler.transform(z_train[rows]), train.y[rows]
    C = choose_C(z, y, train.person[rows])
    return LinearProbe(scaler, logistic_regression(z, y, C), C, len(rows) // (copies + 1))


def logistic_regression(z: Embeddings, y: NDArray[np.int64], C: float) -> LogisticRegression:
    """Fit multinomial logistic regression to standardised embeddings (N, D), with an L2 penalty of strength 1 / C."""
    with threadpool_limits(1):  # small matrices: more threads wait for each other, and the result depends on them
        return LogisticRegression(C=C, max_iter=FIT_STEPS, tol=FIT_TOLERANCE).fit(z, y)


def choose_C(z: Embeddings, y: NDArray[np.int64], people: NDArray[np.str_]) -> float:  # noqa: N802
    """Return the C of ``C_GRID`` with the lowest log-loss on held-out people; the strongest penalty wins ties.

    The log-loss is a proper score (Gneiting and Raftery 2007) and moves with every window. Accuracy on few labels is so
    coarse that chance decides, and on the folds of UCI HAR it chose worse: docs/results.md. Held-out windows of a class
    that was not fitted say nothing; where no other windows are, the strongest penalty is chosen.

    Args:
        z: float32 (N, D), standardised embeddings of labelled windows.
        y: int64 (N,) labels.
        people: text (N,) person ids; nobody is in the fitted and the held-out part of a fold at once.

    Raises:
        UserError: Fewer than two people or classes, or no fold that leaves two classes to fit.
    """
    loss = np.zeros(len(C_GRID))
    for fitted, held_out in held_out_folds(y, people):
        judged = held_out[np.isin(y[held_out], y[fitted])]  # a class that was not fitted has no probability
        if not len(judged):
            continue
        with threadpool_limits(1):
            for index, classifier in enumerate(_search_fits(z[fitted], y[fitted])):
                probability = classifier.predict_proba(z[judged])
                loss[index] += log_loss(y[judged], probability, labels=classifier.classes_, normalize=False)
    return C_GRID[int(loss.argmin())]


def check_embeddings(windows: Windows, z: Embeddings) -> None:
    """Refuse embeddings that are not one finite row for each window.

    Raises:
        UserError: Says what was expected and found; also where there are no windows.
    """
    if not len(windows):
        raise UserError(f"{windows.meta.name}: there are no windows to probe")
    if z.ndim != 2 or len(z) != len(windows):
        raise UserError(f"{windows.meta.name}: expected ({len(windows)}, D) embeddings, found {z.shape}")
    if not np.isfinite(z).all():
        raise UserError(f"{windows.meta.name}: embeddings hold NaN or infinite values")


def _search_fits(z: Embeddings, y: NDArray[np.int64]) -> Iterator[LogisticRegression]:
    """Yield the classifier for each C of the grid, each started from the one before it."""
    classifier = LogisticRegression(max_iter=SEARCH_STEPS, tol=SEARCH_TOLERANCE, warm_start=True)
    for C in C_GRID:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.set_params(C=C).fit(z, y)
        yield classifier
