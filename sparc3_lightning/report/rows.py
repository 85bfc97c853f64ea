"""What a run's results say, in words, rows and cells: the terminal, the page and `inspect` show the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sparc3_lightning.pruning.recipe import NEURONS, WEIGHTS
from sparc3_lightning.wording import (
    MISSING,
    NATS,
    counted,
    joint_effect,
    measured_on,
    number,
    p_value,
    percent,
    signed,
    spaced,
    spoken,
)

if TYPE_CHECKING:  # `inspect` loads no torch
    from sparc3_lightning.report.read import Side
    from sparc3_lightning.runs.results import (
        ChangeResult,
        ColumnResult,
        PredictionResult,
        PredictionsResult,
        Results,
    )

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
    """Rows of cells under a head; the first cells of a row name it.

    Attributes:
        head: Names of the columns.
        rows: Cells, as many as there are names.
        note: What must be known to read it.
        title: What it shows.
        num_names: How many of a row's cells name it; the others are figures.
        strong: Row and column of the cells to be seen first.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    title: str = ""
    num_names: int = 1
    strong: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class FigureRow:
    """A column that is shown: its name, what `experiment_results` has of it, and baseline against pruned."""

    name: str
    column: "ColumnResult"
    change: "ChangeResult"

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


def kind_of(name: str) -> str:
    """What a column is one measure of: all of its name before the last slash, where it has one."""
    return name.rpartition("/")[0] or name


def figure_rows(results: "Results") -> list[FigureRow]:
    """The columns that sum up a run."""
    return [
        FigureRow(name, column, column["change"])
        for name, column in results["columns"].items()
        if column["role"] not in HIDDEN and column["change"] is not None
    ]


def outcome_table(results: "Results", brief: bool = False) -> Table:
    """Every figure before and after, and what random neurons do; `brief` where room is short."""
    rows, draws = figure_rows(results), results["num_control_draws"]
    confidence = rows[0].change["interval"]["confidence"]
    head = ["", "baseline", "pruned", "change", f"{confidence:.0%} interval", "p"]
    notes = _figure_notes(rows)
    if not brief:
        head.append("better")
        notes.append("Better: share of the prompts or windows that improved.")
    if draws:
        drawn = f"{draws} draw{'s' * (draws > 1)}"
        random = f"{selected(results['selection'], 'random')} of the same layers"
        exchange = "pruned against the draws, exchanged within each prompt or window."
        head += ["control", "its p"] if brief else ["control", "control's range", "p against control"]
        notes.append(
            f"Control: mean of {drawn} of {random}; its p: {exchange}"
            if brief
            else f"Control: {random}, mean and range of {drawn}; p: {exchange}"
        )
    cells = [_outcome_row(row, brief) + (_control_cells(row, brief) if draws else []) for row in rows]
    if brief:
        for above, below, named in zip(rows, rows[1:], cells[1:], strict=False):
            if above.kind == below.kind:  # below a figure of the same kind only what differs is said
                named[0] = f" {spoken(below.name.removeprefix(below.kind + '/'))}"
    return Table(head, cells, " ".join(notes))


def _outcome_row(row: FigureRow, brief: bool) -> list[str]:
    change = row.change
    return [
        row.label,
        number(change["before"]),
        number(change["after"]),
        _change_cell(change),
        _interval_cell(change, "interval"),
        p_value(change["p_value"]),
        *([] if brief else [f"{change['share_improved']:.0%}"]),
    ]


def _control_cells(row: FigureRow, brief: bool) -> list[str]:
    control, against = row.column["control"], row.column["change_against_control"]
    p = MISSING if against is None else p_value(against["p_value"])
    if control is None or control["mean"] is None:
        return [MISSING, p] if brief else [MISSING, MISSING, p]
    spread = f"{number(control['lowest'])} to {number(control['highest'])}"
    return [number(control["mean"]), *([] if brief else [spread]), p]


def _figure_notes(rows: list[FigureRow]) -> list[str]:
    """What the columns and rows of the table mean, a sentence each; only of those it has."""
    kinds: dict[str, dict[str, None]] = {}
    for row in rows:
        kinds.setdefault(row.column["rows"], {})[spoken(row.kind)] = None
    units = [
        name + ("" if unit == "prompt" else f" ({', '.join(kinds[unit])})")
        for unit, name in _UNITS.items()
        if unit in kinds
    ]
    below = ", the difference where that is below 0" if any(row.change["before"] < 0 for row in rows) else ""
    return [
        f"Baseline: the model before pruning. Change: relative to baseline{below}.",
        f"Interval and p: of the difference in the figure's own unit, paired by {' and by '.join(units)}.",
        *dict.fromkeys(row.column["note"] for row in rows if row.column["note"]),
    ]


def _change_cell(change: "ChangeResult") -> str:
    """As a share of what was; of a figure below 0, such as a logarithm, which has no shares, the difference."""
    before = change["before"]
    return signed(change["after"] - before, beside=before) if before < 0 else percent(change["relative"])


