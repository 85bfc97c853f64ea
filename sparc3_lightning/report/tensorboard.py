"""What a run shows in TensorBoard, as plain values; the callback only hands them over."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.pruning.select import neuron_scores
from sparc3_lightning.report.figures import Panel
from sparc3_lightning.report.read import Side
from sparc3_lightning.report.rows import HIDDEN, Completion, first_completions, kind_of
from sparc3_lightning.runs.results import Results, throughput
from sparc3_lightning.runs.run import Run
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.trials import AREAS
from sparc3_lightning.trials.circuit_areas import area_rows
from sparc3_lightning.trials.table import prices_of, short_names
from sparc3_lightning.trials.verdict import VerdictResult


class Histogram(NamedTuple):
    """Scores of one layer: the layer is TensorBoard's step, so that one card shows all layers one behind the other."""

    tag: str
    layer: int
    values: Tensor
    bins: int | str


def score_histograms(run: Run) -> Iterator[Histogram]:
    """Histograms of every score set and of the differential, layer by layer.

    Scores of sign `abs` span many powers of ten and are shown as log10, without zeros; what has a sign is shown as it
    is.
    """
    for name, score_set in run.score_sets.items():
        options = score_set.manifest.get("options")
        yield from _histograms(name, score_set, logarithm=options is not None and options["sign"] == "abs")
    several = {f"differential_{name}": one.differential for name, one in run.parts.items()}
    for name, found in (several or {"differential": run.differential}).items():
        if found is not None:
            yield from _histograms(name, found, logarithm=False)


def _histograms(name: str, score_set: ScoreSet, logarithm: bool) -> Iterator[Histogram]:
    tag = f"{'scores_log10' if logarithm else 'scores'}_step_is_layer/{name}"
    for layer, scores in _rows(score_set).items():
        values = scores[scores > 0].log10() if logarithm else scores
        if values.numel():
            yield Histogram(tag, layer, values, 64 if logarithm else "tensorflow")


def _rows(score_set: ScoreSet) -> dict[int, Tensor]:
    """Neuron scores by layer; where only other modules were scored, theirs by place in the model."""
    try:
        return neuron_scores(score_set)
    except ValueError:
        return {place: score.flatten() for place, score in enumerate(score_set.scores.values())}


def shown_figures(evaluation: Evaluation) -> dict[str, float]:
    """Its figures under flat names, but for details."""
    details = {name for name, column in evaluation.columns.items() if column.role == "detail"}
    return {name: figure for name, figure in evaluation.scalars().items() if name not in details}


def board_panels(results: Results) -> list[Panel]:
    """Figures before, after and of the control's draws, of the columns that every one has."""
    panels = []
    for name, column in results["columns"].items():
        before, after = column["baseline"], column["pruned"]
        draws = [] if column["control"] is None else column["control"]["draws"]
        if column["role"] != "detail" and before is not None and after is not None and None not in draws:
            panels.append(Panel(name, column, before, after, draws))
    return panels


def board_scalars(run: Run) -> dict[str, float]:
    """Figures of the baseline, the pruned model and the control side by side, and the speed of attribution."""
    several = {f"2_pruned_{name}": one.pruned for name, one in run.parts.items()}
    sides = {"1_baseline": run.baseline, **(several or {"2_pruned": run.pruned})}
    figures = {side: shown_figures(evaluation) for side, evaluation in sides.items() if evaluation is not None}
    if run.results and run.results["num_control_draws"] and not several:  # of several, each recipe's page has its own
        columns = run.results["columns"].items()
        controls = {name: column["control"]["mean"] for name, column in columns if column["control"] is not None}
        shown = figures.get("1_baseline", controls)
        figures["3_control_mean"] = {name: mean for name in shown if (mean := controls[name]) is not None}
    scalars = {
        f"{figure.replace('/', '_')}/{side}": value for side in figures for figure, value in figures[side].items()
    }
    for name, rates in throughput(run).items():
        scalars |= {f"attribution_{key}/{name}": rate for key, rate in rates.items() if rate is not None}
    return scalars


