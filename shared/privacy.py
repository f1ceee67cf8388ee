"""Differential privacy of the encoder for each person: clipping, noise, and what they amount to.

The unit is a person: all their windows. In every round their update (trained minus received encoder) is clipped to
the L2 norm C and noise is added, by the server to the sum (``central``) or by the device to the update (``local``).
A person is in m rounds, drawn without a look at anybody's data. Adaptive composition of m Gaussian mechanisms of noise
multiplier z is one of z / sqrt(m) (Dong, Roth and Su 2022, corollary 3.3), whose epsilon is exact (Balle and Wang
2018, theorem 8). Sampling the cohort earns nothing: it follows from the configuration's seed, so it is no secret.

Noise comes from the operating system and not from the seed, because whoever can repeat it can take it off. Runs with
privacy can therefore not be repeated to the bit. Noise is rounded to floating point; attacks on its low-order bits
(Mironov 2012) are not defended against.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from shared.checkpoint import KEPT
from shared.compression import Arrays
from shared.config import PrivacySettings

_RELATION = {
    "central": "the person takes part, or their update counts as zero in each of their rounds",
    "local": "the person's windows are any, or any others",
}
_SENSITIVITY = {"central": 1.0, "local": 2.0}
"""How far such a change moves what the noise is added to, in clipping norms."""

_PROTECTED = {
    "central": "the encoder after every round, against everybody but the server",
    "local": "the encoder arrays of every reply, against everybody, and a server that keeps to the configured rounds",
}
_OUTSIDE = {
    "central": [
        "the server itself: it sees every update before clipping and noise, and must be trusted",
        "losses, seconds and numbers of windows, which the server writes to metrics.jsonl, tensorboard and the report",
        "who takes part and in which round; channel names, units and rate",
        "other runs with the same people: their guarantees add up",
    ],
    "local": [
        "a server that asks a device for more rounds than configured, or submits other code: see who may submit runs",
        "losses, seconds and numbers of windows, which every reply or introduction tells the server",
        "who takes part and in which round; channel names, units and rate",
        "other runs with the same people: their guarantees add up",
    ],
}


def update_norm(sent: Arrays, reply: Arrays) -> float:
    """Return the L2 norm of an update over all its arrays together."""
    return math.sqrt(sum(float(np.square(reply[n] - sent[n], dtype=np.float64).sum()) for n in sent))


def clip_update(sent: Arrays, reply: Arrays, bound: float) -> dict[str, NDArray[np.float64]]:
    """Return ``sent`` plus the update, scaled down to the norm ``bound`` where it is larger."""
    norm = update_norm(sent, reply)
    share = bound / norm if norm > bound else 1.0
    return {name: value + share * (reply[name].astype(np.float64) - value) for name, value in sent.items()}


def private_mean(sent: Arrays, replies: Sequence[Arrays], settings: PrivacySettings) -> dict[str, NDArray[np.float64]]:
    """Return ``sent`` plus the mean of the clipped updates, with noise: every person counts the same.

    The noise is calibrated to the number of replies that came, not to those that were hoped for (McMahan et al. 2018,
    algorithm 1, with equal weights).
    """
    clipped = [clip_update(sent, reply, settings.clipping_norm) for reply in replies]
    mean = {name: np.mean([one[name] for one in clipped], axis=0) for name in sent}
    return add_noise(mean, noise_std(settings) / len(clipped))


def private_update(sent: Arrays, trained: Arrays, settings: PrivacySettings) -> dict[str, NDArray[np.float32]]:
    """Return what a device may send: ``sent`` plus the clipped update with noise on every value."""
    noisy = add_noise(clip_update(sent, trained, settings.clipping_norm), noise_std(settings))
    return {name: value.astype(np.float32) for name, value in noisy.items()}


def noise_std(settings: PrivacySettings) -> float:
    """Return the standard deviation of the noise: on the sum of a round (central), on an update (local)."""
    return settings.noise_multiplier * _SENSITIVITY[settings.name] * settings.clipping_norm


def add_noise(arrays: Arrays, std: float) -> dict[str, NDArray[np.float64]]:
    """Add Gaussian noise that nobody can repeat."""
    return {name: value + std * _system_normal(value.shape) for name, value in arrays.items()}


def _system_normal(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draw standard normal values from the operating system's randomness, by the inverse distribution function."""
    bits = np.frombuffer(os.urandom(8 * math.prod(shape)), np.uint64) >> np.uint64(12)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-52
    normal: NDArray[np.float64] = ndtri(uniform).reshape(shape)
    return normal


def spent_epsilon(noise_multiplier: float, releases: int, delta: float) -> float:
    """Return the epsilon of so many rounds at ``delta``; no round costs nothing."""
    # Half a second, which a device that only adds noise need not spend on every message.
    from dp_accounting import get_epsilon_gaussian  # type: ignore[import-untyped]

    return float(get_epsilon_gaussian(noise_multiplier / math.sqrt(releases), delta)) if releases else 0.0


class Ledger:
    """Counts in how many rounds each person was asked; saved as ``privacy.json``.

    A run that is resumed may ask for its last, unfinished round again, and for rounds whose checkpoints turn out to be
    damaged: each resume counts as ``KEPT`` rounds of everybody.

    Args:
        settings: Only what has another name than "none" can be reported.
        saved: The state of an earlier start of the same run, if this one resumes it.
    """

    def __init__(self, settings: PrivacySettings, saved: Mapping[str, Any] | None = None) -> None:
        self._settings = settings
        self._rounds = Counter[str](saved["rounds"] if saved else {})
        self._resumes = saved["resumes"] + 1 if saved else 0

    def count(self, people: Iterable[str]) -> None:
        """Count a round of these people."""
        self._rounds.update(people)

    def state(self) -> dict[str, Any]:
        """Return what a later ``Ledger(saved=...)`` continues from."""
        return {"rounds": dict(self._rounds), "resumes": self._resumes}

    def report(self) -> dict[str, Any]:
        """Return the content of ``privacy.json``: mechanism, guarantee, and what is outside of it."""
        settings = self._settings
        releases = max(self._rounds.values(), default=0) + KEPT * self._resumes
        return {
            "mechanism": settings.name,
            "epsilon": spent_epsilon(settings.noise_multiplier, releases, settings.delta),
            "delta": settings.delta,
            "unit": "a person, with all their windows",
            "neighbours": _RELATION[settings.name],
            "protected": _PROTECTED[settings.name],
            "outside_of_the_guarantee": _OUTSIDE[settings.name],
            "clipping_norm": settings.clipping_norm,
            "noise_multiplier": settings.noise_multiplier,
            "noise_standard_deviation": noise_std(settings),
            "noise_is_added_to": {
                "central": "each value of the sum of a round's clipped updates, which is then divided by their number",
                "local": "each value of a person's clipped update",
            }[settings.name],
            "rounds_of_the_busiest_person": releases,
            "sampling": "counted without amplification: the cohort follows from the seed and is no secret",
            "accountant": "dp-accounting: exact epsilon of the composed Gaussian mechanism",
        }
