"""Codes of positions: the number of the k-means cluster that each position of each window belongs to.

Shapes: N windows, C channels, T samples, L positions, S samples of a position, F numbers that describe a position.

A position is described by its standardised samples, by a few hand-made features, or by a token of the encoder, which
makes the codes of a second iteration (Hsu et al. 2021, HuBERT, sections 2.1 and 3.2). The clusters are private: they
are made of the windows at hand, and in a federation those are one person's.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from shared.data.statistics import ChannelStatistics
from shared.data.windows import Windows
from shared.encoders import Encoder, View
from shared.large import blocks

Source = Literal["patches", "features", "tokens"]
"""What describes a position."""

BINS = 4
"""Frequencies of a patch that its features tell of, the constant one left out."""

FLOOR = 0.01
"""Strength, in standard deviations of a channel, that counts as rest: keeps logarithms finite."""

MOST_FITTED = 50_000
"""Positions that clusters are fitted to; the others only get the nearest one's number."""

CHUNK = 256
"""Windows described at a time."""

SMALLEST_SPREAD = 1e-6
"""Floor of the standard deviation of what describes a position: what never changes must not divide by zero."""

_FITTING = threading.Lock()
"""Clients that share a process take turns: how many threads a library uses is set for the whole process."""


def cluster_codes(windows: Windows, encoder: Encoder, clusters: int, source: Source, before: Tensor | None) -> Tensor:
    """Return the code of each position, int64 (N, L), from 0 to ``clusters`` - 1.

    All that describes a position is standardised over the windows. The result depends on the arguments alone.

    Args:
        windows: N windows.
        encoder: Tells how windows are cut into positions, and makes the tokens of "tokens".
        clusters: At most so many codes; fewer, where fewer positions differ.
        source: What describes a position.
        before: The codes of before, for the same windows: a new cluster gets the number of an old one, so that as many
            positions as possible keep theirs, and what has learned to tell the codes still can.
    """
    every = -(-len(windows) * encoder.layout.tokens // MOST_FITTED)  # evenly over the windows, and so over the people
    describe = _descriptions(windows, encoder, source)
    sample = np.concatenate(list(describe(windows[::every])))
    mean, std = sample.mean(axis=0), np.maximum(sample.std(axis=0), SMALLEST_SPREAD)
    sample = (sample - mean) / std
    count = min(clusters, len(np.unique(sample, axis=0)))
    from sklearn.cluster import MiniBatchKMeans  # slow to import, and most processes need none of it

    k_means = MiniBatchKMeans(count, init="k-means++", n_init=1, random_state=0)
    with _FITTING, threadpool_limits(1):  # what several threads add up depends on their number
        k_means.fit(sample)
        codes = np.concatenate([k_means.predict((part - mean) / std) for part in describe(windows)])
    made = torch.from_numpy(codes.astype(np.int64)).view(len(windows), encoder.layout.tokens)
    return made if before is None else keep_names(made, before.cpu(), clusters)


def keep_names(codes: Tensor, before: Tensor, clusters: int) -> Tensor:
    """Return codes, int64 of any shape, by the names that most positions had before (Kuhn 1955)."""
    pairs = torch.bincount((codes * clusters + before).flatten(), minlength=clusters**2)
    from scipy.optimize import linear_sum_assignment  # slow to import, and most processes need none of it

    new, old = linear_sum_assignment(pairs.view(clusters, clusters).numpy(), maximize=True)
    names = torch.empty(clusters, dtype=torch.int64)
    names[torch.from_numpy(new)] = torch.from_numpy(old)
    return names[codes]


def _descriptions(
    windows: Windows, encoder: Encoder, source: Source
) -> Callable[[Windows], Iterator[NDArray[np.float32]]]:
    """Return what describes the positions of windows, some windows at a time: float32 (n L, F)."""
    statistics = ChannelStatistics.of(windows)
    mean, std = (torch.from_numpy(v).float().view(encoder.mean.shape) for v in (statistics.mean, statistics.std))
    layout = encoder.layout

    def describe(of: Windows) -> Iterator[NDArray[np.float32]]:
        for block in blocks(of.x, CHUNK):
            chunk = torch.from_numpy(np.array(block))
            if source == "tokens":
                described = _tokens(encoder, chunk)
            else:
                described = layout.patches((chunk - mean) / std)
                if source == "features":
                    described = patch_features(described.view(len(chunk), layout.tokens, -1, layout.stride))
            yield described.flatten(0, 1).cpu().numpy()

    return describe


@torch.no_grad()
def _tokens(encoder: Encoder, x: Tensor) -> Tensor:
    """The tokens (n, L, H) of a middle block, which tell more of what a position is than the last (Hsu et al. 2021)."""
    blocks = encoder.encode(View(x.to(encoder.mean.device))).blocks
    return blocks[(len(blocks) - 1) // 2]


def patch_features(patch: Tensor) -> Tensor:
    """Describe each channel of a patch by hand, as HuBERT's first iteration does by MFCC: (N, L, C, S) to (N, L, F).

    Mean, slope, and the logarithms of the standard deviation and of the lowest frequencies' strengths.
    """
    samples = patch.shape[3]
    time = torch.arange(samples, device=patch.device) - (samples - 1) / 2
    mean = patch.mean(dim=3, keepdim=True)
    slope = (patch * time).sum(dim=3, keepdim=True) / time.square().sum().clamp_min(1)
    spread = patch.std(dim=3, correction=0, keepdim=True)
    bins = torch.fft.rfft(patch - mean).abs()[..., 1 : BINS + 1] / samples
    return torch.cat([mean, slope, (torch.cat([spread, bins], dim=3) + FLOOR).log()], dim=3).flatten(2)
