"""What a compression's figures and tables show."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sparc3_lightning.report.terminal import print_experiment
from sparc3_lightning.report.trial_figures import against_figure, compressed_figure, write_compression
from sparc3_lightning.trials.table import write_table

METHODS = ("lrp_signed", "wanda_sequential", "magnitude", "random")


def rows(factor: float = 1.0) -> list[dict[str, Any]]:
    """Perplexity 10; LRP is 1 above Wanda at 20 %, and 0.5 below it, surely, at 50 %; magnitude has failed at 2:4."""
    made: list[dict[str, Any]] = [
        {"label": "baseline", "method": "baseline", "share": 0.0, "status": "done", "perplexity_disjoint": 10.0}
    ]
    for sparsity, pattern in ((0.2, None), (0.5, None), (None, "2:4")):
        for place, method in enumerate(METHODS):
            wanda = 20.0 * (sparsity or 0.6) + 10
            change = {"lrp_signed": 1.0 if sparsity == 0.2 else -0.5, "random": 1000.0 * factor}.get(
                method, place - 1.0
            )
            row = {"label": f"{method}, {pattern or sparsity}", "method": method, "sparsity": sparsity,
                   "pattern": pattern, "share": sparsity or 0.5, "status": "done", "error": None}  # fmt: skip
            if pattern and method == "magnitude":
                row |= {"status": "failed", "error": "ValueError: broken"}
            else:
                row["perplexity_disjoint"] = wanda + change
            if "perplexity_disjoint" in row and method != "wanda_sequential":
                margin = 2.0 if sparsity == 0.2 else 0.1
                row |= {"perplexity_disjoint_against": change, "perplexity_disjoint_against_low": change - margin,
                        "perplexity_disjoint_against_high": change + margin,
                        "perplexity_disjoint_against_p": 0.01}  # fmt: skip
            made.append(row)
    return made


def shown(made: list[dict[str, Any]], directory: Path, width: int = 80) -> str:
    file = io.StringIO()
    write_table(made, directory)
    print_experiment("compression", directory, Console(file=file, width=width))
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 140])
def test_figures_are_never_cut_and_differences_are_marked(width: int, tmp_path: Path) -> None:
    text = shown(rows(factor=1e6), tmp_path / "compression", width)
    lines = [line.split() for line in text.splitlines()]
    assert "baseline 10.00" in " ".join(text.split())
    assert ["20%", "15.00", "14.00", "15.00", "1.00e+09*"] in lines  # within the interval: no star
    assert ["50%", "19.50*", "20.00", "21.00*", "1.00e+09*"] in lines
    assert ["2:4", "21.50*", "22.00", "-", "1.00e+09*"] in lines
    assert ["50%", "-0.50", "[-0.60,", "-0.40]"] in lines
    assert ["20%", "+1.00", "[-1.00,", "+3.00]"] in lines
    assert "Failed: magnitude, 2:4: ValueError: broken" in " ".join(text.split())
    assert f"{tmp_path}/compression" in text


def test_a_line_a_method_a_logarithm_where_one_breaks_down_and_n_of_m_apart() -> None:
    axes = compressed_figure(rows(), "perplexity_disjoint").axes[0]
    assert axes.get_yscale() == "log"
    drawn = {container.get_label() for container in axes.containers} - {"_nolegend_", None}
    assert {name for name in drawn if not name.startswith("_")} == set(METHODS)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20", "50", "2:4"]
    assert axes.get_xticks()[2] > 50
    calm = [row for row in rows() if row["method"] != "random"]
    assert compressed_figure(calm, "perplexity_disjoint").axes[0].get_yscale() == "linear"


def test_small_and_large_differences_both_show() -> None:
    figure = against_figure(rows(), "perplexity_disjoint", "wanda_sequential")
    assert figure is not None
    axes = figure.axes[0]
    assert axes.get_yscale() == "symlog"
    drawn = {container.get_label(): container.lines[0].get_ydata().tolist() for container in axes.containers}
    assert "wanda_sequential" not in drawn
    assert drawn["lrp_signed"] == pytest.approx([100 * 1 / 14, -100 * 0.5 / 20])
    assert drawn["random"] == pytest.approx([100 * 1000 / 14, 100 * 1000 / 20])
    assert against_figure(rows()[:1], "perplexity_disjoint", "wanda_sequential") is None


def test_the_same_rows_give_the_same_files(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_compression(rows(), "wanda_sequential", tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
