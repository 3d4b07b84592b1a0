"""How plots look: Okabe-Ito colours with fixed meanings, each doubled by a hatch or a mark, and SVG that is drawn alike twice."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch

# Okabe and Ito 2008, "Color Universal Design". The first five have a fixed meaning in every plot.
ENFORCER_ON, ENFORCER_OFF = "#0072B2", "#7F7F7F"
BLOCKED, PASSED, DEGRADED = "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
TEXT, FAINT, GRID = "#222222", "#666666", "#DDDDDD"


@dataclass(frozen=True, slots=True)
class Look:
    """How one outcome is drawn."""

    face: str
    edge: str
    hatch: str
    label: str


OUTCOME_LOOKS = {
    "passed": Look(PASSED, "white", "", "passed"),
    "policy_block": Look(ENFORCER_ON, "white", "---", "blocked as the policy says"),
    "false_pass": Look(DEGRADED, "white", "\\\\\\", "passed by mistake"),
    "false_block": Look(BLOCKED, "white", "///", "blocked by mistake"),
    "not_back": Look(YELLOW, BLOCKED, "...", "tunnel not yet back after a block"),
    "infra_down": Look("white", BLOCKED, "xxx", "lost in the network"),
    "straddles_change": Look("#BBBBBB", "white", "", "under way during a change"),
    "harness_error": Look("white", "#888888", "", "not told (test-bed error)"),
}
# Classes of traffic in one plot: colours without another meaning, each line with a dash of its own too. Six colours and four
# dashes taken in turn: neighbours differ in both, and the pairs repeat after twelve only.
_CLASS_COLOURS = (BLACK, PURPLE, SKY, "#8C510A", "#5E3C99", FAINT)
_CLASS_DASHES = ("-", "--", "-.", ":")

_SETTINGS: Any = {  # Any: pyright knows the names of rcParams as literals only
    "svg.hashsalt": "allowlab",  # ids inside the SVG would be random otherwise
    "svg.fonttype": "none",  # text stays text: it can be read out, searched and copied
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": TEXT,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "path.simplify": True,
}


def class_look(number: int) -> tuple[str, str]:
    """(colour, dash) of the line with this number in a plot; the first twelve are all different."""
    colours, dashes = len(_CLASS_COLOURS), len(_CLASS_DASHES)
    return _CLASS_COLOURS[number % colours], _CLASS_DASHES[(number + number // 12) % dashes]


def swatch(outcome: str, label: str = "") -> Patch:
    """The legend's picture of an outcome: the very face, pattern and edge of its bars."""
    look = OUTCOME_LOOKS[outcome]
    return Patch(
        facecolor=look.face, edgecolor=look.edge, hatch=look.hatch, linewidth=0.8, label=label or look.label
    )


@contextmanager
def drawing(width_in: float, height_in: float) -> Iterator[Figure]:
    """A figure in this style; no global state of matplotlib outside the block is touched."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def svg(figure: Figure, caption: str, description: str) -> str:
    """The figure as SVG text with its caption; to be called inside drawing(). description is for those who cannot see it."""
    figure.supxlabel(caption, x=0.995, ha="right", fontsize=7, color=FAINT)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "allowlab", "Title": description})
    text = buffer.getvalue()
    # Without the XML head it can stand inside HTML; a reader's program takes the label for the picture's content.
    text = text[text.index("<svg") :]
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
