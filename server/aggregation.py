"""How the replies of a round become the next encoder: Flower's own strategies by name, on checked replies."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
)
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from numpy.typing import NDArray

from shared.compression import Arrays
from shared.config import AggregationSettings
from shared.errors import UserError, choose
from shared.exchange import arrays_of
from shared.privacy import update_norm


def _adaptive(kind: type[FedAdam] | type[FedYogi], settings: AggregationSettings) -> FedAvg:
    return kind(
        eta=settings.adaptive_rate,
        beta_1=settings.momentum,
        beta_2=settings.second_moment,
        tau=settings.adaptivity,
    )


STRATEGIES: dict[str, Callable[[AggregationSettings], FedAvg]] = {
    "fedavg": lambda settings: FedAvg(),
    "fedprox": lambda settings: FedProx(proximal_mu=settings.proximal_mu),
    "fedavgm": lambda settings: FedAvgM(server_learning_rate=settings.learning_rate, server_momentum=settings.momentum),
    "fedadam": lambda settings: _adaptive(FedAdam, settings),
    "fedyogi": lambda settings: _adaptive(FedYogi, settings),
    "fedmedian": lambda settings: FedMedian(),
    "fedtrimmedavg": lambda settings: FedTrimmedAvg(beta=settings.trimmed),
    "krum": lambda settings: Krum(num_malicious_nodes=settings.byzantine),
}
"""McMahan 2017; Li 2020; Hsu 2019; Reddi 2021 (Adam and Yogi); Yin 2018 (median and trimmed mean); Blanchard 2017."""

_MOMENTS = ("momentum_vector", "m_t", "v_t")
"""What the strategies with a server optimizer carry from round to round."""


class Aggregator:
    """A Flower strategy that only aggregates: it neither draws a cohort nor checks a reply.

    A server optimizer (fedavgm, fedadam, fedyogi) steps on trainable weights only; running statistics of BatchNorm are
    averaged, because momentum could push a variance below zero.

    Args:
        settings: Names the strategy and its knobs.
        trainable: Names of the arrays that are trained weights.
    """

    def __init__(self, settings: AggregationSettings, trainable: frozenset[str]) -> None:
        self._settings = settings
        self._trainable = trainable
        self._strategy = choose("aggregation", STRATEGIES, settings.name)(settings)

    def step(self, true_round: int, sent: Arrays, replies: Sequence[Message]) -> ArrayRecord:
        """Return the next arrays, in the types and the order of ``sent``.

        Args:
            true_round: Counted from the run's beginning; FedAdam's correction of its first rounds needs it.
            sent: What the clients got.
            replies: Checked replies with these arrays in this order (FedAvgM and Krum pair arrays by position); they
                are used up.

        Raises:
            UserError: Too few replies for the strategy to mean anything.
        """
        self.check_count(len(replies), f"round {true_round}")
        averaged = self._keep_statistics_apart(sent, replies)
        arrays, _ = self._strategy.aggregate_train(true_round, replies)
        result = arrays_of(arrays or {}) | averaged
        return ArrayRecord({name: Array(np.asarray(result[name], value.dtype)) for name, value in sent.items()})

    def check_count(self, count: int, where: str) -> None:
        """Refuse fewer replies than the strategy needs.

        Raises:
            UserError: Names the strategy, what it needs and what there is.
        """
        settings = self._settings
        needed, why = {
            "fedmedian": (3, "a median of fewer follows a single client"),
            "fedtrimmedavg": (math.ceil(1 / settings.trimmed), f"with trimmed={settings.trimmed} fewer trim nobody"),
            "krum": (2 * settings.byzantine + 3, f"2 x byzantine + 3, with byzantine={settings.byzantine}"),
        }.get(settings.name, (1, ""))
        if count < needed:
            raise UserError(
                f"{where}: federation.aggregation.name={settings.name} needs {needed} usable replies ({why}), "
                f"found {count}"
            )

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the server optimizer's moments by ``<moment>.<array>``."""
        moments = {name: getattr(self._strategy, name, None) for name in _MOMENTS}
        return {
            f"{moment}.{key}": np.asarray(value)
            for moment, values in moments.items()
            if values is not None
            for key, value in (values if isinstance(values, Mapping) else dict(enumerate(values))).items()
        }

    def restore(self, state: Arrays) -> None:
        """Load what ``state`` returned."""
        for moment in _MOMENTS:
            prefix = f"{moment}."
            values = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if values:
                in_order = [values[str(index)] for index in range(len(values))] if moment == _MOMENTS[0] else values
                setattr(self._strategy, moment, in_order)

    def _keep_statistics_apart(self, sent: Arrays, replies: Sequence[Message]) -> dict[str, NDArray[Any]]:
        """Tell a server optimizer the current weights, leave only weights in the replies, and average the rest."""
        if not isinstance(self._strategy, FedAvgM | FedAdam | FedYogi):
            return {}
        current = {name: value for name, value in sent.items() if name in self._trainable}
        if isinstance(self._strategy, FedAvgM):
            self._strategy.current_arrays = ArrayRecord({name: Array(value) for name, value in current.items()})
        else:
            self._strategy.current_arrays = current
        rest = []
        for reply in replies:
            arrays = reply.content.array_records["arrays"]
            reply.content["arrays"] = ArrayRecord({name: arrays[name] for name in current})
            others = ArrayRecord({name: value for name, value in arrays.items() if name not in current})
            rest.append(RecordDict({"arrays": others, "metrics": reply.content.metric_records["metrics"]}))
        return arrays_of(aggregate_arrayrecords(rest, "num-examples"))


def find_outliers(settings: AggregationSettings, sent: Arrays, replies: Mapping[int, Arrays]) -> dict[int, float]:
    """Return the replies whose update is too large, with the norm that is still allowed.

    Allowed is ``outlier_factor`` times the median norm of the round's updates. Of one or two replies none can be found,
    because none is more than twice their median; the factor is therefore above two.

    Args:
        settings: ``outliers`` and ``outlier_factor``.
        sent: What the clients got.
        replies: Arrays by partition.
    """
    norms = {partition: update_norm(sent, arrays) for partition, arrays in replies.items()}
    allowed = settings.outlier_factor * float(np.median(list(norms.values())))
    return {partition: allowed for partition, norm in norms.items() if norm > allowed}