def _interval_cell(change: "ChangeResult", name: Literal["interval", "interval_bca", "interval_two_stage"]) -> str:
    interval = change[name]
    if interval is None:
        return MISSING
    return ", ".join(signed(interval[end], beside=change["before"]) for end in ("low", "high"))


def of_weights(selection: Mapping[str, Any]) -> bool:
    """Whether single weights were selected, not neurons."""
    return "num_weights" in selection


def selected(selection: Mapping[str, Any], kind: str = "") -> str:
    """What was selected, with its number: "20 neurons"; or as many of another kind."""
    what = what_went(selection)
    return counted(selection[f"num_{what}"], what, kind)


def what_went(selection: Mapping[str, Any]) -> str:
    """Neurons or weights."""
    return WEIGHTS if of_weights(selection) else NEURONS


def removed(selection: dict[str, Any]) -> str:
    """How many neurons or weights went, and from where."""
    if of_weights(selection):
        num, total, parts = selection["num_weights"], selection["num_weights_scored"], selection["parts"]
        layers = f"{sum(part['num_removed'] > 0 for part in parts)} of {len(parts)} linear layers"
        share = f"{100 * num / total:.2g} %"
        return f"{selected(selection)} removed of {total:,} ({share}), in {layers}.{_screen(selection.get('screen'))}"
    layers = ", ".join(f"{layer}: {count}" for layer, count in enumerate(selection["neurons_per_layer"]) if count)
    total = selection["num_neurons_of_model"]
    share = f" of {total:,} ({selection['num_neurons'] / total:.2%})" if total else ""
    return f"{selection['num_neurons']} neurons removed{share}; in layer: {layers}.{_screen(selection.get('screen'))}"


def _screen(screen: dict[str, Any] | None) -> str:
    """What the chosen do together to what they were chosen by."""
    if screen is None:
        return ""
    joint = screen["joint"]
    figures = (joint["effect"], joint["ordinary"], joint["price"], joint.get("unseen_price"))
    done = joint_effect(screen.get("unit", NATS), *figures)
    return f" Chosen among {screen['num_candidates']} candidates, each removed alone: {done}"


def predictors(found: "PredictionsResult") -> list[tuple[str, "PredictionResult"]]:
    """Every method with how far it predicts what removal does: the one that proposed first, the others best first."""
    own = found["proposed_by"]
    others = [(key, one) for key, one in found["methods"].items() if key != own]
    return [(own, found["methods"][own]), *sorted(others, key=lambda item: -(item[1]["correlation"] or 0.0))]


def prediction_table(found: "PredictionsResult") -> Table:
    """Which method's scores predict what removing a candidate does, and how far the measurement agrees with itself."""
    own, halves = predictors(found)[0], found["halves"]
    confidence = f"{own[1]['recall_interval']['confidence']:.0%}"
    head = ["method", "candidates", "rank correlation", confidence, "p", f"best {own[1]['num_best']}", confidence]
    rows = [[name, *_prediction_cells(one)] for name, one in predictors(found)]
    things = measured_on(found.get("unit", NATS))
    notes = [
        "Rank correlation: of a method's scores with the measured effects.",
        f"Best {own[1]['num_best']}: share of those with the largest effects that are among as many highest scored; by "
        f"chance {own[1]['recall_by_chance']:.0%}.",
        f"Half of the {things}: its effects against those of the other half, which says how much an effect depends on "
        f"which {things} were drawn. A method's scores and effects are of the same {things}, so that it can do better.",
        f"Only the first by {own[0]} were removed: so narrow a choice lowers its own correlation, and says nothing of "
        f"what others would have proposed. Effects are of the {things} that were attributed.",
        *(f"{name}: {one['missing']}." for name, one in predictors(found) if one["missing"]),
    ]
    return Table(head, [*rows, [f"half of the {things}", *_prediction_cells(halves)]], " ".join(notes))


def _prediction_cells(one: "PredictionResult") -> list[str]:
    order, p = one["correlation"], one["p_value"]
    return [
        f"{one['num_units']:,}",
        MISSING if order is None else f"{order:+.2f}",
        MISSING if one["correlation_interval"] is None else _ends(one["correlation_interval"], "+.2f"),
        MISSING if p is None else p_value(p),
        f"{one['recall']:.0%}",
        _ends(one["recall_interval"], ".0%"),
    ]


def _ends(interval: dict[str, float], style: str) -> str:
    return ", ".join(f"{interval[end]:{style}}" for end in ("low", "high"))


