"""Task conflict calibration: a batch is several tasks, and what they share decides what the heads see of an embedding.

TC²: H. Guo, J. Wang, P. Guo, X. Shen, C. Zheng and W. Qiang 2025, arXiv 2511.13787. Only the abstract and summaries
could be read. It says: each batch makes several self-supervised tasks; factors V are shared by all of them; each window
has weights W = f_w(z) Vᵀ of its own; the factors' loss is orthogonality and reconstruction, the weights' loss is
sparsity, and both together, L_tc2, with the second weighed by lambda; representations are calibrated while the encoder
trains, in two stages, on top of any loss. All else is inferred here, from that and from earlier work of the same group:

- V is one learned matrix with rows of length 1, as in MetaCRL (J. Wang et al. 2024, arXiv 2312.05771); f_w has one
  hidden layer.
- The calibrated embedding is z + a s (W V) with a learned scalar a. W is made of the embedding standardised over the
  batch, and s is the batch's standard deviation: what is pooled over time spreads differently, by up to two orders of
  magnitude.
- Reconstructed is the standardised embedding, not the window.
- The tasks of the first stage's virtual step and the tasks that judge it are different halves of the batch: the same
  half would not tell what one task's solution is worth to another. Each half is encoded by itself, so that no
  statistics of BatchNorm tell one of the other.
- The virtual step is plain gradient descent.
- Calibrated is what is pooled of the student's views. Tokens are not, and neither is what a teacher's head sees: it
  gives targets as it would without the calibration.

Shapes: M views, D embedding, F factors, P parts of a batch, K tasks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import UserError
from shared.steps.base import Pass, Step, StepContext, StepSettings

FIRST_STRENGTH = 0.1
"""The scalar a before training."""

HIDDEN = 128
"""Units of the hidden layer of f_w."""


class TC2(Step):
    """Two stages: gradients of the losses for encoder and heads, then for the calibration, judged by held-out parts.

    First stage: all parts give the gradient of the encoder and the heads, through a calibration that stays as it is.
    The first half of the parts alone gives the weights that a step of gradient descent would reach. Second stage: the
    losses of the other half at those weights, with L_tc2, give the gradient of the calibration alone.

    A batch too small for two parts is trained plainly and without the calibration.

    Raises:
        UserError: No task looks at what is pooled.

    Attributes:
        factors: V before its rows are given length 1, (F, D).
        strength: The scalar a.
    """

    def __init__(self, settings: StepSettings, context: StepContext) -> None:
        super().__init__(settings, context)
        if not context.pooled:
            raise UserError(
                "step 'tc2' calibrates what is pooled, and the tasks look at tokens alone: set step.name=plain, or add "
                "a task that looks at what is pooled, such as contrastive"
            )
        self.settings = settings.tc2
        self.factors = nn.Parameter(torch.randn(settings.tc2.factors, context.dim))
        self.weigh = nn.Sequential(
            nn.Linear(context.dim, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, context.dim)
        )
        self.strength = nn.Parameter(torch.tensor(FIRST_STRENGTH))

    def parts(self, windows: int) -> int:
        """As many as the settings allow for this many windows; one where it would not be two."""
        parts = min(self.settings.tasks, windows // self.settings.min_windows)
        return parts if parts > 1 else 1

    def calibrate(self, embeddings: Tensor) -> Tensor:
        """Return z + a s (W V) for embeddings z (M, D)."""
        standardised, spread = _standardise(embeddings)
        weights, factors = self._factorise(standardised)
        return embeddings + self.strength * spread * (weights @ factors)

    def own_loss(self, embeddings: Tensor) -> Tensor:
        """Return L_tc2: the factors' orthogonality, what they miss of embeddings (M, D), and the weights' sparsity."""
        standardised, _ = _standardise(embeddings.detach())
        weights, factors = self._factorise(standardised)
        count = len(factors)
        identity = torch.eye(count, dtype=factors.dtype, device=factors.device)
        orthogonality = (factors @ factors.T - identity).square().sum() / (count * (count - 1))
        reconstruction = (standardised - weights @ factors).square().mean()
        return orthogonality + reconstruction + self.settings.sparsity * weights.abs().mean()

    def _factorise(self, standardised: Tensor) -> tuple[Tensor, Tensor]:
        """Return W (M, F) and V (F, D)."""
        factors = F.normalize(self.factors, dim=1)
        return self.weigh(standardised) @ factors.T, factors

    def backward(self, given: Pass) -> tuple[Tensor, Tensor]:
        """Both stages."""
        losses_at, parts, weighting, model, pull = given
        if len(parts) == 1:
            return super().backward(given)
        support, query = parts[: len(parts) // 2], parts[len(parts) // 2 :]
        outer = {n: p for n, p in model.named_parameters() if p.requires_grad and not n.startswith("step.")}
        second_order = self.settings.order == "second"

        of_support = losses_at(support, calibrate=self.calibrate).values
        of_query = losses_at(query, calibrate=self.calibrate).values
        losses = torch.cat([of_support, of_query]).detach().mean(dim=0)
        weighting.observe(losses)
        steepest = torch.autograd.grad(
            weighting(of_support.mean(dim=0)), list(outer.values()), create_graph=second_order, materialize_grads=True
        )
        share = len(support) / len(parts)
        rest = (1 - share) * weighting(of_query.mean(dim=0))
        (rest if pull is None else rest + pull).backward(inputs=list(outer.values()))
        for weight, direction in zip(outer.values(), steepest, strict=True):
            gradient = share * direction.detach()
            weight.grad = gradient if weight.grad is None else weight.grad + gradient

        with torch.set_grad_enabled(second_order):
            weights = {n: p - self.settings.inner_rate * g for (n, p), g in zip(outer.items(), steepest, strict=True)}
        weights |= {name: buffer.clone() for name, buffer in model.named_buffers()}  # those of BatchNorm move
        seen: list[Tensor] = []

        def calibrate(embeddings: Tensor) -> Tensor:
            seen.append(embeddings)
            return self.calibrate(embeddings)

        judged = losses_at(query, weights=weights, calibrate=calibrate).values.mean(dim=0)
        (weighting(judged) + self.own_loss(torch.cat(seen))).backward(inputs=list(self.parameters()))
        loss = weighting(losses)
        return losses, loss if pull is None else loss + pull.detach()


def _standardise(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Return embeddings (M, D) with mean 0 and standard deviation 1 over the batch, and the deviation (D,) before."""
    variance, mean = torch.var_mean(embeddings, dim=0, correction=0)
    spread = (variance + 1e-5).sqrt()
    return (embeddings - mean) / spread, spread
