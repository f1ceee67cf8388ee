"""Self-supervised losses as pure functions: tensors in, one scalar out, nothing remembered.

Shapes: N windows, P projected features, C channels, T samples. Every size comes from the tensors, never from
a configuration, so ragged last batches and ``N = 1`` are ordinary input. Precision below float32 is raised to
float32 and autocast is switched off inside: similarities divided by a low temperature, and variances, do not
survive eight bits of mantissa. float64 stays float64.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_FLOOR = 1e-6
"""Rows shorter than this are not stretched to length one: a dead projection then has a bounded gradient."""

VICREG_EPSILON = 1e-4
BARLOW_EPSILON = 1e-5
"""Added to a variance before its root, as in the authors' code, so that a constant has a finite gradient."""


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy between two views (Chen et al. 2020, SimCLR, equation 1).

    Each of the 2N projections has to find its partner among the 2N - 1 others by cosine similarity. With
    ``N = 1`` only the partner is there: the loss is 0.

    Args:
        a: Projections of the first view, (N, P), of any length: they are normalised here.
        b: Projections of the second view, (N, P); row i belongs to row i of ``a``.
        temperature: Divisor of the cosine similarities, above 0.

    Returns:
        Mean over the 2N projections, a scalar.

    Raises:
        ValueError: The shapes differ, or are not (N, P).
    """
    a, b = _views(a, b)
    n = len(a)
    with torch.autocast(a.device.type, enabled=False):
        z = F.normalize(torch.cat([a, b]), dim=1, eps=NORM_FLOOR)
        similarity = z @ z.T / temperature
        itself = torch.eye(2 * n, dtype=torch.bool, device=a.device)
        partner = torch.arange(2 * n, device=a.device).roll(n)
        return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def vicreg(a: Tensor, b: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> Tensor:
    """Variance-invariance-covariance regularisation (Bardes et al. 2022, equations 1 to 6).

    As in the code that the authors released, and for which the default weights were tuned, the distance is
    averaged over the features (equation 5 sums it) and the hinge over the two views (equation 6 sums it).
    With ``N = 1`` variances and covariances are taken as 0.

    Args:
        a: Projections of the first view, (N, P).
        b: Projections of the second view, (N, P); row i belongs to row i of ``a``.
        invariance: Weight of the squared distance between the views.
        variance: Weight of the hinge that keeps each feature's standard deviation above 1.
        covariance: Weight of the squared covariances between features.

    Returns:
        The weighted sum, a scalar.

    Raises:
        ValueError: The shapes differ, or are not (N, P).
    """
    a, b = _views(a, b)
    with torch.autocast(a.device.type, enabled=False):
        (spread_a, shared_a), (spread_b, shared_b) = _vicreg_terms(a), _vicreg_terms(b)
        return invariance * F.mse_loss(a, b) + variance * (spread_a + spread_b) / 2 + covariance * (shared_a + shared_b)


def _vicreg_terms(z: Tensor) -> tuple[Tensor, Tensor]:
    """The hinge on the standard deviations and the covariance penalty of one view."""
    n, features = z.shape
    centred = z - z.mean(dim=0)
    matrix = centred.T @ centred / max(n - 1, 1)
    hinge = F.relu(1 - (matrix.diagonal() + VICREG_EPSILON).sqrt()).mean()
    return hinge, _off_diagonal(matrix).square().sum() / features


def barlow_twins(a: Tensor, b: Tensor, redundancy: float) -> Tensor:
    """Redundancy reduction between two views (Zbontar et al. 2021, Barlow Twins, equations 1 and 2).

    The cross-correlation matrix of the features, over the batch, is pulled to the identity. With ``N = 1``
    every correlation is taken as 0: the loss is P and its gradient 0.

    Args:
        a: Projections of the first view, (N, P).
        b: Projections of the second view, (N, P); row i belongs to row i of ``a``.
        redundancy: Weight of the elements off the diagonal (lambda in the paper, which takes 0.005).

    Returns:
        The sum over the matrix, a scalar.

    Raises:
        ValueError: The shapes differ, or are not (N, P).
    """
    a, b = _views(a, b)
    with torch.autocast(a.device.type, enabled=False):
        correlation = _standardise(a).T @ _standardise(b) / len(a)
        on_diagonal = (1 - correlation.diagonal()).square().sum()
        return on_diagonal + redundancy * _off_diagonal(correlation).square().sum()


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the masked samples only, all channels of them.

    Args:
        prediction: Reconstructed windows, (N, C, T).
        target: Windows to be reconstructed, (N, C, T).
        mask: True where the sample was hidden from the encoder, bool (N, T).

    Returns:
        A scalar; 0, with a gradient of zeros, if nothing is masked.

    Raises:
        ValueError: The shapes do not fit together, or the mask is not boolean.
    """
    n, channels, samples = _same_shape("prediction", prediction, "target", target, "(N, C, T)")
    if mask.shape != (n, samples) or mask.dtype is not torch.bool:
        raise ValueError(
            f"mask: expected bool {(n, samples)} for a prediction of shape {tuple(prediction.shape)}, "
            f"found {mask.dtype} {tuple(mask.shape)}"
        )
    error = torch.where(mask.unsqueeze(1), _at_least_float32(prediction) - _at_least_float32(target), 0)
    return error.square().sum() / (mask.sum().clamp(min=1) * channels)


