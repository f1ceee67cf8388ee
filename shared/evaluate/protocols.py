"""The protocols by name, and ``probe``, which judges a representation by them at several amounts of labels.

However a protocol works, it is handed training people alone: its classifier, and everything that it chooses, is done
before the windows of the test people come in, and these are used for nothing but the score. Every regime and seed gets
a fresh classifier.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from shared.collapse import spread
from shared.data.person import in_order
from shared.data.windows import Windows
from shared.encoders import Encoder
from shared.errors import UserError, choose
from shared.evaluate.knn import choose_k, nearest_neighbours
from shared.evaluate.linear import check_embeddings, fit_linear_probe
from shared.evaluate.networks import fit_finetuned, fit_head, fit_supervised
from shared.evaluate.report import SUPERVISED, ProbeReport, ProbeResult, judge, unseen_classes
from shared.evaluate.representation import Embeddings, Representation
from shared.evaluate.selection import REGIMES, draw_regime

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Windows of the training or of the test people, with their embeddings (N, D) (D is 0 where there are none).

    Args:
        windows: The windows.
        z: Their embeddings.
        copies: How many turned copies of all windows follow them; see ``draw_regime``.
    """

    windows: Windows
    z: Embeddings
    copies: int = 0

    def count(self, rows: NDArray[np.int64]) -> int:
        """Return how many labels the drawn rows take: a window and its copies have one."""
        return len(rows) // (self.copies + 1)

    def labelled(self) -> "Part":
        """The windows that have a label."""
        mask = self.windows.labelled
        return Part(self.windows[mask], self.z[mask])


@dataclass(frozen=True)
class Fitted:
    """A fitted classifier, the number of labels that it saw, and what held-out training people chose, by name."""

    predict: Callable[[Part], NDArray[np.int64]]
    labels: int
    choices: Mapping[str, float]


@dataclass(frozen=True)
class Protocol:
    """A way to judge a representation.

    Args:
        fit: Training people, the encoder or None, regime and seed to a classifier; leaves the encoder as it was.
        embeddings: Whether it needs embeddings.
        encoder: Whether it needs the encoder.
        seeded: Whether the seed changes the result where all labels are used.
    """

    fit: Callable[[Part, Encoder | None, str, int], Fitted]
    embeddings: bool
    encoder: bool
    seeded: bool


def _linear(train: Part, encoder: Encoder | None, regime: str, seed: int) -> Fitted:
    fitted = fit_linear_probe(train.windows, train.z, regime, seed, train.copies)
    return Fitted(lambda part: fitted.predict(part.z), fitted.labels, {"C": fitted.C})


def _knn(train: Part, encoder: Encoder | None, regime: str, seed: int) -> Fitted:
    check_embeddings(train.windows, train.z)
    rows = draw_regime(train.windows, regime, seed, train.copies)
    scaler = StandardScaler().fit(train.z)
    z, y = scaler.transform(train.z[rows]), train.windows.y[rows]
    k = choose_k(z, y, train.windows.person[rows])
    return Fitted(lambda part: nearest_neighbours(z, y, scaler.transform(part.z), (k,))[0], train.count(rows), {"k": k})


def _head(train: Part, encoder: Encoder | None, regime: str, seed: int) -> Fitted:
    check_embeddings(train.windows, train.z)
    rows = draw_regime(train.windows, regime, seed, train.copies)
    fitted = fit_head(train.windows, train.z, rows, seed)
    return Fitted(lambda part: fitted.predict(part.z), train.count(rows), {"epochs": fitted.epochs})


def _finetune(train: Part, encoder: Encoder | None, regime: str, seed: int) -> Fitted:
    check_embeddings(train.windows, train.z)
    rows = draw_regime(train.windows, regime, seed, train.copies)
    fitted, C = fit_finetuned(train.windows, train.z, _network(encoder), rows, seed)
    return Fitted(lambda part: fitted.predict(part.windows.x), train.count(rows), {"C": C, "epochs": fitted.epochs})


def _supervised(train: Part, encoder: Encoder | None, regime: str, seed: int) -> Fitted:
    rows = draw_regime(train.windows, regime, seed, train.copies)
    fitted = fit_supervised(train.windows, _network(encoder), rows, seed)
    return Fitted(lambda part: fitted.predict(part.windows.x), train.count(rows), {"epochs": fitted.epochs})


def _network(encoder: Encoder | None) -> Encoder:
    if encoder is None:
        raise UserError("this protocol trains a network, and the representation comes from none")
    return encoder


PROTOCOLS: dict[str, Protocol] = {
    "linear": Protocol(_linear, embeddings=True, encoder=False, seeded=False),
    "knn": Protocol(_knn, embeddings=True, encoder=False, seeded=False),
    "finetune": Protocol(_finetune, embeddings=True, encoder=True, seeded=True),
    SUPERVISED: Protocol(_supervised, embeddings=False, encoder=True, seeded=True),
    "head": Protocol(_head, embeddings=True, encoder=False, seeded=True),
}
"""Protocol by name."""


