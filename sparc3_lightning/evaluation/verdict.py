"""The verdict: what the figures show and what they do not, in plain sentences."""

from dataclasses import dataclass
from typing import Any

from sparc3_lightning.statistics.compare import Change
from sparc3_lightning.words import p_equals, percent, spoken


@dataclass(frozen=True)
class Comparison:
    """Changes by what they are of: perplexity by protocol, toxicity measure by attribute."""

    perplexity: dict[str, Change]
    toxicity: dict[str, dict[str, Change]]
    uniqueness: Change | None
    length: Change | None


@dataclass(frozen=True)
class Findings:
    """What the verdict is about.

    Attributes:
        changes: Baseline against pruned.
        against_control: Control against pruned, measure by attribute; empty without a control.
        control: The control's JSON; None without a control.
        attribute: The scorer's main attribute; None where no toxicity was measured.
        measure: `mean`, `expected_maximum` or `probability`.
        num_neurons: Neurons removed.
        num_empty: Completions without a token, of the baseline and of the pruned model.
        alpha: A p-value must be below it.
        overlap_allowed: Whether evaluation prompts may have been attributed.
    """

    changes: Comparison
    against_control: dict[str, dict[str, Change]]
    control: dict[str, Any] | None
    attribute: str | None
    measure: str
    num_neurons: int
    num_empty: tuple[int, int]
    alpha: float
    overlap_allowed: bool


def fell(change: Change, alpha: float) -> bool:
    """Whether a figure fell significantly: interval below 0 and p-value below `alpha`."""
    return change.interval.high < 0 and change.p_value < alpha


def rose(change: Change, alpha: float) -> bool:
    """Whether a figure rose significantly."""
    return change.interval.low > 0 and change.p_value < alpha


def verdict(findings: Findings) -> dict[str, Any]:
    """Did toxicity fall, against the baseline and against the control, and at what price.

    Returns:
        `headline`; `toxicity`, `beside_it`, `caveats`: sentences; and what the headline rests on: `toxicity_fell` and
        `toxicity_fell_against_control` (None: not measured), `perplexity_change` (relative, by protocol),
        `repeats_more`, `shorter`; `measure`, that of the toxicity meant.
    """
    baseline = _toxicity_change(findings.changes.toxicity, findings)
    control = _toxicity_change(findings.against_control, findings)
    answers = {
        "toxicity_fell": _fell(baseline, findings.alpha),
        "toxicity_fell_against_control": _fell(control, findings.alpha),
        "perplexity_change": {name: change.relative for name, change in findings.changes.perplexity.items()},
        "repeats_more": _fell(findings.changes.uniqueness, findings.alpha),
        "shorter": _fell(findings.changes.length, findings.alpha),
        "measure": findings.measure,
    }
    return {
        "headline": _headline(answers, baseline, findings),
        "toxicity": _toxicity_sentences(baseline, control, findings),
        "beside_it": [*_perplexity_sentences(findings), *_completion_sentences(findings)],
        "caveats": [] if baseline is None else _caveats(answers, baseline, control, findings),
        **answers,
    }


def _toxicity_change(changes: dict[str, dict[str, Change]], findings: Findings) -> Change | None:
    return changes[findings.measure][findings.attribute] if changes and findings.attribute else None


def _fell(change: Change | None, alpha: float) -> bool | None:
    return None if change is None else fell(change, alpha)


def _headline(answers: dict[str, Any], baseline: Change | None, findings: Findings) -> str:
    removed = f"Removing these {findings.num_neurons} neurons"
    price = _price(answers["perplexity_change"])
    if baseline is None:
        return f"{removed}: no toxicity was measured, so this run says nothing about it{price}."
    if rose(baseline, findings.alpha):
        return f"{removed} RAISED toxicity significantly{price}."
    if not answers["toxicity_fell"]:
        return f"{removed} did NOT lower toxicity significantly{price}."
    if answers["toxicity_fell_against_control"] is None:
        return f"{removed} lowered toxicity significantly{price}; whether random neurons do the same was not tested."
    if not answers["toxicity_fell_against_control"]:
        return f"{removed} lowered toxicity significantly, but NOT significantly more than random neurons{price}."
    return f"{removed} lowered toxicity significantly, and more than random neurons{price}."


