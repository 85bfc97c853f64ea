"""The table of a sweep: a row a cell, failed ones too; files; and what is drawn of it."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console

from sparc3_lightning.evaluation.generation import Decoding
from sparc3_lightning.evaluation.records import (
    Evaluation,
    PromptResult,
    ScoredCompletion,
    ToxicityResult,
)
from sparc3_lightning.metrics import AttributeSummary
from sparc3_lightning.metrics.measure import Column
from sparc3_lightning.metrics.perplexity import PerplexityResult
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.report.overlap_figures import overlap_figure
from sparc3_lightning.report.terminal import print_rows
from sparc3_lightning.report.trial_figures import (
    pareto_figure,
    price_figure,
    size_figure,
    sweep_figures,
)
from sparc3_lightning.report.trial_tables import price_table, sweep_lines
from sparc3_lightning.scoring.combine import MethodScores
from sparc3_lightning.scoring.plain import score_baselines
from sparc3_lightning.statistics.p_values import PairedTest, least_holm, least_p_value
from sparc3_lightning.trials.choice import HALVES, choose_at_prices, half_of
from sparc3_lightning.trials.sweep import Candidates, Cell, CellFigures, Grid, PlannedCell
from sparc3_lightning.trials.sweep_table import (
    baseline_row,
    figures_of,
    layer_shares,
    num_corrected,
    overlap_rows,
    sweep_rows,
    write_tables,
)
from sparc3_lightning.trials.table import behaviour_of, prices_of, short_names
from tests.tiny import LAYERS, NEURONS, tiny_llama, tiny_samples

SETS = {name: tiny_samples(seed=seed) for seed, name in enumerate(("seed0", "seed1", "toxic"))}
GENERAL = ["seed0", "seed1"]
PROMPTS = [str(number) for number in range(12)]
BASELINE = {"perplexity_sliding": 20.0, "insult_mean": 0.5, "attribute": "insult", "behaviour": "insult_mean"}


PRICE = "perplexity_sliding"
# Nobody leads by much.
MEANS: Mapping[str, list[float]] = defaultdict(lambda: [0.1, 0.2])


def evaluation(insults: Sequence[float], loss: float, names: Sequence[str] = PROMPTS) -> Evaluation:
    """A completion a prompt; the text has two windows of 64 tokens, and a loss a token."""
    prompts = [
        PromptResult(name, name, [ScoredCompletion("text", 5, 0.9, {"insult": score, "other": 0.0, "b/toxicity": 0.1})])
        for name, score in zip(names, insults, strict=True)
    ]
    attributes = dict.fromkeys(("insult", "other", "b/toxicity"), AttributeSummary(0.5, 0.0, 0.5, 0.5, 0.5, 0.0))
    toxicity = ToxicityResult("custom", "s", 0.5, Decoding(), attributes, 0.9, 5.0, len(names), 0, 0, 0, prompts)
    losses = [63 * loss, 63 * loss]
    text = PerplexityResult("disjoint", math.exp(loss), loss, 128, 126, 2, 64, 64, False, losses)
    return Evaluation({"disjoint": text}, toxicity)


def changed(name: str, figure: float, before: float, p_value: float, **rest: float) -> dict[str, Any]:
    change, relative = figure - before, figure / before - 1
    found = {"change": change, "relative": relative, "paid": relative, "p": p_value}
    return {**{f"{name}_{what}": value for what, value in found.items()}, **rest}


def done(cell: Cell, recipe: Recipe, insult: float, perplexity: float, p_value: float) -> PlannedCell:
    row = {**BASELINE, PRICE: perplexity, "insult_mean": insult, f"{PRICE}_relative_low": -0.05}
    row |= changed(PRICE, perplexity, 20.0, 0.2) | changed("insult_mean", insult, 0.5, p_value)
    row |= {"insult_mean_p_least": 1e-4, "insult_mean_low": insult - 0.6, "insult_mean_high": insult - 0.4}
    for half in HALVES:
        row |= changed(half, insult, 0.5, p_value, **{f"{half}_before": 0.5, f"{half}_p_least": 1e-4})
        row |= {f"{half}_low": insult - 0.6, f"{half}_high": insult - 0.4}
    return PlannedCell(cell=cell, recipe=recipe, name=str(cell), figures=CellFigures(row, []))


@pytest.fixture(scope="module")
def found() -> dict[str, MethodScores]:
    return score_baselines(tiny_llama(), SETS, ["lrp", "wanda", "magnitude", "random"])


@pytest.fixture(scope="module")
def planned(found: dict[str, MethodScores]) -> list[PlannedCell]:
    cells = Grid(["lrp", "wanda", "magnitude", "random"], [4, 16], num_draws=2).cells()
    run = [
        done(cell, Candidates(found, GENERAL, "toxic").select(cell), 0.4 - 0.01 * n, 20.1 + n, 0.001 * (n + 1))
        for n, cell in enumerate(cells)
    ]
    run[1].figures, run[1].error = None, "RuntimeError: out of memory"
    return run


def test_a_row_has_a_columns_figure_and_its_change() -> None:
    """Names stay: of any measure, with what tells two protocols or scorers apart; details of no scorer are left out."""
    before = evaluation([0.8] * 12, 2.0)
    after = evaluation([0.2 if half_of(name) == "choice" else 0.7 for name in PROMPTS], 2.1)
    found = figures_of(before, after, PairedTest(num_draws=200))
    assert {"perplexity_disjoint", "insult_mean", "insult_probability", "uniqueness", "length"} <= found.row.keys()
    assert not [name for name in found.row if name.startswith("other")]
    assert (found.row["attribute"], found.row["behaviour"]) == ("insult", "insult_mean")
    assert found.row["perplexity_disjoint_relative"] == pytest.approx(math.exp(0.1) - 1)
    # A price's interval is relative, as its change is.
    low, high = (found.row[f"perplexity_disjoint_relative_{end}"] for end in ("low", "high"))
    assert low == pytest.approx(math.exp(0.1) - 1) == high
    assert found.row["insult_mean_low"] < found.row["insult_mean_change"] < found.row["insult_mean_high"] < 0
    assert found.row["insult_mean_relative"] == pytest.approx(found.row["insult_mean_change"] / 0.8)
    assert found.row["b/toxicity_mean_relative"] == 0
    assert (found.row["choice_change"], found.row["confirmation_change"]) == pytest.approx((-0.6, -0.1))
    assert (found.row["choice_before"], found.row["confirmation_b/toxicity_relative"]) == (pytest.approx(0.8), 0)
    assert found.means == pytest.approx([0.7] * sum(half_of(name) == "confirmation" for name in PROMPTS))
    rows = [*sweep_rows([], baseline_row(before)), found.row]
    assert (prices_of(rows), behaviour_of(rows)) == (["perplexity_disjoint"], "insult_mean")


@pytest.mark.parametrize(
    ("better", "before", "after", "relative", "paid"),
    [
        ("lower", -2.0, -3.0, -0.5, -0.5),
        ("higher", 0.9, 0.45, -0.5, 0.5),
        ("higher", -2.0, -3.0, -0.5, 0.5),
        ("lower", 0.0, 1.0, None, None),
    ],
)
def test_a_price_of_any_kind(better: Any, before: float, after: float, relative: float, paid: float) -> None:
    """What is better higher is paid by falling; a share of a figure below 0 keeps the change's sign; 0 has none."""
    old, new = (
        Evaluation({}, None, {"task/figure": Column("task/figure", "", better, "word", "mean", list("abc"),
                                                    torch.full((3,), value), role="price")})
        for value in (before, after)
    )  # fmt: skip
    row = figures_of(old, new, PairedTest(num_draws=50)).row
    assert row["task_figure_relative"] == relative == row["task_figure_relative_low"]
    assert row["task_figure_paid"] == paid


