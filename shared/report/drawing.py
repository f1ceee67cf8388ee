"""Matplotlib's SVG made fit for a page: colours of the page's theme, text as text, small and self-contained."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

THEME = {
    "#101112": "var(--ink)",
    "#707172": "var(--muted)",
    "#e0e1e2": "var(--line)",
    "#fdfdfe": "var(--paper)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--vermillion)",
    "#009e73": "var(--green)",
    "#e69f00": "var(--orange)",
    "#cc79a7": "var(--purple)",
    "#56b4e9": "var(--sky)",
}
"""What stands in the drawings, and the variable of the style sheet that takes its place."""

INK, MUTED, LINE, PAPER, *PALETTE = THEME
"""The last six are of the palette of Okabe and Ito (2008), which colour-blind people can tell apart; its yellow is left
out, because it cannot be seen on white."""

UNITS_PER_INCH = 72
"""Of matplotlib's SVG; sizes below are in these units, and so are font sizes."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedhar",
    "text.parse_math": False,
    "font.size": 11,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Look:
    """How a run is drawn, the same in every figure: trained runs in colours, baselines in grey."""

    colour: str
    dash: str
    marker: str

    def swatch(self, key: str, line: bool = True) -> Markup:
        """A piece of the line with its marker, for a legend; the marker alone without ``line``.

        Args:
            key: Unique on the page.
            line: Whether the figure has lines.
        """
        width = 34 if line else 14
        with canvas(width, 14) as (figure, axes):
            axes.set_axis_off()
            axes.set(position=(0, 0, 1, 1), xlim=(0, width), ylim=(0, 14))
            axes.plot([2, width - 2] if line else [], [7, 7] if line else [], color=self.colour, ls=self.dash, lw=2)
            axes.plot([width / 2], [7], color=self.colour, marker=self.marker, ms=7, mec="none")
        drawn = _inside(figure, key)
        return Markup('<svg class="swatch" viewBox="0 0 {} 14" aria-hidden="true">{}</svg>').format(width, drawn)


@dataclass(frozen=True)
class Picture:
    """A drawing on the page.

    Args:
        key: Unique on the page.
        title: Shown above it.
        svg: The drawing, with a title and a description for those who do not see it.
    """

    key: str
    title: str
    svg: Markup


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Open a figure with one pair of axes; what is drawn within the block has the report's style."""
    with mpl.rc_context(STYLE):
        figure = Figure((width / UNITS_PER_INCH, height / UNITS_PER_INCH), layout="constrained")
        yield figure, figure.add_subplot()


def picture(key: str, title: str, description: str, figure: Figure) -> Picture:
    """Make a figure a part of the page.

    Args:
        key: Unique on the page: letters, digits and hyphens.
        title: Shown above it.
        description: What can be seen in it, for those who do not see it.
        figure: Drawn with ``canvas``.
    """
    width, height = (UNITS_PER_INCH * inches for inches in figure.get_size_inches())
    svg = Markup(
        '<svg class="plot" id="{0}" viewBox="0 0 {1:.0f} {2:.0f}" role="img" aria-labelledby="{0}-title {0}-desc">'
        '<title id="{0}-title">{3}</title><desc id="{0}-desc">{4}</desc>{5}</svg>'
    )
    return Picture(key, title, svg.format(key, width, height, title, description, _inside(figure, key)))


def _inside(figure: Figure, key: str) -> Markup:
    """Return what stands inside the ``<svg>`` that matplotlib writes, cleaned."""
    file = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(file, format="svg")
    text = file.getvalue()
    text = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', lambda m: m[1].replace("xlink:", "") + f"{escape(key)}-", text)
    text = re.sub(r'\s(?:d|x|y|points|transform)="[^"]*"', lambda m: _shorter(m[0]), text)
    text = re.sub(r'style="[^"]*"', lambda m: _themed(m[0]), text)
    return Markup(re.sub(r">\s+<", "><", text))  # noqa: S704 - matplotlib has escaped all text in it


def _shorter(attribute: str) -> str:
    """Round coordinates to hundredths of a unit."""
    attribute = re.sub(r"(\d+\.\d\d)\d+", r"\1", attribute)
    return re.sub(r"\s+", " ", attribute.replace(" \n", " "))


def _themed(style: str) -> str:
    return re.sub(r"#[0-9a-f]{6}", lambda m: THEME.get(m[0], m[0]), style)
