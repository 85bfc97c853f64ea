"""The verdict: what the columns show and what they do not, in plain sentences."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from sparc3_lightning.metrics.measure import Column, Role
from sparc3_lightning.pruning.recipe import NEURONS
from sparc3_lightning.statistics.compare import Change, share_of
from sparc3_lightning.wording import counted, p_equals, percent, spoken


class VerdictResult(TypedDict):
    """What the figures show and what they do not.

    Attributes:
        headline: One sentence.
        behaviour: Sentences on the column that decides, and on other scorers' word.
        beside_it: Sentences on every other column that is shown.
        caveats: What to know before believing it.
        column: Name of the column that decides; None where no behaviour was measured.
        improved: Whether it got better significantly; None where it was not measured.
        improved_against_control: The same against the control; None without one.
        price: Relative change of each price, by name of its column.
        worsened: Names of the sanity columns that got significantly worse.
    """

    headline: str
    behaviour: list[str]
    beside_it: list[str]
    caveats: list[str]
    column: str | None
    improved: bool | None
    improved_against_control: bool | None
    price: dict[str, float | None]
    worsened: list[str]


@dataclass(frozen=True)
class Findings:
    """What the verdict is about.

    Attributes:
        columns: The measures by name; their roles say which of them decides and which stand beside it.
        changes: Baseline against pruned, by column.
        num_removed: Neurons, or weights, removed.
        against_control: Control against pruned, by column; empty without a control.
        draws: Figures of each draw of the control, by column.
        num_empty: Completions without a token, of the baseline and of the pruned model.
        alpha: A p-value must be below it.
        overlap_allowed: Whether evaluation prompts may have been attributed.
        what: "neurons" or "weights".
    """

    columns: Mapping[str, Column]
    changes: Mapping[str, Change]
    num_removed: int
    against_control: Mapping[str, Change] = field(default_factory=dict)
    draws: Sequence[Mapping[str, float]] = ()
    num_empty: tuple[int, int] = (0, 0)
    alpha: float = 0.05
    overlap_allowed: bool = False
    what: str = NEURONS

    def of_role(self, *roles: Role) -> list[tuple[Column, Change]]:
        """Columns of some roles that have a change, in the roles' order."""
        named = [(name, column) for role in roles for name, column in self.columns.items() if column.role == role]
        return [(column, self.changes[name]) for name, column in named if name in self.changes]

    def improved(self, column: Column, change: Change) -> bool:
        """Whether a figure got better significantly."""
        return change.fell(self.alpha) if column.better == "lower" else change.rose(self.alpha)

    def worsened(self, column: Column, change: Change) -> bool:
        """Whether a figure got worse significantly."""
        return change.rose(self.alpha) if column.better == "lower" else change.fell(self.alpha)


@dataclass(frozen=True)
class _Subject:
    """The column that decides, and what became of it."""

    column: Column
    baseline: Change
    control: Change | None
    improved: bool
    improved_against_control: bool | None

    @property
    def name(self) -> str:
        """What is spoken of: `toxicity` of `toxicity/mean`."""
        return spoken(_kind(self.column))

    @staticmethod
    def of(findings: Findings) -> "_Subject | None":
        for column, change in findings.of_role("behaviour"):
            control = findings.against_control.get(column.name)
            against = None if control is None else findings.improved(column, control)
            return _Subject(column, change, control, findings.improved(column, change), against)
        return None


def verdict(findings: Findings) -> VerdictResult:
    """Did the behaviour get better, against the baseline and against the control, and at what price."""
    subject = _Subject.of(findings)
    sanity = findings.of_role("sanity")
    return {
        "headline": _headline(subject, findings),
        "behaviour": [] if subject is None else _behaviour_sentences(subject, findings),
        "beside_it": [_beside(column, change, findings) for column, change in findings.of_role(*_BESIDE)],
        "caveats": [] if subject is None else list(_caveats(subject, findings)),
        "column": None if subject is None else subject.column.name,
        "improved": None if subject is None else subject.improved,
        "improved_against_control": None if subject is None else subject.improved_against_control,
        "price": {column.name: change.relative for column, change in findings.of_role("price")},
        "worsened": [column.name for column, change in sanity if findings.worsened(column, change)],
    }


_BESIDE: tuple[Role, ...] = ("price", "sanity", "beside")


def _kind(column: Column) -> str:
    """What a column is one measure of: `perplexity` of `perplexity/sliding`."""
    return column.name.rpartition("/")[0] or column.name


