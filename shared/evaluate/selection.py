"""Whose labels are known, and who is held out when something has to be chosen: training people only."""

import re

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from shared.data.partition import draw_fraction, draw_labels
from shared.data.person import numbered
from shared.data.windows import Windows
from shared.errors import UserError

REGIMES = ("1", "2", "3", "4", "5", "6", "all")
"""Labels per person and class. A share of the labelled windows, such as "1%" or "10%", is understood too."""

FOLDS = 3
"""Groups of training people that take turns to be held out."""

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows to fit to, and rows of the people who are held out."""


def draw_regime(train: Windows, regime: str, seed: int, copies: int = 0) -> NDArray[np.int64]:
    """Return the sorted indices of the windows whose labels a regime reveals; those without a label are never drawn.

    Args:
        train: The windows to draw from.
        regime: A number of labels per person and class, "all", or a percentage of the labelled windows, such as "10%".
        seed: Of the draw; "all" does not depend on it.
        copies: How many copies of all windows follow them (``with_turned_copies``). Those of a drawn window are drawn
            with it, and count as none.

    Raises:
        UserError: Any other regime, or windows of which none is labelled.
    """
    if copies:
        count = len(train) // (copies + 1)
        rows = draw_regime(train[:count], regime, seed)
        return (rows + count * np.arange(copies + 1)[:, None]).ravel()
    if not train.labelled.any():
        raise UserError(
            f"{train.meta.name}: no window of the training people is labelled: a probe needs labels of at least 2 "
            "people and 2 classes"
        )
    if regime == "all":
        return draw_labels(train, None, seed)
    if re.fullmatch(r"[1-9]\d*", regime):
        return draw_labels(train, int(regime), seed)
    if re.fullmatch(r"\d+(\.\d+)?%", regime):
        return draw_fraction(train, float(regime[:-1]) / 100, seed)
    raise UserError(
        f"unknown label regime {regime!r}; expected a number of labels per person and class such as 1, "
        "a percentage such as 10%, or all"
    )


def held_out_folds(y: NDArray[np.int64], people: NDArray[np.str_]) -> list[Fold]:
    """Split labelled windows by person into up to ``FOLDS`` folds that leave two classes or more to fit.

    Args:
        y: int64 (N,) labels.
        people: text (N,) person ids; nobody is in the fitted and the held-out part of a fold at once.

    Raises:
        UserError: Fewer than two people or classes, or no fold that leaves two classes to fit.
    """
    ids, places = numbered(people)
    groups, classes = len(ids), len(np.unique(y))
    if groups < 2 or classes < 2:
        raise UserError(
            f"a probe needs labels of at least 2 people and 2 classes, found {groups} people and {classes} classes"
        )
    folds = [
        (fitted, held_out)
        for fitted, held_out in GroupKFold(min(FOLDS, groups)).split(y, groups=places)
        if len(np.unique(y[fitted])) > 1
    ]
    if not folds:
        raise UserError(
            "a probe is chosen with people held out, and needs labels of 2 classes from one person, or of a third "
            f"person; found {groups} people with one class each"
        )
    return folds
