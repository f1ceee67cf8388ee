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

SINKHORN_ITERATIONS = 3
"""As in the paper of SwAV: a prototype's shares are then nearly as many as another's; a window's sum to 1 exactly."""

KOLEO_FLOOR = 1e-3
"""Distances on the unit sphere below about this do not push any harder: windows that repeat have none at all."""

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
        z = unit_length(torch.cat([a, b]))
        similarity = z @ z.T / temperature
        itself = torch.eye(2 * n, dtype=torch.bool, device=a.device)
        partner = torch.arange(2 * n, device=a.device).roll(n)
        return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def info_nce(queries: Tensor, keys: Tensor) -> Tensor:
    """Cross-entropy of finding each query's key by its dot product (van den Oord et al. 2018, CPC, equation 4).

    With one key only the loss is 0.

    Args:
        queries: (..., N, P), scaled by the caller: they may be normalised, and divided by a temperature.
        keys: (..., K, P), K at least N; key i belongs to query i of the same leading dimensions, and the others do not.

    Returns:
        Mean over all queries, a scalar.

    Raises:
        ValueError: The shapes do not fit, have less than two dimensions, or N is 0.
    """
    fit = queries.shape[:-2] == keys.shape[:-2] and queries.shape[-1:] == keys.shape[-1:]
    if queries.dim() < 2 or not fit or not 0 < queries.shape[-2] <= keys.shape[-2]:
        raise ValueError(
            "queries and keys: expected (..., N, P) and (..., K, P) with K of at least N, "
            f"found {tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    n = queries.shape[-2]
    with torch.autocast(queries.device.type, enabled=False):
        similarity = _at_least_float32(queries) @ _at_least_float32(keys).mT
        similarity = similarity.flatten(0, -2)
        own = torch.arange(n, device=queries.device).repeat(len(similarity) // n)
        return F.cross_entropy(similarity, own)


def cosine_info_nce(queries: Tensor, keys: Tensor, temperature: float, more: Tensor | None = None) -> Tensor:
    """Cross-entropy of finding each query's key by cosine similarity (He et al. 2020, MoCo, equation 1).

    Each of the N queries has to find its own key among the N keys and those in ``more``.

    Args:
        queries: (N, P), of any length: all are normalised here.
        keys: (N, P); row i belongs to row i of ``queries``.
        temperature: Divisor of the cosine similarities, above 0.
        more: Keys that belong to no query, (Q, P).

    Returns:
        Mean over the queries, a scalar.

    Raises:
        ValueError: The shapes differ, or are not (N, P).
    """
    queries, keys = _views(queries, keys)
    everything = keys if more is None else torch.cat([keys, more])
    with torch.autocast(queries.device.type, enabled=False):
        return info_nce(unit_length(queries) / temperature, unit_length(everything))


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
        a, b = unit_length(a), unit_length(b)
        return (info_nce(scale * a, b) + info_nce(scale * b, a)) / 2


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """One minus the cosine of the angle between rows: 0 where they point alike, 2 where they are opposite.

    The loss of SimSiam (Chen and He 2021, equation 1) plus 1; half of BYOL's (Grill et al. 2020, equation 2).

    Args:
        a: (N, P).
        b: (N, P); row i belongs to row i of ``a``.

    Returns:
        Mean over the rows, a scalar.

    Raises:
        ValueError: The shapes differ, or are not (N, P).
    """
    a, b = _views(a, b)
    with torch.autocast(a.device.type, enabled=False):
        return 1 - (unit_length(a) * unit_length(b)).sum(dim=1).mean()


def swapped_prediction(a: Tensor, b: Tensor, temperature: float, epsilon: float) -> Tensor:
    """Cross-entropy of each view's code under the probabilities of the other (Caron et al. 2020, SwAV, equation 2).

    Args:
        a: Cosine similarities of the first view to K prototypes, (N, K).
        b: Of the second view, (N, K); row i belongs to row i of ``a``.
        temperature: Divisor of the similarities that become probabilities, above 0.
        epsilon: The same for codes, see ``sinkhorn``; no gradient flows through them.

    Returns:
        Mean over the 2N views, a scalar.

    Raises:
        ValueError: The shapes differ, or are not (N, K).
    """
    a, b = _views(a, b)
    with torch.autocast(a.device.type, enabled=False):
        one = F.cross_entropy(a / temperature, sinkhorn(b.detach(), epsilon))
        other = F.cross_entropy(b / temperature, sinkhorn(a.detach(), epsilon))
        return (one + other) / 2


def sinkhorn(scores: Tensor, epsilon: float) -> Tensor:
    """Codes of a batch: near to its scores, each prototype used about as much as another (Caron et al. 2020, eq. 5).

    Sinkhorn and Knopp's iterations (Cuturi 2013) on logarithms, so that no ``epsilon`` is too small.

    Args:
        scores: Similarities to K prototypes, (N, K), in float32 or better.
        epsilon: Softness, above 0: the smaller, the closer is each code to a single prototype.

    Returns:
        (N, K), each row with the sum 1.
    """
    logarithm = scores / epsilon
    for _ in range(SINKHORN_ITERATIONS):
        logarithm = logarithm.log_softmax(dim=0).log_softmax(dim=1)
    return logarithm.exp()


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


def self_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between views of a window, of which a teacher saw some (Caron et al. 2021, DINO, equation 3).

    Each of the teacher's G views tells each of the student's S views but itself what to answer. Equation 3 sums over
    these pairs; here, as in the authors' code, it is their mean.

    Args:
        student: Scores, (S, N, K); the first G views are those that the teacher saw.
        teacher: Probabilities, (G, N, K).
        temperature: Divisor of the student's scores, above 0.

    Returns:
        Mean over windows and pairs, a scalar.

    Raises:
        ValueError: The shapes do not fit together, or there is no pair.
    """
    views, others = len(teacher), len(student)
    if student.dim() != 3 or student.shape[1:] != teacher.shape[1:] or not 1 <= views <= others or others < 2:
        raise ValueError(
            f"views: expected student (S, N, K) and teacher (G, N, K) with S of at least 2 and G of 1 to S, "
            f"found {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    with torch.autocast(student.device.type, enabled=False):
        logs = (_at_least_float32(student) / temperature).log_softmax(dim=2)
        pairs = -torch.einsum("gnk,snk->gs", _at_least_float32(teacher), logs) / student.shape[1]
        itself = torch.eye(views, others, dtype=torch.bool, device=student.device)
        return pairs[~itself].mean()


def koleo(z: Tensor) -> Tensor:
    """Kozachenko-Leonenko estimator of minus the entropy (Sablayrolles et al. 2019; Oquab et al. 2023, DINOv2).

    Minus the mean logarithm of the distance between each normalised embedding and its nearest neighbour in the batch:
    the lower, the more evenly they are spread. The authors add a small number to the distance, whose gradient then is
    very large where windows nearly repeat; here it is added under the root, so that it falls to 0 there.

    Args:
        z: Embeddings (N, D), of any length: they are normalised here.

    Returns:
        A scalar; 0 for a single embedding.
    """
    if len(z) < 2:
        return 0 * z.sum()
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(_at_least_float32(z), dim=1, eps=NORM_FLOOR)
        nearest = (z @ z.T).detach().fill_diagonal_(-torch.inf).argmax(dim=1)
        return -((z - z[nearest]).square().sum(dim=1) + KOLEO_FLOOR**2).log().mean() / 2


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


def unit_length(x: Tensor) -> Tensor:
    """Rows (N, P) divided by their length, see ``NORM_FLOOR``."""
    return F.normalize(x, dim=1, eps=NORM_FLOOR)


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


def scaled_cosine_error(told: Tensor, target: Tensor, hidden: Tensor, power: float) -> Tensor:
    """Scaled cosine error (Hou et al. 2022, GraphMAE, equation 2), over the tokens of which something is hidden.

    Args:
        told: (N, K, P).
        target: (N, K, P).
        hidden: bool (N, K, P), the values that count; at least one is True.
        power: Of the cosine distance, at least 1.

    Returns:
        Mean of (1 - cosine) ** power over those tokens, a scalar.

    Raises:
        ValueError: The shapes differ, or are not (N, K, P).
    """
    _same_shape("told", told, "target", target, "(N, K, P)")
    told, target = _at_least_float32(told), _at_least_float32(target)
    with torch.autocast(told.device.type, enabled=False):
        some = hidden.any(dim=2)
        told, target = ((z * hidden)[some] for z in (told, target))
        cosine = (unit_length(told) * unit_length(target)).sum(dim=1)
        return (1 - cosine).clamp_min(0).pow(power).mean()


def info_max(real: Tensor, corrupted: Tensor) -> Tensor:
    """How badly nodes of a graph are told from those of a corrupted one (Velickovic et al. 2019, DGI, equation 1).

    Args:
        real: Scores of nodes beside the summary of their own graph, of any shape: logits of being real.
        corrupted: Scores of corrupted nodes beside the same summaries, of any shape.

    Returns:
        Mean of both binary cross-entropies, a scalar: ln 2 where all scores are 0.
    """
    real, corrupted = _at_least_float32(real), _at_least_float32(corrupted)
    with torch.autocast(real.device.type, enabled=False):
        return (F.softplus(-real).mean() + F.softplus(corrupted).mean()) / 2


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