def applicable(representation: Representation, protocols: Sequence[str]) -> list[str]:
    """Return those of the protocols that a representation can be judged by.

    Where there are no embeddings, in the supervised baseline, that is "supervised", whatever was asked for: its
    result is what the others are compared with.

    Raises:
        UserError: An unknown protocol, or none that can be applied.
    """
    wanted = {name: choose("protocol", PROTOCOLS, name) for name in protocols}
    if representation.embed is None:
        return [SUPERVISED]
    names = [name for name, protocol in wanted.items() if representation.encoder or not protocol.encoder]
    if not names:
        raise UserError(
            f"protocols {', '.join(wanted)} train a network, and this representation comes from none; "
            f"expected one of: {', '.join(name for name, protocol in PROTOCOLS.items() if not protocol.encoder)}"
        )
    return names


def evaluate_once(
    protocol: str, train: Part, test: Part, encoder: Encoder | None, regime: str, seed: int
) -> ProbeResult:
    """Fit a fresh classifier to training people and score it on the labelled windows of test people.

    Args:
        protocol: A key of ``PROTOCOLS``.
        train: Training people's windows and embeddings.
        test: Test people's windows and embeddings.
        encoder: What the embeddings are from, or None; stays as it is.
        regime: See ``draw_regime``.
        seed: Of the draw of labels and of the training.

    Raises:
        UserError: No windows, embeddings that do not belong to them, test people among the training people, no labels
            of test people, or too few people or classes among the drawn windows.
    """
    if both := in_order(set(train.windows.people) & set(test.windows.people)):
        raise UserError(f"{test.windows.meta.name}: people {both} are in both the training and the test part")
    check_embeddings(test.windows, test.z)
    judged = test.labelled()
    if not len(judged.windows):
        raise UserError(f"{test.windows.meta.name}: no window of the test people is labelled: nothing can be scored")
    fitted = PROTOCOLS[protocol].fit(train, encoder, regime, seed)
    return judge(
        judged.windows,
        fitted.predict(judged),
        protocol=protocol,
        regime=regime,
        seed=seed,
        labels=fitted.labels,
        choices=fitted.choices,
    )


def probe(
    representation: Representation,
    train: Windows,
    test: Windows,
    *,
    seeds: Sequence[int],
    regimes: Sequence[str] = REGIMES,
    protocols: Sequence[str] = ("linear",),
    advance: Callable[[], None] = lambda: None,
    copies: int = 0,
) -> ProbeReport:
    """Judge a representation by each protocol, in each regime and with each seed.

    Regime "all" draws the same labels whatever the seed: where nothing else depends on the seed either, it is fitted
    once and the row repeated, with a standard deviation of zero. Embeddings that look collapsed are warned about.

    Args:
        representation: What to judge, such as ``encoded(encoder, train, test)``.
        train: Training people's windows.
        test: Test people's windows.
        seeds: One draw of labels each.
        regimes: See ``draw_regime``.
        protocols: Keys of ``PROTOCOLS``; see ``applicable``.
        advance: Called after each seed, protocol and regime.
        copies: How many turned copies of the training windows follow them (``with_turned_copies``).

    Raises:
        UserError: See ``evaluate_once`` and ``applicable``; also no seeds, regimes or protocols.
    """
    if not seeds or not regimes or not protocols:
        raise UserError("a probe needs at least one seed, one regime and one protocol")
    for regime in regimes:
        draw_regime(train, regime, seeds[0], copies)  # refuses a bad one before the work of the others is done
    names = applicable(representation, protocols)
    results: list[ProbeResult] = []
    every_seed: dict[tuple[str, str], ProbeResult] = {}
    parts = first = _parts(representation, train, test, seeds[0], copies)
    for index, seed in enumerate(dict.fromkeys(seeds)):
        if index and representation.seeded:
            parts = _parts(representation, train, test, seed, copies)
        encoder = representation.encoder(seed) if representation.encoder else None
        for name, regime in product(names, dict.fromkeys(regimes)):
            if (name, regime) in every_seed:
                result = every_seed[name, regime].model_copy(update={"seed": seed})
            else:
                result = evaluate_once(name, *parts, encoder, regime, seed)
            if regime == "all" and not representation.seeded and not PROTOCOLS[name].seeded:
                every_seed[name, regime] = result
            results.append(result)
            advance()
    return _report(first, encoder, results)


def _parts(representation: Representation, train: Windows, test: Windows, seed: int, copies: int) -> tuple[Part, Part]:
    if representation.embed is None:
        z_train, z_test = (np.empty((len(windows), 0), np.float32) for windows in (train, test))
    else:
        z_train, z_test = representation.embed(seed)
    return Part(train, z_train, copies), Part(test, z_test)


def _report(parts: tuple[Part, Part], encoder: Encoder | None, results: list[ProbeResult]) -> ProbeReport:
    """Put the results together with what they are of, and warn of embeddings that look collapsed."""
    train, test = parts
    embeddings = spread(train.z) if train.z.shape[1] else None
    for warning in embeddings.warnings if embeddings else ():
        LOG.warning("%s: %s", train.windows.meta.name, warning)
    return ProbeReport(
        data=train.windows.meta.name,
        classes=list(train.windows.meta.classes),
        train_people=train.labelled().windows.people,
        test_people=test.labelled().windows.people,
        dim=train.z.shape[1] if encoder is None else encoder.dim,
        results=results,
        embeddings=embeddings,
        notes=unseen_classes(train.windows, test.windows),
    )