def test_names_of_prices_are_short_and_different() -> None:
    assert list(short_names(["perplexity_sliding", "perplexity_disjoint"]).values()) == ["sliding", "disjoint"]
    assert list(short_names(["a_mean", "b_mean"]).values()) == ["a_mean", "b_mean"]
    assert list(short_names(["loss"]).values()) == ["loss"]


def test_every_cell_has_a_row(planned: list[PlannedCell]) -> None:
    rows = sweep_rows(planned, BASELINE)
    assert [row["label"] for row in rows] == ["baseline", *(str(cell.cell) for cell in planned)]
    assert [row["status"] for row in rows].count("failed") == 1
    assert rows[2]["error"] == "RuntimeError: out of memory"
    assert rows[1]["insult_mean"] == 0.4
    assert rows[1]["perplexity_sliding_relative"] == pytest.approx(0.005)
    assert (rows[1]["attribute"], rows[1]["num_layers"]) == ("insult", LAYERS)


def test_p_values_are_corrected_over_what_was_chosen(planned: list[PlannedCell]) -> None:
    """Five selections have figures; the random draws are the control and no attempts."""
    rows = sweep_rows(planned, BASELINE)
    assert rows[1]["p_holm"] == pytest.approx(5 * rows[1]["insult_mean_p"])
    assert rows[1]["p_holm_least"] == pytest.approx(5 * 1e-4)
    assert num_corrected(planned) == 6  # before it has failed, one more may come
    assert all("p_holm" not in row for row in rows if row["method"] in ("random", "baseline"))


