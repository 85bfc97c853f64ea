"""Write the figures and the page of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sparc3_lightning.files import write_text
from sparc3_lightning.report.drawing import save_figure
from sparc3_lightning.report.page import NUM_PROMPTS, PageFigure, render_page
from sparc3_lightning.report.pictures import pictures
from sparc3_lightning.report.run_files import read_run
from sparc3_lightning.report.score_figures import Floats

PAGE_FILE = "report.html"
FIGURES = "figures"


def write_report(
    run_dir: Path, num_prompts: int = NUM_PROMPTS, scores: Sequence[Mapping[int, Floats]] | None = None
) -> Path:
    """Make `figures/` (PNG and SVG) and `report.html` of a finished run from its results files alone.

    What is there already is replaced; the same files give the same figures and page, byte for byte.

    Args:
        run_dir: The run's directory.
        num_prompts: How many prompts the page shows with their completions.
        scores: Scores of the neurons by layer, of each general set and of the behaviour's; None: read from the files.

    Returns:
        The page.

    Raises:
        FileNotFoundError: It is no run directory, or a file is missing; names it.
        ValueError: A file cannot be read or belongs to another run; names it.
    """
    run = read_run(run_dir, scores)
    shown = []
    for picture in pictures(run):
        save_figure(picture.figure, run_dir / FIGURES / f"{picture.name}.png")
        picture.figure.set_layout_engine("none")  # it is laid out by now: most of the time goes there
        svg = save_figure(picture.figure, run_dir / FIGURES / f"{picture.name}.svg").read_bytes()
        shown.append(PageFigure(picture.name, svg, picture.caption))
    return write_text(run_dir / PAGE_FILE, render_page(run, shown, num_prompts))
