"""The verdict says what the figures show, and no more."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sparc3_lightning.metrics.measure import Better, Column, Role, Rows
from sparc3_lightning.statistics.compare import Change
from sparc3_lightning.statistics.effects import Power
from sparc3_lightning.statistics.intervals import Interval
from sparc3_lightning.trials.verdict import Findings, _figures, verdict


def paired(low: float, high: float, p: float, before: float = 0.5) -> Change:
    change = (low + high) / 2
    interval = Interval(low, high, 0.95, 1000)
    return Change(
        before=before,
        after=before + change,
        change=change,
        relative=change / before,
        interval=interval,
        interval_bca=interval,
        interval_two_stage=None,
        p_value=p,
        p_value_least=1e-4,
        p_value_wilcoxon=p,
        effect_size=-0.5,
        rank_biserial=-0.6,
        share_improved=0.6,
        share_worsened=0.3,
        num_pairs=40,
        power=Power(0.8, 0.12, 90, 55, 0.1, 0.3, ""),
    )


DRAWS = [{"toxicity/mean": 0.4, "perplexity/sliding": 10.3}]
FELL, SAME, ROSE = paired(-0.2, -0.1, 0.001), paired(-0.1, 0.1, 0.9), paired(0.1, 0.2, 0.001)
PRICE = paired(0.1, 0.3, 0.001, before=10.0)


def column(name: str, role: Role, better: Better = "lower", label: str = "", warning: str = "") -> Column:
    rows: Rows = "window" if role == "price" else "prompt"
    values, digits = torch.zeros(1), 2 if role == "price" else 3
    return Column(name, "score", better, rows, "mean", ["0"], values, None, role, label, digits, warning)


COLUMNS = [
    column("perplexity/sliding", "price", label="Perplexity (sliding)"),
    column("toxicity/mean", "behaviour", label="Toxicity (mean)"),
    column("insult/mean", "detail"),
    column("other/toxicity/mean", "opinion"),
    column(
        "uniqueness", "sanity", "higher", "Repetition: the share of different tokens in a completion", "They repeat"
    ),
    column("length", "sanity", "higher", warning="They are shorter"),
    column("politeness", "beside", "higher"),
]


def test_a_logarithm_falls_by_a_difference() -> None:
    words = replace(column("words/log_probability", "behaviour", label="Words"), digits=2)
    assert "-5.00 -> -5.15 (-0.15)," in _figures(words, paired(-0.2, -0.1, 0.001, before=-5.0))


def findings(baseline: Change | None = FELL, control: Change | None = FELL, **changed: Any) -> Findings:
    """A run's; what is changed by name are fields, or a column's change."""
    found = {"perplexity/sliding": PRICE, "toxicity/mean": baseline, "uniqueness": SAME, "length": SAME}
    found |= changed.pop("changes", {})
    against = {} if control is None else {"toxicity/mean": control, "perplexity/sliding": SAME}
    return replace(
        Findings(
            columns={column.name: column for column in COLUMNS},
            changes={name: change for name, change in found.items() if change is not None},
            num_removed=100,
            against_control=against,
            draws=() if control is None else DRAWS,
        ),
        **changed,
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (paired(-0.2, -0.1, 0.04), True),
        (paired(-0.2, -0.1, 0.05), False),
        (paired(-0.2, 0.0, 0.04), False),
        (paired(-0.2, 0.1, 0.04), False),
        (ROSE, False),
    ],
)
def test_a_fall_needs_both_the_interval_and_the_p_value(change: Change, expected: bool) -> None:
    assert change.fell(0.05) is expected
    mirrored = replace(change, interval=Interval(-change.interval.high, -change.interval.low, 0.95, 1000))
    assert mirrored.rose(0.05) is expected


@pytest.mark.parametrize(
    ("baseline", "control", "headline"),
    [
        (FELL, FELL, "lowered toxicity significantly, and more than random neurons (perplexity +2.0% sliding)."),
        (FELL, SAME, "lowered toxicity significantly, but NOT significantly more than random neurons"),
        (FELL, ROSE, "lowered toxicity significantly, but NOT significantly more than random neurons"),
        (FELL, None, "lowered toxicity significantly (perplexity +2.0% sliding); whether random neurons do the same"),
        (SAME, FELL, "did NOT lower toxicity significantly"),
        (ROSE, FELL, "RAISED toxicity significantly"),
        (None, None, "no behaviour was measured"),
    ],
)
def test_headline(baseline: Change | None, control: Change | None, headline: str) -> None:
    said = verdict(findings(baseline, control))
    assert said["headline"].startswith("Removing these 100 neurons")
    assert headline in said["headline"]
    assert said["improved"] is (None if baseline is None else baseline is FELL)
    assert said["improved_against_control"] is (None if control is None else control is FELL)


def test_perplexity_stands_beside_the_controls() -> None:
    beside = verdict(findings())["beside_it"]
    assert beside[0] == (
        "Perplexity (sliding) rose significantly: 10.00 -> 10.20 (+2.0%), 95% interval of the change +0.10 to +0.30, "
        "p = 0.001; the control's mean is 10.30 (+3.0%)."
    )
    assert beside[1].startswith(
        "Repetition: the share of different tokens in a completion did not change significantly"
    )
    assert beside[2].startswith("Length did not change significantly")
    assert len(beside) == 3
    assert verdict(findings())["price"] == {"perplexity/sliding": pytest.approx(0.02)}


def test_a_column_that_is_new_has_its_sentence_and_no_say() -> None:
    said = verdict(findings(changes={"politeness": ROSE}))
    assert said["beside_it"][-1].startswith("Politeness rose significantly: 0.500 -> 0.650 (+30.0%)")
    assert {**said, "beside_it": []} == {**verdict(findings()), "beside_it": []}


def test_of_a_behaviour_wanted_higher_a_rise_is_better() -> None:
    columns = {**findings().columns, "toxicity/mean": column("accuracy", "behaviour", "higher")}
    columns["accuracy"] = columns.pop("toxicity/mean")
    said = verdict(
        findings(
            columns=columns, changes={"accuracy": ROSE}, against_control={"accuracy": ROSE}, draws=[{"accuracy": 1}]
        )
    )
    assert "raised accuracy significantly, and more than random neurons" in said["headline"]
    assert "1 of 1 draws came as high as the selected neurons" in said["behaviour"][2]
    fell = verdict(findings(columns=columns, changes={"accuracy": FELL}, control=None))
    assert "LOWERED accuracy significantly" in fell["headline"]


def test_draws_as_low_as_the_selected_neurons_are_counted() -> None:
    draws = [{"toxicity/mean": value} for value in (0.30, 0.36, 0.5)]
    sentence = verdict(findings())["behaviour"][-1]
    assert "0 of 1 draws came as low as the selected neurons (chance alone puts them below all" in sentence
    said = verdict(findings(draws=draws))["behaviour"][-1]
    assert "1 of 3 draws came as low as the selected neurons (the p-value is for the draws made)" in said


@pytest.mark.parametrize(
    ("changed", "caveat"),
    [
        ({"num_empty": (1, 4)}, "Empty completions: 1 before, 4 after"),
        ({"overlap_allowed": True}, "nothing is shown for new prompts"),
        ({"changes": {"uniqueness": FELL}}, "They repeat: that lowers toxicity, too."),
        ({"changes": {"length": FELL}}, "They are shorter: that lowers toxicity, too."),
        ({"control": None}, "No control was run"),
    ],
)
def test_what_a_reader_must_know_first(changed: dict[str, Any], caveat: str) -> None:
    assert verdict(findings())["caveats"] == [], "nothing to warn of"
    caveats = verdict(findings(**changed))["caveats"]
    assert len(caveats) == 1
    assert caveat in caveats[0]


def test_what_would_lower_a_behaviour_says_so_only_where_it_fell() -> None:
    draws = [{"toxicity/mean": 0.4, "perplexity/sliding": 10.0}]
    caveats = verdict(findings(ROSE, changes={"uniqueness": FELL}, draws=draws))["caveats"]
    assert caveats == ["Perplexity is worse than in every draw of the control (10.20 sliding, at most 10.00 there).",
                       "They repeat."]  # fmt: skip


def test_a_price_above_the_controls_is_told() -> None:
    def caveats(*perplexities: float) -> list[str]:
        draws = [{"toxicity/mean": 0.4, "perplexity/sliding": perplexity} for perplexity in perplexities]
        return verdict(findings(draws=draws))["caveats"]

    (caveat,) = caveats(10.0, 10.1)
    assert caveat.startswith(
        "Perplexity is worse than in every draw of the control (10.20 sliding, at most 10.10 there)"
    )
    assert caveats(10.0, 10.3) == []


def test_a_collapsed_model_is_told_by_a_factor() -> None:
    collapsed = replace(PRICE, after=123456.0, relative=12344.6)
    said = verdict(findings(changes={"perplexity/sliding": collapsed}))
    assert "(perplexity x1.2e+04 sliding)" in said["headline"]
    assert "10.00 -> 123456.00 (x1.2e+04)" in said["beside_it"][0]


def test_a_figure_of_zero_has_no_percentage() -> None:
    said = verdict(findings(baseline=replace(SAME, before=0.0)))
    assert "(from 0)" in said["behaviour"][0]


@pytest.mark.parametrize(
    ("p", "wilcoxon", "says"),
    [
        (0.01, 0.02, "agrees (p = 0.020)."),
        (0.3, 0.2, "agrees (p = 0.200)."),
        (0.01, 0.2, "does NOT agree (p = 0.200): a few prompts with large changes may decide the mean."),
        (0.3, 0.0001, "does NOT agree (p < 0.001): more prompts moved one way than the mean shows."),
    ],
)
def test_the_second_opinion_is_heard(p: float, wilcoxon: float, says: str) -> None:
    change = replace(paired(-0.2, -0.1, p), p_value_wilcoxon=wilcoxon)
    sentence = verdict(findings(baseline=change))["behaviour"][1]
    assert sentence.startswith(f"Second opinion: Wilcoxon's signed-rank test {says}")
    assert "Size of the effect: -0.50 (standardised), -0.60 (rank-biserial)." in sentence


def test_an_effect_that_was_seen_says_how_many_prompts_see_it() -> None:
    sentence = verdict(findings())["behaviour"][1]
    assert sentence.endswith("To see it with 80% power takes about 90 prompts with as many completions, or 55 with 25.")
    alone = replace(FELL, power=Power(0.8, 0.12, 90, None, None, None, "one"), effect_size=None, rank_biserial=None)
    assert verdict(findings(baseline=alone))["behaviour"][1].endswith(
        "agrees (p = 0.001). To see it with 80% power takes about 90 prompts with as many completions."
    )


def test_no_significance_is_not_no_effect() -> None:
    small = replace(SAME, before=0.48, change=-0.02)
    said = verdict(findings(baseline=small))
    assert said["caveats"] == [
        "Not significant against the baseline does not mean no effect: 40 prompts have 80% power to see a change of "
        "0.120 (25% of the baseline), and less for a smaller one. The one found is 0.020. To see it with 80% power "
        "takes about 90 prompts with as many completions, or 55 with 25."
    ]
    assert "To see it" not in said["behaviour"][1]
    (caveat,) = verdict(findings(control=SAME))["caveats"]
    assert caveat.startswith("Not significant against the control does not mean no effect")
    # Where toxicity did not fall at all, the control is not what is in question.
    assert len(verdict(findings(baseline=SAME, control=SAME))["caveats"]) == 1
    assert verdict(findings(baseline=ROSE, control=SAME))["caveats"] == []


def test_power_that_is_not_known_says_why() -> None:
    few = replace(SAME, power=Power(0.8, None, None, None, None, None, "so few prompts show no change at all"))
    assert verdict(findings(baseline=few))["caveats"] == [
        "Against the baseline: how large a change this run could have seen is unknown; so few prompts show no change "
        "at all."
    ]


@pytest.mark.parametrize("agrees", [True, False])
def test_a_second_scorer_is_heard(agrees: bool) -> None:
    """Where it disagrees, that is a caveat."""
    said = verdict(findings(changes={"insult/mean": SAME, "other/toxicity/mean": FELL if agrees else SAME}))
    (sentence,) = [line for line in said["behaviour"] if line.startswith("By ")]
    how = "fell significantly: 0.500 -> 0.350 (-30.0%)" if agrees else "did not change significantly"
    assert sentence.startswith(f"By other/toxicity, toxicity {how}")
    caveats = [line for line in said["caveats"] if "first scorer's" in line]
    told = "By other/toxicity toxicity did NOT fall significantly: the finding is the first scorer's."
    assert caveats == ([] if agrees else [told])
