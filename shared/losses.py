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


def info_nce(queries: Tensor, keys: Tensor) -> Tensor:
    """Cross-entropy of finding each query's key by its dot product (van den Oord et al. 2018, CPC, equation 4).

    With ``N = 1`` there is one key only: the loss is 0.

    Args:
        queries: (..., N, P), scaled by the caller: they may be normalised, and divided by a temperature.
        keys: (..., N, P); key i belongs to query i of the same leading dimensions, and the other N - 1 do not.

    Returns:
        Mean over all queries, a scalar.

    Raises:
        ValueError: The shapes differ, have less than two dimensions, or N is 0.
    """
    if queries.shape != keys.shape or queries.dim() < 2 or queries.numel() == 0:
        raise ValueError(
            f"queries and keys: expected one shape (..., N, P), found {tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    n = queries.shape[-2]
    with torch.autocast(queries.device.type, enabled=False):
        similarity = _at_least_float32(queries) @ _at_least_float32(keys).mT
        own = torch.arange(n, device=queries.device).repeat(similarity.numel() // n**2)
        return F.cross_entropy(similarity.flatten(0, -2), own)


def clip(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric cross-entropy of finding each other among two kinds (Radford et al. 2021, CLIP, figure 3).

    With ``N = 1`` the loss is 0.

    Args:
        a: Projections of one kind, (N, P), of any length: they are normalised here.
        b: Projections of the other, (N, P); row i belongs to row i of ``a``.
        scale: Factor of the cosine similarities, above 0: the inverse of a temperature.

    Returns:
        Mean over both directions, a scalar.

    Raises:
        ValueError: The shapes differ, or are not (N, P).
    """
    a, b = _views(a, b)
    with torch.autocast(a.device.type, enabled=False):
        a, b = (F.normalize(z, dim=1, eps=NORM_FLOOR) for z in (a, b))
        return (info_nce(scale * a, b) + info_nce(scale * b, a)) / 2


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