def cosine_logits(z: Tensor, codes: Tensor, temperature: float) -> Tensor:
    """Cosine similarity to each code, over a temperature (Hsu et al. 2021, HuBERT, equation 3).

    Args:
        z: What is told from, (M, P), of any length.
        codes: Embeddings of the codes, (K, P), of any length.
        temperature: Above 0; 0.1 in the paper.

    Returns:
        (M, K), for a cross-entropy.
    """
    z, codes = _at_least_float32(z), _at_least_float32(codes)
    with torch.autocast(z.device.type, enabled=False):
        return F.normalize(z, dim=1, eps=NORM_FLOOR) @ F.normalize(codes, dim=1, eps=NORM_FLOOR).T / temperature


def contrast_positions(context: Tensor, target: Tensor, codes: Tensor, hidden: Tensor, temperature: float) -> Tensor:
    """Find the target of a hidden position among those of its window (Baevski et al. 2020, wav2vec 2.0, equation 3).

    The distractors are all other hidden positions whose codes differ from its own. Without any the loss is 0.

    Args:
        context: What the encoder says of each position, (N, L, P).
        target: What stands there, quantised, (N, L, P).
        codes: Which codes the target has, int64 (N, L, G).
        hidden: bool (N, L); at least one is True.
        temperature: Divisor of the cosine similarities; 0.1 in the paper.

    Returns:
        Mean over the hidden positions, a scalar.

    Raises:
        ValueError: The shapes of context and target differ, or are not (N, L, P).
    """
    _same_shape("context", context, "target", target, "(N, L, P)")
    context, target = _at_least_float32(context), _at_least_float32(target)
    with torch.autocast(context.device.type, enabled=False):
        context, target = (F.normalize(z, dim=2, eps=NORM_FLOOR) for z in (context, target))
        similarity = context @ target.transpose(1, 2) / temperature
        alike = (codes.unsqueeze(1) == codes.unsqueeze(2)).all(dim=3)
        itself = torch.eye(codes.shape[1], dtype=torch.bool, device=codes.device)
        distractor = hidden.unsqueeze(1) & ~alike
        logits = similarity.masked_fill(~(distractor | itself), -torch.inf)[hidden]
        return F.cross_entropy(logits, hidden.nonzero()[:, 1])


def code_monotony(probabilities: Tensor) -> Tensor:
    """How far the codes are from being used alike (Baevski et al. 2020, equation 4, as in the authors' code).

    Args:
        probabilities: Of V codes in each of G groups, (M, G, V).

    Returns:
        (G V - sum over groups of exp of the entropy of the mean) / (G V), a scalar: 0 where all codes are used alike,
        1 - 1 / V where one code of each group is.
    """
    probabilities = _at_least_float32(probabilities)
    mean = probabilities.mean(dim=0)
    entropy = -torch.xlogy(mean, mean.clamp_min(torch.finfo(mean.dtype).tiny)).sum(dim=1)
    return 1 - entropy.exp().sum() / mean.numel()


def _standardise(z: Tensor) -> Tensor:
    """Each feature with mean 0 and variance 1 over the batch."""
    return (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + BARLOW_EPSILON).sqrt()


def _off_diagonal(matrix: Tensor) -> Tensor:
    """A square matrix with zeros on its diagonal."""
    return matrix - matrix.diagonal().diag()


def _views(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two views of one shape (N, P), in float32 or better."""
    _same_shape("first view", a, "second view", b, "(N, P)")
    return _at_least_float32(a), _at_least_float32(b)


def _same_shape(name: str, x: Tensor, other: str, y: Tensor, form: str) -> torch.Size:
    """The common shape of two tensors, which has as many dimensions as ``form`` has letters."""
    if x.shape != y.shape or x.dim() != form.count(",") + 1 or len(x) == 0:
        raise ValueError(
            f"{name} and {other}: expected one shape {form} with N of at least 1, "
            f"found {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return x.shape


def _at_least_float32(x: Tensor) -> Tensor:
    """The tensor itself, or a float32 copy of a half-precision one."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