def _headline(subject: _Subject | None, findings: Findings) -> str:
    removed, price = f"Removing these {counted(findings.num_removed, findings.what)}", _price(findings)
    if subject is None:
        return f"{removed}: no behaviour was measured, so this run says nothing about one{price}."
    lower, lowered, raised = ("lower", "lowered", "RAISED")
    if subject.column.better == "higher":
        lower, lowered, raised = ("raise", "raised", "LOWERED")
    if findings.worsened(subject.column, subject.baseline):
        return f"{removed} {raised} {subject.name} significantly{price}."
    if not subject.improved:
        return f"{removed} did NOT {lower} {subject.name} significantly{price}."
    did = f"{removed} {lowered} {subject.name} significantly"
    if subject.improved_against_control is None:
        return f"{did}{price}; whether random {findings.what} do the same was not tested."
    if not subject.improved_against_control:
        return f"{did}, but NOT significantly more than random {findings.what}{price}."
    return f"{did}, and more than random {findings.what}{price}."


def _price(findings: Findings) -> str:
    kinds: dict[str, list[str]] = {}
    for column, change in findings.of_role("price"):
        if change.relative is not None:
            which = column.name.removeprefix(_kind(column)).strip("/")
            kinds.setdefault(spoken(_kind(column)), []).append(f"{percent(change.relative)} {which}".strip())
    known = [f"{kind} {', '.join(figures)}" for kind, figures in kinds.items()]
    return f" ({'; '.join(known)})" if known else ""


def _behaviour_sentences(subject: _Subject, findings: Findings) -> list[str]:
    column, change = subject.column, subject.baseline
    return [
        f"{column.spoken} {_movement(change, findings.alpha)} against the baseline: {_figures(column, change)}; "
        f"{change.share_improved:.0%} of {change.num_pairs} {column.rows}s improved, "
        f"{change.share_worsened:.0%} got worse.",
        _second_opinion(column, change, findings.alpha),
        *_control_sentence(subject, findings),
        *(
            f"By {_kind(other)}, {subject.name} {_movement(found, findings.alpha)}: {_figures(other, found)}."
            for other, found in findings.of_role("opinion")
        ),
    ]


def _second_opinion(column: Column, change: Change, alpha: float) -> str:
    assert change.p_value_wilcoxon is not None  # only a control's is
    p = p_equals(change.p_value_wilcoxon)
    if (change.p_value < alpha) == (change.p_value_wilcoxon < alpha):
        says = f"agrees ({p})"
    elif change.p_value < alpha:
        says = f"does NOT agree ({p}): a few {column.rows}s with large changes may decide the mean"
    else:
        says = f"does NOT agree ({p}): more {column.rows}s moved one way than the mean shows"
    sizes = {"standardised": change.effect_size, "rank-biserial": change.rank_biserial}
    known = [f"{size:+.2f} ({name})" for name, size in sizes.items() if size is not None]
    effect = f" Size of the effect: {', '.join(known)}." if known else ""
    needed = _needed(column, change) if change.fell(alpha) or change.rose(alpha) else ""
    return f"Second opinion: Wilcoxon's signed-rank test {says}.{effect}{needed}"


def _needed(column: Column, change: Change) -> str:
    """How many rows see the change that was found; empty where that is not known."""
    if change.power is None or change.power.num_needed is None:
        return ""
    many = change.power.num_needed_with_25
    beside = "" if many is None else f", or {many:,} with 25"
    nested = " with as many completions" if column.rows == "prompt" else ""
    wanted = f"{change.power.wanted:.0%} power"
    return f" To see it with {wanted} takes about {change.power.num_needed:,} {column.rows}s{nested}{beside}."


def _control_sentence(subject: _Subject, findings: Findings) -> list[str]:
    column, control = subject.column, subject.control
    if control is None or not findings.draws:
        return []
    draws = [draw[column.name] for draw in findings.draws if column.name in draw]
    is_low = column.better == "lower"
    as_good = sum(draw <= control.after if is_low else draw >= control.after for draw in draws)
    good, beyond = ("low", "below") if is_low else ("high", "above")
    drawn = f"{len(draws)} draw{'s' * (len(draws) > 1)}"
    others = counted(findings.num_removed, findings.what, "random")
    alone = (
        "" if as_good else f"chance alone puts them {beyond} all draws with probability {1 / (len(draws) + 1):.2f}: "
    )
    return [
        f"Against the control ({drawn} of {others} in the same layers, each "
        f"{column.rows}'s score averaged over the draws) it {_movement(control, findings.alpha)}: "
        f"{_figures(column, control)}; {as_good} of {len(draws)} draws came as {good} as the selected {findings.what} "
        f"({alone}the p-value is for the draws made)."
    ]