def circuit_scalars(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The areas under circuits' curves, by what was asked and ablated, and by task where there are several.

    Args:
        rows: Rows of the table of circuits.
    """
    has_tasks = len({row["task"] for row in rows}) > 1
    columns = [*["task"] * has_tasks, "asked", "ablation", "method"]
    return {
        "/".join([f"circuit_{name}", *(row[column] for column in columns)]): row[name]
        for row in area_rows(rows)
        for name in AREAS
    }


def compression_points(run: Run) -> Iterator[tuple[int, dict[str, float]]]:
    """Prices of the compressed models by per cent of the weights removed, which is TensorBoard's step."""
    named = short_names(prices_of(run.compression)) if run.compression else {}
    for row in run.compression:
        method = f"{row['method']}_{row['pattern'].replace(':', '_of_')}" if row.get("pattern") else row["method"]
        tags = {price: f"compression_step_is_percent_removed/{which}/{method}" for price, which in named.items()}
        yield round(100 * row["share"]), {tag: row[price] for price, tag in tags.items() if price in row}


def board_hyperparameters(run: Run) -> dict[str, str | int | float]:
    """What was chosen, for the table that compares runs."""
    if run.recipe is None:
        return {}
    wanted = (
        "num_neurons", "sparsity", "scope", "general_weight", "general_penalty", "method", "variant", "target", "sign",
        "granularity", "modules",
    )  # fmt: skip
    chosen = {key: run.recipe.options[key] for key in wanted if key in run.recipe.options}
    plain = {key: value if isinstance(value, str | int | float) else str(value) for key, value in chosen.items()}
    return {"model": str(run.base_model.get("id")), **plain, "behaviour": str(run.behaviour)}


def board_outcome(run: Run) -> dict[str, float]:
    """What came out, for the same table: relative changes, and p-values against the baseline and the control."""
    if not run.results:
        return {}
    outcome: dict[str, float | None] = {}
    decides = run.results["verdict"]["column"]
    for name, column in run.results["columns"].items():
        change, against, key = column["change"], column["change_against_control"], name.replace("/", "_")
        is_behaviour = decides is not None and kind_of(name) == kind_of(decides)
        if change is None or (column["role"] in HIDDEN and not is_behaviour):
            continue
        outcome[f"change/{key}"] = change["relative"]
        if is_behaviour:
            outcome[f"p/{key}"] = change["p_value"]
            outcome |= {} if against is None else {f"p_against_control/{key}": against["p_value"]}
    return {name: value for name, value in outcome.items() if value is not None}


def verdict_text(verdict: VerdictResult) -> str:
    """The verdict of `experiment_results` as markdown."""
    sentences = [*verdict["behaviour"], *verdict["beside_it"], *verdict["caveats"]]
    return "\n".join([f"**{plain_text(verdict['headline'])}**", "", *(f"- {plain_text(line)}" for line in sentences)])


def sample_completions(baseline: Evaluation, pruned: Evaluation, num_prompts: int, decides: str | None = None) -> str:
    """First completions of a few prompts before and after, as a markdown table in which every text is only text.

    Empty where no prompt was continued or none is wanted. `decides` is the column that the results are judged by.
    """
    before = Side.of(baseline.to_json(), decides)
    shown = first_completions(before, Side.of(pruned.to_json()), num_prompts)
    if not shown:
        return ""
    attribute, prompts = plain_text(before.attribute), before.prompts
    head = f"| prompt | baseline (its {attribute}) | pruned (its {attribute}) |"
    note = f"First completion of {len(shown)} of {len(prompts)} prompts, spaced evenly."
    rows = [" | ".join([plain_text(one.prompt), *map(_completion, one.sides)]) for one in shown]
    return "\n".join([note, "", head, "|---|---|---|", *(f"| {row} |" for row in rows)])


def _completion(side: Completion) -> str:
    return f"**{side.score}** {plain_text(side.text) or '(empty)'}"


def plain_text(text: str) -> str:
    """Text that neither markdown nor HTML reads as anything but text, on one line.

    Every sign that could mean something becomes its HTML number: `<` is `&#60;`, and so on.
    Control characters are dropped.
    """
    one_line = "".join(sign for sign in " ".join(text.split()) if sign.isprintable())
    return "".join(sign if sign.isalnum() or sign == " " else f"&#{ord(sign)};" for sign in one_line)
