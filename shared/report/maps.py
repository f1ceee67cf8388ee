"""Maps of a sample of test windows by t-SNE (van der Maaten and Hinton 2008), coloured by activity and by person."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from shared.checkpoint import load_encoder, read_card
from shared.data import load
from shared.data.person import numbered
from shared.data.windows import Windows
from shared.errors import UserError
from shared.evaluate import Embeddings, embed, estimate_norm_statistics
from shared.features import expert_features
from shared.report.drawing import INK, MUTED, PALETTE, Look, Picture, canvas, picture
from shared.report.reading import Run
from shared.report.scores import class_words
from shared.seeding import make_generator

COMPONENTS = 50
"""Principal components that are kept before t-SNE, as its authors advise; it only sees distances."""

NEIGHBOURS = 10
"""Nearest neighbours, in the whole space, of which the share of the same activity and person is shown."""

LEAST = 12
"""Fewer windows make no map."""

DOTS = [Look(colour, "-", marker) for marker in ("o", "s") for colour in (*PALETTE, INK)]
"""Of activities and of people: circles, then squares. Those beyond them share a grey."""

REST = Look(MUTED, "-", "o")


@dataclass(frozen=True)
class Map:
    """One representation: the same dots twice, and what the neighbours say.

    Args:
        name: Of the representation.
        pictures: Coloured by activity, and by person.
        same_activity: Percent of each window's nearest neighbours that are of its activity.
        same_person: Percent that are of its person.
    """

    name: str
    pictures: tuple[Picture, Picture]
    same_activity: float
    same_person: float


@dataclass(frozen=True)
class Maps:
    """All maps, their common legends (swatch and words) and what could not be drawn."""

    windows: int
    maps: list[Map]
    activities: list[tuple[Markup, str]]
    people: list[tuple[Markup, str]]
    notes: list[str]


def draw_maps(runs: Sequence[Run], sample: int) -> Maps:
    """Draw raw windows, expert features and each encoder's embeddings of the same labelled test windows.

    Args:
        runs: Those with a configuration and an encoder are drawn, on the data of the first.
        sample: Most test windows; drawn with a fixed seed.
    """
    able = [run for run in runs if run.config is not None]
    data = next((run.config.data for run in runs if run.config is not None), None)
    notes = [f"{run.name} holds no encoder yet: its training has not ended" for run in able if not run.finished]
    if data is None or not sample:
        return Maps(0, [], [], [], notes)
    try:
        train, test = load(data)
    except UserError as error:
        return Maps(0, [], [], [], [*notes, f"the windows could not be loaded: {error}"])
    if left_out := int((~test.labelled).sum()):
        notes.append(f"{left_out} test windows without a label are left out")
        test = test[test.labelled]
    rows = torch.randperm(len(test), generator=make_generator("report maps"))[:sample].sort().values
    windows = test[rows.numpy()]
    if len(windows) < LEAST:
        return Maps(0, [], [], [], [*notes, f"{len(windows)} labelled windows are too few for a map"])
    maps = [
        _draw(name, number, z, windows)
        for number, (name, z) in enumerate(_representations(able, train, windows, notes))
    ]
    activities = [class_words(windows.meta.classes[k]) for k in np.unique(windows.y)]
    people = [f"person {person}" for person in windows.people]
    return Maps(len(windows), maps, _legend("activity", activities), _legend("person", people), notes)


def _representations(
    runs: Sequence[Run], train: Windows, windows: Windows, notes: list[str]
) -> Iterator[tuple[str, Embeddings]]:
    """Yield names and float32 (N, D) of the windows; add to ``notes`` what does not fit."""
    yield "raw windows", windows.x.reshape(len(windows), -1)
    if windows.meta.spec.rate is not None:
        yield "expert features", expert_features(torch.from_numpy(windows.x), windows.meta.spec).numpy()
    for run in runs:
        if run.finished:
            try:
                fitted = read_card(run.folder).fit(windows)
                encoder, card = load_encoder(run.folder, fitted.meta.spec)
            except UserError as error:
                notes.append(f"{run.name}: {error}")
                continue
            if card.norm_statistics == "missing":
                estimate_norm_statistics(encoder, card.fit(train).x)
            yield run.name, embed(encoder, fitted.x)


def _draw(name: str, number: int, z: Embeddings, windows: Windows) -> Map:
    scaled = StandardScaler().fit_transform(z)
    with threadpool_limits(1):  # the map is then the same on every run
        kept = PCA(min(COMPONENTS, *scaled.shape), random_state=0).fit_transform(scaled)
        places = TSNE(perplexity=min(30.0, len(kept) / 4), init="pca", random_state=0).fit_transform(kept)
        nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(scaled) - 1)).fit(scaled).kneighbors()[1]
    labels = {"activity": windows.y, "person": numbered(windows.person)[1]}
    shares = {kind: 100 * float((those[nearest] == those[:, None]).mean()) for kind, those in labels.items()}
    pictures = (
        _scatter(name, f"map-{number}-activity", "activity", places, labels["activity"], shares),
        _scatter(name, f"map-{number}-person", "person", places, labels["person"], shares),
    )
    return Map(name, pictures, shares["activity"], shares["person"])


def _scatter(
    name: str, key: str, kind: str, places: NDArray[np.float32], labels: NDArray[np.int64], shares: dict[str, float]
) -> Picture:
    with canvas(300, 250) as (figure, axes):
        for rank, label in enumerate(np.unique(labels)):
            _dots(axes, places[labels == label], DOTS[rank] if rank < len(DOTS) else REST)
        axes.set_axis_off()
        axes.margins(0.03)
        axes.autoscale_view()
    words = (
        f"Map of {len(places)} test windows as {name}, coloured by {kind}; {shares[kind]:.0f} % of the nearest "
        f"neighbours are of the same {kind}"
    )
    return picture(key, f"by {kind}", words, figure)


def _dots(axes: Axes, places: NDArray[np.float32], look: Look) -> None:
    """Draw dots as one path of strokes without length, whose caps are the dots: a tenth of the size of markers."""
    path = Path(np.repeat(places, 2, axis=0), [Path.MOVETO, Path.LINETO] * len(places))
    path.should_simplify = False
    cap = "round" if look.marker == "o" else "projecting"
    width = 4.2 if look.marker == "o" else 3.6
    axes.add_patch(PathPatch(path, fill=False, ec=look.colour, lw=width, capstyle=cap, alpha=0.75))


def _legend(kind: str, words: Sequence[str]) -> list[tuple[Markup, str]]:
    """Return the swatches of dots, in the order of ``_scatter``, with what they stand for."""
    shown = enumerate(zip(DOTS, words, strict=False))
    legend = [(look.swatch(f"dot-{kind}-{number}", line=False), word) for number, (look, word) in shown]
    if len(words) > len(DOTS):
        legend.append((REST.swatch(f"dot-{kind}-rest", line=False), "the others"))
    return legend