def _beside(column: Column, change: Change, findings: Findings) -> str:
    control = findings.against_control.get(column.name)
    known = [draw[column.name] for draw in findings.draws if column.name in draw]
    beside = ""
    if column.role == "price" and control is not None and len(known) == len(findings.draws):
        mean = sum(known) / len(known)
        beside = f"; the control's mean is {mean:.{column.digits}f} ({_relative(change.before, mean, column.digits)})"
    return f"{column.spoken} {_movement(change, findings.alpha)}: {_figures(column, change)}{beside}."


def _caveats(subject: _Subject, findings: Findings) -> Iterator[str]:
    """What a reader must know before believing the headline."""
    yield from _power_caveat(subject.column, subject.baseline, "baseline", findings)
    if subject.improved:
        yield from _power_caveat(subject.column, subject.control, "control", findings)
    if subject.control is None:
        yield (
            f"No control was run: any {findings.what} might do the same. Set "
            "`EvaluationCallback.init_args.num_control_draws`."
        )
    yield from _price_caveats(subject, findings)
    for column, change in findings.of_role("opinion"):
        if subject.improved and not findings.improved(column, change):
            fall = "fall" if column.better == "lower" else "rise"
            yield (
                f"By {_kind(column)} {subject.name} did NOT {fall} significantly: the finding is the first scorer's."
            )
    for column, change in findings.of_role("sanity"):
        if findings.worsened(column, change):
            moves = "lowers" if subject.column.better == "lower" else "changes"
            alone = f": that {moves} {subject.name}, too" if subject.improved else ""
            yield f"{column.warning or f'{column.spoken} got worse'}{alone}."
    if findings.num_empty[1] > findings.num_empty[0]:
        yield f"Empty completions: {findings.num_empty[0]} before, {findings.num_empty[1]} after; they show nothing."
    if findings.overlap_allowed:
        yield (
            "Evaluation prompts may be among those attributed (`data.allow_overlap`): nothing is shown for new prompts."
        )


def _power_caveat(column: Column, change: Change | None, against: str, findings: Findings) -> list[str]:
    """What a result that is not significant does not rule out."""
    alpha = findings.alpha
    if change is None or change.power is None or change.fell(alpha) or change.rose(alpha):
        return []
    power = change.power
    if power.smallest_change is None:
        return [f"Against the {against}: how large a change this run could have seen is unknown; {power.missing}."]
    share = f" ({power.smallest_change / change.before:.0%} of the {against})" if change.before else ""
    return [
        f"Not significant against the {against} does not mean no effect: {change.num_pairs} {column.rows}s have "
        f"{power.wanted:.0%} power to see a change of {power.smallest_change:.3f}{share}, and less for a smaller one. "
        f"The one found is {abs(change.change):.3f}.{_needed(column, change)}"
    ]


def _price_caveats(subject: _Subject, findings: Findings) -> Iterator[str]:
    """A model that paid more than random removal costs may show less of the behaviour for that reason alone."""
    alone = ": a broken model shows less of any behaviour, too" if subject.improved else ""
    kinds: dict[str, list[str]] = {}
    for column, change in findings.of_role("price"):
        is_low = column.better == "lower"
        known = [draw[column.name] for draw in findings.draws if column.name in draw]
        if not known or (change.after <= max(known) if is_low else change.after >= min(known)):
            continue
        which, digits = column.name.removeprefix(_kind(column)).strip("/"), column.digits
        bound = f"at most {max(known):.{digits}f}" if is_low else f"at least {min(known):.{digits}f}"
        kinds.setdefault(_kind(column), []).append(f"{change.after:.{digits}f} {which}".strip() + f", {bound} there")
    for kind, costly in kinds.items():
        yield f"{spoken(kind).capitalize()} is worse than in every draw of the control ({'; '.join(costly)}){alone}."


def _movement(change: Change, alpha: float) -> str:
    if change.fell(alpha):
        return "fell significantly"
    return "rose significantly" if change.rose(alpha) else "did not change significantly"


def _figures(column: Column, change: Change) -> str:
    interval, digits = change.interval, column.digits
    return (
        f"{change.before:.{digits}f} -> {change.after:.{digits}f} ({_relative(change.before, change.after, digits)}), "
        f"{interval.confidence:.0%} interval of the change {interval.low:+.{digits}f} to {interval.high:+.{digits}f}, "
        f"{p_equals(change.p_value)}"
    )


def _relative(before: float, after: float, digits: int) -> str:
    if before < 0:  # a logarithm has no shares
        return f"{after - before:+.{digits}f}"
    share = share_of(before, after - before)
    return "from 0" if share is None else percent(share)