def _price(perplexity: dict[str, float | None]) -> str:
    known = [f"{percent(change)} {name}" for name, change in perplexity.items() if change is not None]
    return f" (perplexity {', '.join(known)})" if known else ""


def _toxicity_sentences(baseline: Change | None, control: Change | None, findings: Findings) -> list[str]:
    if baseline is None:
        return []
    return [
        _baseline_sentence(baseline, findings),
        _second_opinion(baseline, findings.alpha),
        *_control_sentence(control, findings),
        *(
            f"By {name}, toxicity {_movement(change, findings.alpha)}: {_figures(change)}."
            for name, change in _other_scorers(findings).items()
        ),
    ]


def _baseline_sentence(change: Change, findings: Findings) -> str:
    return (
        f"{_name(findings)} {_movement(change, findings.alpha)} against the baseline: {_figures(change)}; "
        f"{change.share_improved:.0%} of {change.num_pairs} prompts improved, {change.share_worsened:.0%} got worse."
    )


def _other_scorers(findings: Findings) -> dict[str, Change]:
    """What every further scorer's main attribute says: a `JointScorer` names it with a slash."""
    changes = findings.changes.toxicity.get(findings.measure, {})
    return {name: change for name, change in changes.items() if "/" in name}


def _second_opinion(change: Change, alpha: float) -> str:
    assert change.p_value_wilcoxon is not None  # only a control's is
    p = p_equals(change.p_value_wilcoxon)
    if (change.p_value < alpha) == (change.p_value_wilcoxon < alpha):
        says = f"agrees ({p})"
    elif change.p_value < alpha:
        says = f"does NOT agree ({p}): a few prompts with large changes may decide the mean"
    else:
        says = f"does NOT agree ({p}): more prompts moved one way than the mean shows"
    sizes = {"standardised": change.effect_size, "rank-biserial": change.rank_biserial}
    known = [f"{size:+.2f} ({name})" for name, size in sizes.items() if size is not None]
    effect = f" Size of the effect: {', '.join(known)}." if known else ""
    needed = _needed(change) if fell(change, alpha) or rose(change, alpha) else ""
    return f"Second opinion: Wilcoxon's signed-rank test {says}.{effect}{needed}"


def _needed(change: Change) -> str:
    """How many prompts see the change that was found; empty where that is not known."""
    if change.power is None or change.power.num_needed is None:
        return ""
    many = change.power.num_needed_with_25
    beside = "" if many is None else f", or {many:,} with 25"
    wanted = f"{change.power.wanted:.0%} power"
    return f" To see it with {wanted} takes about {change.power.num_needed:,} prompts with as many completions{beside}."


def _control_sentence(control: Change | None, findings: Findings) -> list[str]:
    if control is None or findings.control is None:
        return []
    draws = [draw[f"{findings.attribute}/{findings.measure}"] for draw in findings.control["draws"]]
    as_low = sum(draw <= control.after for draw in draws)
    counted = f"{len(draws)} draw{'s' * (len(draws) > 1)}"
    alone = "" if as_low else f"chance alone puts them below all draws with probability {1 / (len(draws) + 1):.2f}: "
    return [
        f"Against the control ({counted} of {findings.num_neurons} random neurons in the same layers, each prompt's "
        f"score averaged over the draws) it {_movement(control, findings.alpha)}: {_figures(control)}; "
        f"{as_low} of {len(draws)} draws came as low as the selected neurons ({alone}the p-value is for the draws "
        "made)."
    ]


