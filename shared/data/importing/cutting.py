"""Recordings become windows: aligned, checked, completed by body acceleration, cut and labelled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from shared.data.importing.align import Floats, Found, Piece, align
from shared.data.importing.recipe import Recipe, body_of, channels_of, kind_of
from shared.data.importing.recordings import Recording
from shared.errors import UserError
from shared.gravity import body_acceleration
from shared.large import Stack, blocks
from shared.plausible import check_units

CUT = 1024
"""Windows that are cut at a time: bounds the memory that they and the labels of their samples take."""

LOST_SHARE = 0.1
"""A window is left out where more than this share of its samples was interpolated."""


@dataclass(frozen=True, eq=False)
class Cut:
    """The windows of a recording.

    Args:
        name: Of the recording, for a message.
        person: Id.
        x: float32 (N, C, T).
        spans: (N, 2) seconds, from when to when.
        labels: Text (N,), "" where a window has none.
        found: What was found in the recording.
        lost: (M, 2) seconds: windows that were left out because too many of their samples are lost.
    """

    name: str
    person: str
    x: NDArray[np.float32]
    spans: Floats
    labels: NDArray[np.str_]
    found: Found
    lost: Floats


def cut(recording: Recording, recipe: Recipe) -> Cut:
    """Cut a recording into windows.

    Raises:
        UserError: Its time or its numbers are not what the recipe says.
    """
    pieces, found = align(recording.streams, recipe.target_rate, recipe.seconds)
    measured = [channel for stream in recording.streams for channel in stream.channels]
    _check(recording.name, measured, pieces)
    x = Stack((len(recipe.channels), recipe.window), np.float32)
    spans, labels, lost = [np.zeros((0, 2))], [np.zeros(0, np.str_)], [np.zeros((0, 2))]
    for piece in pieces:
        if len(piece.x) < recipe.window:
            continue
        windows = sliding_window_view(_complete(piece, measured, recipe), recipe.window, axis=0)[:: recipe.step]
        whole = _windows(piece.filled, recipe).mean(axis=1) <= LOST_SHARE
        for rows in blocks(np.flatnonzero(whole), CUT):
            x.append(windows[rows].astype(np.float32))
            moments = piece.start + (rows[:, np.newaxis] * recipe.step + np.arange(recipe.window)) / piece.rate
            labels.append(_label(_named(recording.track.at(moments), recipe)))
        start = piece.start + np.arange(len(whole)) * recipe.step / piece.rate
        span = np.stack([start, start + recipe.window / piece.rate], axis=1)
        spans.append(span[whole])
        lost.append(span[~whole])
    return Cut(
        name=recording.name,
        person=recording.person,
        x=x.array(),
        spans=np.concatenate(spans),
        labels=np.concatenate(labels),
        found=found,
        lost=np.concatenate(lost),
    )


def check_left(cuts: Sequence[Cut], recipe: Recipe) -> None:
    """Refuse recordings of which no window is left.

    Raises:
        UserError: Says why.
    """
    if any(len(one.labels) for one in cuts):
        return
    seconds = sum(one.found.seconds for one in cuts)
    gaps = sum(b - a for one in cuts for a, b in one.found.gaps)
    why = [f"{gaps:.0f} s are in gaps"] if gaps else []
    why += [
        f"{total:.0f} s are {reason}"
        for reason in dict.fromkeys(reason for one in cuts for reason in one.found.left)
        if (total := sum(b - a for one in cuts for a, b in one.found.left.get(reason, [])))
    ]
    if lost := sum(len(one.lost) for one in cuts):
        why.append(f"{lost} windows have too many lost samples")
    names = cuts[0].name if len(cuts) == 1 else f"{len(cuts)} recordings"
    raise UserError(
        f"{names}: no window of {recipe.seconds:.4g} s ({recipe.window} samples at {recipe.target_rate:g} Hz) is left "
        f"of {seconds:.4g} s: {', '.join(why)}"
    )


def _check(name: str, channels: Sequence[str], pieces: Sequence[Piece]) -> None:
    """Refuse numbers that no worn sensor measures in the units of the recipe."""
    if not pieces:
        return
    x = np.concatenate([piece.x for piece in pieces]).T[np.newaxis]
    check_units(name, channels, x, "say unit: {unit} in the recipe")


def _complete(piece: Piece, measured: Sequence[str], recipe: Recipe) -> NDArray[np.float64]:
    """Return the recipe's channels (N, C): those that were measured, and body acceleration where it is computed."""
    columns = dict(zip(measured, piece.x.T, strict=True))
    if recipe.body_acc:
        for name in recipe.sensors:
            if kind_of(name) == "total_acc":
                total = np.stack([columns[channel] for channel in channels_of(name, 3)], axis=1)
                columns |= zip(channels_of(body_of(name), 3), body_acceleration(total, piece.rate).T, strict=True)
    return np.stack([columns[channel] for channel in recipe.channels], axis=1)


def _windows(values: NDArray[np.generic], recipe: Recipe) -> NDArray[np.generic]:
    return sliding_window_view(values, recipe.window)[:: recipe.step]


def _named(labels: NDArray[np.str_], recipe: Recipe) -> NDArray[np.str_]:
    """Return the activities that labels stand for, "" for none."""
    found, inverse = np.unique(labels, return_inverse=True)
    names = np.array([recipe.labels.get(label, label) or "" for label in found.tolist()], np.str_)
    return names[inverse.reshape(labels.shape)]


def _label(labels: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return for each window (N, T) the label that more than half of its samples have, else ""."""
    middle = np.sort(labels, axis=1)[:, labels.shape[1] // 2]
    half = (labels == middle[:, np.newaxis]).mean(axis=1) > 0.5
    return np.where(half, middle, "")