def checks(results: "Results") -> list[str]:
    """What the validation table says, in sentences."""
    validation = results["validation"]
    sets = validation["sets"]
    if validation["passed"]:
        expected = max(row["num_modules_expected"] for row in sets.values())
        lines = [f"All {len(sets)} score sets are finite and hold all {expected} layers expected."]
    else:
        lines = [f"CHECK FAILED: {problem}." for problem in validation["problems"]]
    seeds, length = validation["seed_variation"], validation["length_bias"]
    what = what_went(results["selection"])
    if seeds is not None:
        lines.append(_seeds(seeds, what))
    if length["relevance_ratio"] is not None and length["token_ratio"] is not None:
        # Signed relevance cancels in a sum: its ratio says nothing.
        is_signed = results["relevance"].get("sign") == "signed"
        relevance = "" if is_signed else f"{length['relevance_ratio']:.2f} times the relevance and "
        lines.append(
            f"A sample of {results['selection']['behaviour']} has {relevance}{length['token_ratio']:.2f} times the "
            "tokens of a general one (length alone can change relevance)."
        )
    if (kept := length.get("matched_overlap")) is not None:  # files of earlier versions have none
        lines.append(
            f"The contrast with samples of equal length alone ({', '.join(length['matched_sets'])}) also proposes "
            f"{kept:.0%} of these {what}."
        )
    return lines


def _seeds(seeds: dict[str, Any], what: str) -> str:
    variation, same = seeds["coefficient_of_variation"], seeds["selection_overlap"]["mean"]
    # Signed scores have none: they average near 0, which no deviation can be a share of.
    varies = "" if variation is None else f"a score varies by {percent(variation, '')} between them; "
    return (
        f"{seeds['num_seeds']} sets of general samples: {varies}{same:.0%} of the {what} that one set alone would "
        f"select, another would too (by chance {seeds['overlap_by_chance']:.1%})."
    )


def set_table(validation: dict[str, Any], unit: str = "logits") -> Table:
    """Every reference set: its size, its relevance, and what the checks of its scores found."""
    head = [
        "reference set", "role", "samples", "tokens a sample", f"relevance a sample, {unit}", "modules", "scores",
        "NaN", "Inf", "below 0",
    ]  # fmt: skip
    rows = [
        [
            name,
            row["role"],
            _count_cell(row["num_samples"]),
            number(row["tokens_per_sample"]),
            number(row["relevance_per_sample"]),
            f"{row['num_modules']} of {row['num_modules_expected']}",
            *(_count_cell(row[key]) for key in ("num_scores", "num_nan", "num_inf", "num_negative")),
        ]
        for name, row in validation["sets"].items()
    ]
    return Table(head, rows, _strength(validation["differential_strength"]))


def _count_cell(value: int | None) -> str:
    """A whole number, where there is one."""
    return MISSING if value is None else f"{value:,}"


def _strength(strength: dict[str, Any]) -> str:
    if strength["value"] is None:
        return "Differential strength: none, since sums of signed scores cancel."
    return f"Differential strength: {percent(strength['value'])} over {strength['scope']}. {strength['meaning']}"


def evidence_table(results: "Results") -> Table:
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
    assert change["p_value_wilcoxon"] is not None  # only a control's is
    stages = [_interval_cell(change, "interval_two_stage")] if has_stages else []
    sizes = (change["effect_size"], change["rank_biserial"])
    return [
        row.label,
        _interval_cell(change, "interval_bca"),
        *stages,
        p_value(change["p_value_wilcoxon"]),
        *(MISSING if size is None else f"{size:+.2f}" for size in sizes),
        number(power.get("smallest_change")),
        _count_cell(power.get("num_needed")),
        _count_cell(power.get("num_needed_with_25")),
    ]


def _missing(rows: list[FigureRow]) -> list[str]:
    """Why figures are missing, each reason with the rows that it is about."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.change["power"] is not None and row.change["power"]["missing"]:
            reasons.setdefault(row.change["power"]["missing"], []).append(row.label)
    return [f"Missing of {'; '.join(labels)}: {reason}." for reason, labels in reasons.items()]


def agreement_lines(results: "Results") -> list[str]:
    """How far further scorers agree with the first one, in sentences; empty where there is one."""
    return [_agreement_line(found) for found in results["agreement"] or []]


def _agreement_line(found: dict[str, Any]) -> str:
    single, changes = (
        MISSING if value is None else f"{value:.2f}" for value in (found["pearson"], found["pearson_change"])
    )
    share = found["same_direction"]
    same = "" if share is None else f"; {share:.0%} of the prompts moved one way by both"
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


def first_completions(baseline: "Side", pruned: "Side", num_prompts: int) -> list[Completions]:
    """First completions of some prompts, spaced evenly over all and not chosen by what came out."""

    def side(model: str, row: dict[str, Any]) -> Completion:
        first = row["completions"][0]
        return Completion(model, f"{first['scores'][baseline.attribute]:.3f}", first["text"])

    pairs = list(zip(baseline.prompts, pruned.prompts, strict=True))
    chosen = [pairs[place] for place in spaced(len(pairs), num_prompts)]
    return [Completions(old["text"], (side("baseline", old), side("pruned", new))) for old, new in chosen]


def in_brackets(name: str) -> str:
    """A column of a table of trials in words: `perplexity_sliding` is "perplexity (sliding)"."""
    kind, _, which = name.partition("_")
    return f"{kind} ({which.replace('_', ' ')})" if which else kind