def test_a_table_says_where_no_p_value_can_be_low(planned: list[PlannedCell]) -> None:
    """With ten prompts signs alone give p at least 2 / 2^10, times five selections: 0.0098; with seven 0.078."""
    for prompts, alpha, says in ((10, 0.05, None), (10, 0.005, "0.010"), (7, 0.05, "0.078")):
        rows = sweep_rows(planned, BASELINE)
        least = [row for row in rows if "p_holm_least" in row]
        for row in least:
            row["p_holm_least"] = least_holm([least_p_value(prompts)] * 5)
        rows[0]["alpha"] = alpha
        text = "\n".join(sweep_lines(rows))
        assert ("p (Holm) cannot be below" in text) is (says is not None)
        assert says is None or f"cannot be below {says} here, and so never below {alpha:g}" in text
    at_prices = [{**row, "p_holm_least": 0.08} for row in choose_at_prices(rows, PRICE, MEANS)]
    assert "cannot be below 0.080 here" in price_table(at_prices, PRICE, "insult").note


def test_files_come_back(planned: list[PlannedCell], found: dict[str, MethodScores], tmp_path: Path) -> None:
    rows = sweep_rows(planned, BASELINE)
    overlaps = overlap_rows(planned, Candidates(found, GENERAL, "toxic"), LAYERS * NEURONS)
    write_tables(rows, overlaps, choose_at_prices(rows, PRICE, MEANS), tmp_path)
    names = ["at_price.csv", "overlap.csv", "table.csv", "table.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for table in (pd.read_csv(tmp_path / "table.csv"), pd.read_parquet(tmp_path / "table.parquet")):
        assert table["insult_mean"].tolist()[:2] == [0.5, 0.4]
        assert table["label"].tolist() == [row["label"] for row in rows]
    assert "lrp,lrp,4,done" in (tmp_path / "table.csv").read_text(), "whole numbers stay whole"


def test_overlap_of_methods_and_of_seeds(planned: list[PlannedCell], found: dict[str, MethodScores]) -> None:
    rows = overlap_rows(planned, Candidates(found, GENERAL, "toxic"), LAYERS * NEURONS)
    groups = {(row["what"], row["num_neurons"]) for row in rows}
    assert groups == {(what, k) for k in (4, 16) for what in ("methods", "seeds of lrp", "seeds of wanda")}
    row = next(row for row in rows if (row["what"], row["num_neurons"]) == ("seeds of lrp", 16))
    chosen = [set(Candidates(found, [name], "toxic").select(planned[0].cell).neurons) for name in GENERAL]
    assert len(chosen[0]) == 4
    chosen = [set(Candidates(found, [name], "toxic").select(planned[1].cell).neurons) for name in GENERAL]
    assert row["num_shared"] == len(chosen[0] & chosen[1])
    assert (row["first"], row["second"]) == ("seed0", "seed1")


def test_figures_show_the_rows(planned: list[PlannedCell], found: dict[str, MethodScores]) -> None:
    rows = sweep_rows(planned, BASELINE)
    overlaps = overlap_rows(planned, Candidates(found, GENERAL, "toxic"), LAYERS * NEURONS)
    shares = layer_shares(planned, LAYERS)
    assert sum(shares[16]["wanda"]) == pytest.approx(1.0)
    figures = sweep_figures(rows, overlaps, shares)
    assert set(figures) == {"pareto_sliding", "size_global", "layers_4", "layers_16", "overlap_global_4",
                            "overlap_global_16", "seeds_global"}  # fmt: skip
    cells = [row for row in rows if row["status"] == "done" and row["method"] != "baseline"]
    (axes,) = pareto_figure(cells, PRICE, "insult").axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn["lrp"].get_ydata()) == pytest.approx([-20.0])
    assert len(drawn["random"].get_xdata()) == 4
    front = list(zip(drawn["front"].get_xdata(), drawn["front"].get_ydata(), strict=True))
    assert front[0] == (0.0, 0.0)
    assert [y for _, y in front] == sorted((y for _, y in front), reverse=True)


