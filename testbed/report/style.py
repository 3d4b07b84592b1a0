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
    "infra_down": Look("white", BLOCKED, "xxx", "lost in the network"),
    "straddles_change": Look("#BBBBBB", "white", "", "under way during a change"),
    "harness_error": Look("white", "#888888", "", "not told (test-bed error)"),
}
# Classes of traffic in one plot: colours without another meaning, and a line style each.
CLASS_LOOKS = (
    (BLACK, "-"),
    (PURPLE, "-"),
    (SKY, "-"),
    (FAINT, "--"),
    (PURPLE, "--"),
    (BLACK, ":"),
    (SKY, "-."),
    (FAINT, "-."),
)

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
