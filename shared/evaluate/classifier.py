"""The one classifier: an encoder, a standardisation of its embeddings, and a head; fitted, fine-tuned or exported."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from shared.seeding import seeded_initialisation


class Classifier(nn.Module):
    """An encoder, a fixed standardisation of its embeddings, and a head: (N, ...) to the logits (N, K).

    Args:
        encoder: To embeddings (N, D).
        scaler: Standardises them.
        head: From (N, D) to (N, K).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, encoder: nn.Module, scaler: StandardScaler | None, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.register_buffer("mean", torch.tensor(0.0 if scaler is None else scaler.mean_, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(1.0 if scaler is None else scaler.scale_, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) of inputs (N, ...)."""
        logits: Tensor = self.head((self.encoder(x) - self.mean) / self.scale)
        return logits


def linear_head(probe: LogisticRegression, classes: Sequence[int]) -> nn.Linear:
    """Return the layer whose softmax is the probability that a fitted logistic regression gives each of ``classes``.

    Args:
        probe: Fitted to embeddings (N, D).
        classes: Labels in the order of the logits; the logit of one that the probe never saw stays far below.
    """
    # scikit-learn keeps one row for two classes, that of the second against the first.
    rows = probe.coef_ if len(probe.classes_) > 2 else np.concatenate([-probe.coef_, probe.coef_]) / 2
    offsets = probe.intercept_ if len(probe.classes_) > 2 else np.array([-1, 1]) * probe.intercept_ / 2
    with seeded_initialisation("linear"):  # all of it is overwritten, but the global generator must not move
        layer = nn.Linear(rows.shape[1], len(classes))
    places = [list(classes).index(label) for label in probe.classes_]
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(float(offsets.min()) - 10)
        layer.weight[places] = torch.as_tensor(rows, dtype=torch.float32)
        layer.bias[places] = torch.as_tensor(offsets, dtype=torch.float32)
    return layer