def _caveats(answers: dict[str, Any], baseline: Change, control: Change | None, findings: Findings) -> list[str]:
    """What a reader must know before believing the headline."""
    known = _power_caveat(baseline, "baseline", findings.alpha)
    if answers["toxicity_fell"]:
        known += _power_caveat(control, "control", findings.alpha)
    if control is None:
        known.append(
            "No control was run: any neurons might do the same. Set `EvaluationCallback.init_args.num_control_draws`."
        )
    known += _perplexity_caveats(findings)
    known += [
        f"By {name} toxicity did NOT fall significantly: the finding is the first scorer's."
        for name, change in _other_scorers(findings).items()
        if answers["toxicity_fell"] and not fell(change, findings.alpha)
    ]
    if answers["repeats_more"]:
        known.append("Completions repeat themselves significantly more than before: that lowers toxicity, too.")
    if answers["shorter"]:
        known.append("Completions are significantly shorter than before: that lowers toxicity, too.")
    if findings.num_empty[1] > findings.num_empty[0]:
        known.append(
            f"Empty completions: {findings.num_empty[0]} before, {findings.num_empty[1]} after; none is toxic."
        )
    if findings.overlap_allowed:
        known.append(
            "Evaluation prompts may be among those attributed (`data.allow_overlap`): nothing is shown for new prompts."
        )
    return known


def _power_caveat(change: Change | None, against: str, alpha: float) -> list[str]:
    """What a result that is not significant does not rule out."""
    if change is None or change.power is None or fell(change, alpha) or rose(change, alpha):
        return []
    power = change.power
    if power.smallest_change is None:
        return [f"Against the {against}: how large a change this run could have seen is unknown; {power.missing}."]
    share = f" ({power.smallest_change / change.before:.0%} of the {against})" if change.before else ""
    return [
        f"Not significant against the {against} does not mean no effect: {change.num_pairs} prompts have "
        f"{power.wanted:.0%} power to see a change of {power.smallest_change:.3f}{share}, and less for a smaller one. "
        f"The one found is {abs(change.change):.3f}.{_needed(change)}"
    ]


def _perplexity_caveats(findings: Findings) -> list[str]:
    """A model that lost more than random removal costs may be less toxic for that reason alone."""
    draws = [] if findings.control is None else findings.control["draws"]
    costly = [
        f"{change.after:.2f} {protocol}, at most {max(known):.2f} there"
        for protocol, change in findings.changes.perplexity.items()
        if (known := [draw[key] for draw in draws if (key := f"perplexity/{protocol}") in draw])
        and change.after > max(known)
    ]
    if not costly:
        return []
    worse = "; ".join(costly)
    return [f"Perplexity is worse than in every draw of the control ({worse}): a broken model is less toxic, too."]


def _perplexity_sentences(findings: Findings) -> list[str]:
    means = {} if findings.control is None else findings.control["mean"]

    def sentence(protocol: str, change: Change) -> str:
        control = means.get(f"perplexity/{protocol}")
        beside = (
            "" if control is None else f"; the control's mean is {control:.2f} ({_relative(change.before, control)})"
        )
        return f"Perplexity ({protocol}) {_movement(change, findings.alpha)}: {_figures(change, 2)}{beside}."

    return [sentence(protocol, change) for protocol, change in findings.changes.perplexity.items()]


def _completion_sentences(findings: Findings) -> list[str]:
    uniqueness, length, alpha = findings.changes.uniqueness, findings.changes.length, findings.alpha
    sentences = []
    if uniqueness is not None:
        what = "Repetition: the share of different tokens in a completion"
        sentences.append(f"{what} {_movement(uniqueness, alpha)}: {_figures(uniqueness)}.")
    if length is not None:
        sentences.append(f"Length: tokens in a completion {_movement(length, alpha)}: {_figures(length, 1)}.")
    return sentences


def _name(findings: Findings) -> str:
    attribute = spoken(findings.attribute or "toxicity").capitalize()
    return f"{attribute} ({spoken(findings.measure)})"


def _movement(change: Change, alpha: float) -> str:
    if fell(change, alpha):
        return "fell significantly"
    return "rose significantly" if rose(change, alpha) else "did not change significantly"


def _figures(change: Change, digits: int = 3) -> str:
    interval = change.interval
    return (
        f"{change.before:.{digits}f} -> {change.after:.{digits}f} ({_relative(change.before, change.after)}), "
        f"{interval.confidence:.0%} interval of the change {interval.low:+.{digits}f} to {interval.high:+.{digits}f}, "
        f"{p_equals(change.p_value)}"
    )


def _relative(before: float, after: float) -> str:
    return percent((after - before) / before) if before else "from 0"
