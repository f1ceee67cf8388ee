"""A client's private half on its own disk: heads, task weights, optimizer and lost roundings, round by round."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from shared.checkpoint import Snapshot, load_snapshot, save_snapshot
from shared.errors import UserError
from shared.exchange import NormStatistics, private_state
from shared.files import write_atomic
from shared.metrics import METRICS, read_metrics
from shared.train import Training

LOG = logging.getLogger(__name__)

_RESIDUAL = "residual."


class PrivateState:
    """The private state of one person in one run.

    The states of the last rounds are kept: when the server resumes from an earlier round, the client goes back with it.

    Args:
        folder: On the client's own disk; made on the first save.
        config_digest: State of a run with another configuration is refused.
        policy: Where BatchNorm statistics live.
    """

    def __init__(self, folder: Path, config_digest: str, policy: NormStatistics) -> None:
        self._folder = folder
        self._digest = config_digest
        self._policy: NormStatistics = policy

    def restore(self, training: Training, before: int) -> dict[str, NDArray[Any]] | None:
        """Load the newest state from before a round; the first time, the model stays as it was initialised.

        Returns:
            What rounding took away from the last update; None where there is no state.

        Raises:
            UserError: The state belongs to another configuration.
        """
        snapshot = load_snapshot(self._folder, latest=before - 1)
        if snapshot is None:
            if before > 1:
                LOG.warning("no private state from before round %d in %s: its heads start anew", before, self._folder)
            return None
        if snapshot.meta["config"] != self._digest:
            raise UserError(f"the state in {self._folder} belongs to a run with another configuration")
        training.load(snapshot.tensors)
        kept = {name: value.numpy() for name, value in snapshot.tensors.items() if name.startswith(_RESIDUAL)}
        return {name.removeprefix(_RESIDUAL): value for name, value in kept.items()}

    def save(
        self,
        training: Training,
        server_round: int,
        residual: Mapping[str, NDArray[Any]],
        logs: Sequence[Mapping[str, Any]],
    ) -> None:
        """Save the private half after a round, and the round's epochs in ``metrics.jsonl``, weights included."""
        shared = set(training.model.state_dict()) - set(private_state(training.model, self._policy))
        tensors = {n: value for n, value in training.state().items() if n.removeprefix("model.") not in shared}
        tensors |= {_RESIDUAL + name: torch.from_numpy(value) for name, value in residual.items()}
        save_snapshot(self._folder, Snapshot(server_round, tensors, {"config": self._digest}))
        path = self._folder / METRICS
        rows = [row for row in read_metrics(path) if row["round"] < server_round]
        rows += [{"kind": "epoch", "round": server_round} | dict(log) for log in logs]
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
