"""What a run's results say, in words, rows and cells: the terminal, the page and `inspect` show the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sparc3_lightning.report.read import scored_prompts
from sparc3_lightning.wording import MISSING, number, p_value, percent, signed, spaced, spoken

if TYPE_CHECKING:
    from sparc3_lightning.runs.results import ColumnResult

HIDDEN = ("opinion", "logged", "detail")
"""Roles of the columns that no table shows."""
_UNITS = {"prompt": "prompt", "window": "window of the text", "word": "word"}
_NOTES = {
    "BCa": "BCa: another interval of the same draws, corrected for bias and skewness.",
    "stages": "Two stages: completions drawn again within each drawn prompt, an upper bound of its width.",
    "sizes": "Standardised: mean change in standard deviations of the changes.",
    "ranks": "Rank-biserial: -1 where all that changed fell, 1 where all rose.",
    "seen": "Smallest change seen: with {wanted:.0%} power, by as many prompts.",
    "needed": "Prompts needed: to see the change found with as much, with as many completions each.",
}


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; the first cell of a row names it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class FigureRow:
    """A column that is shown: its name, and what `experiment_results` has of it."""

    name: str
    column: "ColumnResult"

    @property
    def change(self) -> dict[str, Any]:
        """Baseline against pruned."""
        assert self.column["change"] is not None
        return self.column["change"]

    @property
    def draws(self) -> list[float | None]:
        """Its figure in each draw of the control."""
        return [] if self.column["control"] is None else self.column["control"]["draws"]

    @property
    def kind(self) -> str:
        """What it is one measure of."""
        return kind_of(self.name)

    @property
    def label(self) -> str:
        """The name in words."""
        return spoken(self.name)

    def label_below(self, above: "FigureRow | None") -> str:
        """The name in words; below a figure of the same kind, only what differs, indented."""
        is_same = above is not None and above.kind == self.kind
        return f" {spoken(self.name.removeprefix(self.kind + '/'))}" if is_same else self.label


def kind_of(name: str) -> str:
    """What a column is one measure of: all of its name before the last slash, where it has one."""
    return name.rpartition("/")[0] or name


def figure_rows(results: dict[str, Any]) -> list[FigureRow]:
    """The columns that sum up a run."""
    columns: dict[str, ColumnResult] = results["columns"]
    return [
        FigureRow(name, column)
        for name, column in columns.items()
        if column["role"] not in HIDDEN and column["change"] is not None
    ]


def figure_notes(rows: list[FigureRow]) -> list[str]:
    """What the columns and rows of a table of changes mean, a sentence each; only of those it has."""
    kinds: dict[str, dict[str, None]] = {}
    for row in rows:
        kinds.setdefault(row.column["rows"], {})[spoken(row.kind)] = None
    units = [
        name + ("" if unit == "prompt" else f" ({', '.join(kinds[unit])})")
        for unit, name in _UNITS.items()
        if unit in kinds
    ]
    return [
        "Baseline: the model before pruning. Change: relative to baseline.",
        f"Interval and p: of the difference, paired by {' and by '.join(units)}.",
        *dict.fromkeys(row.column["note"] for row in rows if row.column["note"]),
    ]


def change_head(rows: list[FigureRow]) -> list[str]:
    """Names of the cells that `change_cells` gives."""
    confidence = rows[0].change["interval"]["confidence"]
    return ["baseline", "pruned", "change", f"{confidence:.0%} interval", "p"]


def change_cells(change: dict[str, Any]) -> list[str]:
    """A figure before and after, its relative change, and the change's interval and p-value."""
    return [
        number(change["before"]),
        number(change["after"]),
        percent(change["relative"]),
        interval_cell(change, "interval"),
        p_value(change["p_value"]),
    ]


def interval_cell(change: dict[str, Any], name: str) -> str:
    """One of the intervals of a change, where it has that."""
    if change[name] is None:
        return MISSING
    low, high = (signed(change[name][end], beside=change["before"]) for end in ("low", "high"))
    return f"{low}, {high}"


def removed(selection: dict[str, Any]) -> str:
    """How many neurons went, and from where."""
    layers = ", ".join(f"{layer}: {count}" for layer, count in enumerate(selection["neurons_per_layer"]) if count)
    total = selection["num_neurons_of_model"]
    share = f" of {total:,} ({selection['num_neurons'] / total:.2%})" if total else ""
    return f"{selection['num_neurons']} neurons removed{share}; in layer: {layers}."


def checks(results: dict[str, Any]) -> list[str]:
    """What the validation table says, in sentences."""
    validation = results["validation"]
    sets = validation["sets"]
    if validation["passed"]:
        expected = max(row["num_modules_expected"] for row in sets.values())
        lines = [f"All {len(sets)} score sets are finite and hold all {expected} layers expected."]
    else:
        lines = [f"CHECK FAILED: {problem}." for problem in validation["problems"]]
    seeds, length = validation["seed_variation"], validation["length_bias"]
    if seeds is not None:
        lines.append(_seeds(seeds))
    if length["relevance_ratio"] is not None and length["token_ratio"] is not None:
        behaviour = results["selection"]["behaviour"]
        lines.append(
            f"A sample of {behaviour} has {length['relevance_ratio']:.2f} times the relevance of a general one and "
            f"{length['token_ratio']:.2f} times its tokens (length alone can change relevance)."
        )
    return lines


