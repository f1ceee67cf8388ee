"""How good is a representation? Several protocols on frozen or copied encoders, at several amounts of labels.

``probe`` is the way in. Everything is fitted and chosen on training people; test people are used for nothing but the
score. Scores are fractions from 0 to 1; tables show percent.
"""

from shared.collapse import EmbeddingSpread, effective_rank, spread
from shared.evaluate.classifier import Classifier, linear_head
from shared.evaluate.comparison import bootstrap_mean, paired_difference
from shared.evaluate.knn import choose_k, nearest_neighbours
from shared.evaluate.linear import C_GRID, LinearProbe, choose_C, fit_linear_probe
from shared.evaluate.orientation import with_turned_copies, with_turned_recordings
from shared.evaluate.protocols import PROTOCOLS, Fitted, Part, Protocol, applicable, evaluate_once, probe
from shared.evaluate.report import ProbeReport, ProbeResult, mean_std, unseen_classes
from shared.evaluate.representation import (
    BASELINES,
    Embeddings,
    Representation,
    embed,
    encoded,
    encoded_by_seed,
    estimate_norm_statistics,
)
from shared.evaluate.selection import REGIMES, draw_regime, held_out_folds
from shared.evaluate.table import print_table

__all__ = [
    "BASELINES",
    "C_GRID",
    "PROTOCOLS",
    "REGIMES",
    "Classifier",
    "EmbeddingSpread",
    "Embeddings",
    "Fitted",
    "LinearProbe",
    "Part",
    "ProbeReport",
    "ProbeResult",
    "Protocol",
    "Representation",
    "applicable",
    "bootstrap_mean",
    "choose_C",
    "choose_k",
    "draw_regime",
    "effective_rank",
    "embed",
    "encoded",
    "encoded_by_seed",
    "estimate_norm_statistics",
    "evaluate_once",
    "fit_linear_probe",
    "held_out_folds",
    "linear_head",
    "mean_std",
    "nearest_neighbours",
    "paired_difference",
    "print_table",
    "probe",
    "spread",
    "unseen_classes",
    "with_turned_copies",
    "with_turned_recordings",
]
