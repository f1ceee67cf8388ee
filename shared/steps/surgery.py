"""Gradient surgery: the encoder's gradient is made of those of the single tasks, so that they conflict less.

By torchjd (Quinton and Rey 2024, "Jacobian descent for multi-objective optimization", arXiv 2406.16232). Two small
problems are solved by scipy instead: torchjd's own solvers bring seven packages with them, or one under the GPL.

Shapes: K tasks; the Gramian (K, K) of their gradients.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator, MGDAWeighting, PCGradWeighting, UPGradWeighting
from torchjd.aggregation import Weighting as Rule
from torchjd.autojac import jac_to_grad, mtl_backward
from torchjd.linalg import DualConeProjector, PSDMatrix

from shared.errors import UserError
from shared.seeding import seeded_initialisation
from shared.steps.base import Pass, Step, StepContext, StepSettings

CAGRAD_RADIUS = 0.4
"""c, of CAGrad: how far it may go from the mean gradient, in lengths of it."""

RIDGE = 1e-6
"""Added to the diagonal of a Gramian of trace 1, so that it has a root where gradients are linearly dependent."""


class DualCone(DualConeProjector):
    """Projects onto the cone of those directions in which no loss rises to first order.

    A direction with the coefficients u of the gradients becomes the one with v ≥ u and the smallest vᵀGv. With
    v = u + s and G = RᵀR this is to find s ≥ 0 for the smallest ‖R s + R u‖: non-negative least squares.
    """

    def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:
        """Project.

        Args:
            U: Coefficients, (..., K).
            G: The Gramian, (K, K).

        Returns:
            Those of the projections, (..., K).
        """
        gramian = _to_numpy(G)
        size = gramian.trace()
        if size == 0:
            return U
        root = np.linalg.cholesky(gramian / size + RIDGE * np.eye(len(gramian))).T
        from scipy.optimize import nnls  # slow to import, and most processes need none of it

        projected = [u + nnls(root, -root @ u)[0] for u in _to_numpy(U).reshape(-1, len(gramian))]
        return torch.as_tensor(np.reshape(projected, U.shape), dtype=U.dtype, device=U.device)


class CAGradWeighting(Rule[PSDMatrix]):
    """CAGrad: the direction within a ball around the mean gradient that lowers the slowest loss fastest.

    B. Liu, X. Liu, Jin, Stone and Q. Liu 2021, "Conflict-averse gradient descent for multi-task learning", equation 3.
    """

    def forward(self, stat: PSDMatrix, /) -> Tensor:
        """Return the coefficients (K,) of the gradients, by their Gramian."""
        gramian = _to_numpy(stat)
        count, size = len(gramian), gramian.trace()
        mean = np.full(count, 1 / count)
        if size == 0:
            return torch.as_tensor(mean, dtype=stat.dtype, device=stat.device)
        gramian = gramian / size + RIDGE * np.eye(count)
        radius = CAGRAD_RADIUS * np.sqrt(mean @ gramian @ mean)

        def dual(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            toward = gramian @ w
            length = np.sqrt(w @ toward)
            return mean @ toward + radius * length, gramian @ mean + radius * toward / length

        simplex = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
        from scipy.optimize import minimize  # slow to import, and most processes need none of it

        w = minimize(dual, mean, jac=True, method="SLSQP", bounds=[(0, 1)] * count, constraints=simplex, tol=1e-12).x
        return torch.as_tensor(mean + radius / np.sqrt(w @ gramian @ w) * w, dtype=stat.dtype, device=stat.device)


class Summed(Rule[PSDMatrix]):
    """K times a rule that averages, so that gradients without conflict are added, as in a plain step."""

    def __init__(self, rule: Rule[PSDMatrix]) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, stat: PSDMatrix, /) -> Tensor:
        """Return the coefficients (K,) of the gradients, by their Gramian."""
        return len(stat) * self.rule(stat)


RULES: dict[str, Callable[[], Rule[PSDMatrix]]] = {
    "upgrad": lambda: Summed(UPGradWeighting(projector=DualCone())),
    "pcgrad": PCGradWeighting,
    "cagrad": lambda: Summed(CAGradWeighting()),
    "mgda": lambda: Summed(MGDAWeighting()),
}
"""How K gradients become one. UPGrad: Quinton and Rey 2024. PCGrad: Yu et al. 2020, "Gradient surgery for multi-task
learning". CAGrad: Liu et al. 2021. MGDA: Sener and Koltun 2018, "Multi-task learning as multi-objective optimization".
"""


class Surgery(Step):
    """The encoder's gradient by a rule, from those of the K weighted losses; each head's from its own loss.

    It costs a pass backward through the encoder for each task.

    Raises:
        UserError: There is one task only, which is in conflict with none.

    Attributes:
        draws: A number that names what the rule draws in the next step (PCGrad: the order of the tasks).
    """

    draws: Tensor

    def __init__(self, settings: StepSettings, context: StepContext) -> None:
        super().__init__(settings, context)
        if context.tasks < 2:
            raise UserError(
                f"step {settings.name!r} settles conflicts between tasks, and there is one: set step.name=plain"
            )
        self.aggregator = GramianWeightedAggregator(RULES[settings.name]())
        self.register_buffer("draws", torch.randint(2**62, ()))

    def backward(self, given: Pass) -> tuple[Tensor, Tensor]:
        """A pass backward for each task, and one for the pull."""
        found = given.losses_at(given.parts)
        losses = [of_task.mean() for of_task in found.tasks]
        values = torch.stack(losses).detach()
        given.weighting.observe(values)
        weights = {name: weight for name, weight in given.model.named_parameters() if weight.requires_grad}
        shared = [weight for name, weight in weights.items() if not name.startswith(("heads.", "step."))]
        mtl_backward(
            losses,
            features=[*found.embeddings, *found.tokens],
            grad_tensors=list(given.weighting.weights()),
            shared_params=shared,
            parallel_chunk_size=1,
        )
        with seeded_initialisation("surgery", int(self.draws)):
            jac_to_grad(shared, self.aggregator, optimize_gramian_computation=True)
        self.draws += 1
        loss = given.weighting(values)
        if given.pull is None:
            return values, loss
        torch.autograd.backward(given.pull)
        return values, loss + given.pull.detach()


def _to_numpy(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().numpy().astype(np.float64)