def _seeds(seeds: dict[str, Any]) -> str:
    variation, same = seeds["coefficient_of_variation"], seeds["selection_overlap"]["mean"]
    # Signed scores have none: they average near 0, which no deviation can be a share of.
    varies = "" if variation is None else f"a score varies by {percent(variation, '')} between them; "
    return (
        f"{seeds['num_seeds']} seeds of general samples: {varies}{same:.0%} of the neurons that one seed alone would "
        f"select, another would too (by chance {seeds['overlap_by_chance']:.1%})."
    )


def set_table(validation: dict[str, Any]) -> Table:
    """Every reference set: its size, its relevance, and what the checks of its scores found."""
    head = [
        "reference set", "role", "samples", "tokens a sample", "relevance a sample, logits", "modules", "scores", "NaN",
        "Inf", "below 0",
    ]  # fmt: skip
    rows = [
        [
            name,
            row["role"],
            count_cell(row["num_samples"]),
            number(row["tokens_per_sample"]),
            number(row["relevance_per_sample"]),
            f"{row['num_modules']} of {row['num_modules_expected']}",
            *(count_cell(row[key]) for key in ("num_scores", "num_nan", "num_inf", "num_negative")),
        ]
        for name, row in validation["sets"].items()
    ]
    return Table(head, rows, _strength(validation["differential_strength"]))


def count_cell(value: int | None) -> str:
    """A whole number, where there is one."""
    return MISSING if value is None else f"{value:,}"


def _strength(strength: dict[str, Any]) -> str:
    if strength["value"] is None:
        return "Differential strength: none, since sums of signed scores cancel."
    return f"Differential strength: {percent(strength['value'])} over {strength['scope']}. {strength['meaning']}"


def evidence_table(results: dict[str, Any]) -> Table:
    """A second interval and test of each change, its size, and how many prompts it takes to see it."""
    rows = figure_rows(results)
    has_stages = any(row.change["interval_two_stage"] is not None for row in rows)
    powers = [row.change["power"] for row in rows if row.change["power"] is not None]
    confidence = f"{rows[0].change['interval']['confidence']:.0%}"
    head = ["", f"{confidence}, BCa", "Wilcoxon p", "standardised", "rank-biserial", "smallest change seen"]
    head += ["prompts needed", "with 25 completions"]
    if has_stages:
        head.insert(2, f"{confidence}, two stages")
    shown = ["BCa", *(["stages"] if has_stages else []), "sizes", "ranks", *(["seen", "needed"] if powers else [])]
    notes = [_NOTES[name].format(wanted=powers[0]["wanted"] if powers else 0) for name in shown]
    return Table(head, [_evidence_row(row, has_stages) for row in rows], " ".join([*notes, *_missing(rows)]))


def _evidence_row(row: FigureRow, has_stages: bool) -> list[str]:
    change, power = row.change, row.change["power"] or {}
    stages = [interval_cell(change, "interval_two_stage")] if has_stages else []
    sizes = (change["effect_size"], change["rank_biserial"])
    return [
        row.label,
        interval_cell(change, "interval_bca"),
        *stages,
        p_value(change["p_value_wilcoxon"]),
        *(MISSING if size is None else f"{size:+.2f}" for size in sizes),
        number(power.get("smallest_change")),
        count_cell(power.get("num_needed")),
        count_cell(power.get("num_needed_with_25")),
    ]


def _missing(rows: list[FigureRow]) -> list[str]:
    """Why figures are missing, each reason with the rows that it is about."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.change["power"] is not None and row.change["power"]["missing"]:
            reasons.setdefault(row.change["power"]["missing"], []).append(row.label)
    return [f"Missing of {'; '.join(labels)}: {reason}." for reason, labels in reasons.items()]


def agreement_lines(results: dict[str, Any]) -> list[str]:
    """How far further scorers agree with the first one, in sentences; empty where there is one."""
    return [_agreement_line(found) for found in results["agreement"] or []]


def _agreement_line(found: dict[str, Any]) -> str:
    single, changes = (
        MISSING if value is None else f"{value:.2f}" for value in (found["pearson"], found["pearson_change"])
    )
    same = (
        ""
        if found["same_direction"] is None
        else f"; {found['same_direction']:.0%} of the prompts moved one way by both"
    )
    return (
        f"{found['second']} correlates with {found['first']} by {single} over completions and by {changes} over the "
        f"prompts' changes{same}."
    )


class Completion(NamedTuple):
    """A prompt's first completion by one model, and its score."""

    model: str
    score: str
    text: str


class Completions(NamedTuple):
    """A prompt and its first completions, before and after."""

    prompt: str
    sides: tuple[Completion, ...]


def first_completions(before: dict[str, Any], after: dict[str, Any], num_prompts: int) -> list[Completions]:
    """First completions of some prompts, spaced evenly over all and not chosen by what came out.

    Args:
        before: Evaluation of the baseline, as JSON.
        after: Of the pruned model, on the same prompts.
        num_prompts: How many.

    Returns:
        Empty where no prompts were evaluated.
    """
    attribute, prompts = scored_prompts(before)
    sides = (("baseline", prompts), ("pruned", scored_prompts(after)[1]))

    def side(model: str, row: dict[str, Any]) -> Completion:
        first = row["completions"][0]
        return Completion(model, f"{first['scores'][attribute]:.3f}", first["text"])

    return [
        Completions(prompts[place]["text"], tuple(side(model, rows[place]) for model, rows in sides))
        for place in spaced(len(prompts), num_prompts)
    ]


def in_brackets(name: str) -> str:
    """A column of a table of trials in words: `perplexity_sliding` is "perplexity (sliding)"."""
    kind, _, which = name.partition("_")
    return f"{kind} ({which.replace('_', ' ')})"
