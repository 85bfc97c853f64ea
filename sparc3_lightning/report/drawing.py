"""What all figures share: size, axes without ornament, text that stays text, files that are the same each time."""

import os
import uuid
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FORMATS = ("png", "svg")
DPI = 120
# Wide enough for the words, narrow enough to be read on a telephone.
SIZE = (5.2, 3.9)
# Names inside an SVG are drawn at random, and files are dated: without these, no two are the same.
_STABLE = {"svg.hashsalt": "sparc3", "svg.fonttype": "path"}
_METADATA = {"png": {"Software": ""}, "svg": {"Date": None, "Creator": None}}


def new_figure(size: tuple[float, float] = SIZE) -> Figure:
    """A figure of its own, outside pyplot's list of open ones: nothing has to be closed.

    Units: inches.
    """
    return Figure(figsize=size, dpi=DPI, layout="constrained")


def plain_axes(axes: Axes, title: str, x_label: str, y_label: str, title_size: float = 10) -> None:
    """Name what is shown, with units, and take away what says nothing."""
    axes.set_title(literal(title), fontsize=title_size, loc="left")
    axes.set_xlabel(literal(x_label), fontsize=9)
    axes.set_ylabel(literal(y_label), fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def literal(text: str) -> str:
    """Keep `$` from starting a formula."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a picture under a temporary name, then rename it; the same figure gives the same bytes.

    Args:
        figure: What to write.
        path: Ends in `.png` or `.svg`; its directory is made.
    """
    kind = path.suffix.removeprefix(".")
    assert kind in FORMATS
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with matplotlib.rc_context(_STABLE):
            figure.savefig(temporary, format=kind, metadata=_METADATA[kind])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