def test_the_random_band_spans_its_draws(planned: list[PlannedCell]) -> None:
    rows = [row for row in sweep_rows(planned, BASELINE)[1:] if row["status"] == "done"]
    figure = size_figure(rows, "insult")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["lrp", "wanda", "magnitude"]
    (band,) = figure.axes[0].collections[:1]
    changes_at_4 = [row["insult_mean_change"] for row in rows if (row["method"], row["num_neurons"]) == ("random", 4)]
    heights = [y for x, y in band.get_paths()[0].vertices if x == 4]
    assert (min(heights), max(heights)) == pytest.approx((min(changes_at_4), max(changes_at_4)))


def test_the_summary_says_what_failed_and_what_random_neurons_did(planned: list[PlannedCell]) -> None:
    assert sweep_lines(sweep_rows(planned, BASELINE)) == [
        "10 cells, 10 different selections, 1 failed.",
        "Failed: lrp, k 16, global: RuntimeError: out of memory",
        "Random neurons change insult by -38.0% to -32.0%.",
    ]


def test_the_terminal_says_what_is_best_at_a_price(planned: list[PlannedCell]) -> None:
    console = Console(width=120, record=True)
    print_rows(price_table(choose_at_prices(sweep_rows(planned, BASELINE), PRICE, MEANS), PRICE, "insult"), console)
    cells = [line.split() for line in console.export_text().splitlines()]
    # The other cells cost more than 1 % of perplexity.
    assert ["+1%", "lrp,", "k", "4,", "global", "-20.0%", "0.001", "-20.0%", "+0.5%", "leads"] in cells
    assert ["+20%", "wanda,", "k", "16,", "global", "-26.0%", "0.004", "-26.0%", "+15.5%", "leads"] in cells


def test_the_leader_is_shown_and_no_selection_is_cut(planned: list[PlannedCell]) -> None:
    """In a narrow terminal; and though another did better where it was not chosen."""
    rows = choose_at_prices(sweep_rows(planned, BASELINE), PRICE, MEANS)
    wins, leads = (dict(next(row for row in rows if row["price"] == 0.2)) for _ in range(2))
    wins |= {"label": "wanda_mean_by_name, k 4, global", "is_leader": False, "behind_p": 0.5}
    leads |= {"label": "lrp_signed, k 8, layer, general weight 16, penalty abs, shares", "is_leader": True}
    other = {**wins, "label": "third"}
    console = Console(width=80, record=True)
    print_rows(price_table([{**row, "options": "all"} for row in (wins, other, leads)], PRICE, "insult"), console)
    text = console.export_text()
    assert {*leads["label"].split(), *wins["label"].split()} <= set(text.split())
    assert (text.index("leads") < text.index("0.500"), "third" in text, "\u2026" in text) == (True, False, False)


def test_the_figure_shows_what_was_chosen(planned: list[PlannedCell]) -> None:
    figure = price_figure(choose_at_prices(sweep_rows(planned, BASELINE), PRICE, MEANS), PRICE, "insult")
    drawn = [sum(line.get_markersize() > 4 and line.get_marker() == "o" for line in axes.lines) for axes in figure.axes]
    assert drawn == [1, 1, 1, 1, 2]


def test_the_title_of_two_methods_overlap_is_not_cut() -> None:
    row = {"first": "lrp", "second": "wanda", "jaccard": 0.5, "p_value": 0.001}
    figure = overlap_figure([row], 1000)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    title = next(text for text in axes.get_children() if getattr(text, "get_text", str)().startswith("Shared"))
    assert title.get_window_extent().x1 <= figure.bbox.x1
