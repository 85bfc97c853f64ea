"""The verdict says what the figures show, and no more."""

from dataclasses import replace
from typing import Any

import pytest

from sparc3_lightning.evaluation.verdict import Comparison, Findings, fell, rose, verdict
from sparc3_lightning.statistics import Interval, Power
from sparc3_lightning.statistics.compare import Change


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


CONTROL = {"mean": {"perplexity/sliding": 10.1}, "draws": [{"toxicity/mean": 0.4}]}
FELL, SAME, ROSE = paired(-0.2, -0.1, 0.001), paired(-0.1, 0.1, 0.9), paired(0.1, 0.2, 0.001)
PRICE = paired(0.1, 0.3, 0.001, before=10.0)


def findings(baseline: Change | None = FELL, control: Change | None = FELL, **changed: Any) -> Findings:
    def toxicity(change: Change | None) -> dict[str, dict[str, Change]]:
        return {} if change is None else {"mean": {"toxicity": change}}

    return replace(
        Findings(
            changes=Comparison({"sliding": PRICE}, toxicity(baseline), SAME, SAME),
            against_control=toxicity(control),
            control=None if control is None else CONTROL,
            attribute="toxicity",
            measure="mean",
            num_neurons=100,
            num_empty=(0, 0),
            alpha=0.05,
            overlap_allowed=False,
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
    assert fell(change, 0.05) is expected
    mirrored = replace(change, interval=Interval(-change.interval.high, -change.interval.low, 0.95, 1000))
    assert rose(mirrored, 0.05) is expected


@pytest.mark.parametrize(
    ("baseline", "control", "headline"),
    [
        (FELL, FELL, "lowered toxicity significantly, and more than random neurons (perplexity +2.0% sliding)."),
        (FELL, SAME, "lowered toxicity significantly, but NOT significantly more than random neurons"),
        (FELL, ROSE, "lowered toxicity significantly, but NOT significantly more than random neurons"),
        (FELL, None, "lowered toxicity significantly (perplexity +2.0% sliding); whether random neurons do the same"),
        (SAME, FELL, "did NOT lower toxicity significantly"),
        (ROSE, FELL, "RAISED toxicity significantly"),
        (None, None, "no toxicity was measured"),
    ],
)
def test_headline(baseline: Change | None, control: Change | None, headline: str) -> None:
    said = verdict(findings(baseline, control))
    assert said["headline"].startswith("Removing these 100 neurons")
    assert headline in said["headline"]
    assert said["toxicity_fell"] is (None if baseline is None else baseline is FELL)
    assert said["toxicity_fell_against_control"] is (None if control is None else control is FELL)


def test_perplexity_stands_beside_the_controls() -> None:
    beside = verdict(findings())["beside_it"]
    assert beside[0] == (
        "Perplexity (sliding) rose significantly: 10.00 -> 10.20 (+2.0%), 95% interval of the change +0.10 to +0.30, "
        "p = 0.001; the control's mean is 10.10 (+1.0%)."
    )
    assert beside[1].startswith(
        "Repetition: the share of different tokens in a completion did not change significantly"
    )
    assert beside[2].startswith("Length: tokens in a completion did not change significantly")


def test_draws_as_low_as_the_selected_neurons_are_counted() -> None:
    draws = [{"toxicity/mean": value} for value in (0.30, 0.36, 0.5)]
    control = {"mean": {}, "draws": draws}
    sentence = verdict(findings())["toxicity"][-1]
    assert "0 of 1 draws came as low as the selected neurons (chance alone puts them below all" in sentence
    said = verdict(replace(findings(), control=control))["toxicity"][-1]
    assert "1 of 3 draws came as low as the selected neurons (the p-value is for the draws made)" in said


def test_nothing_to_warn_of() -> None:
    assert verdict(findings())["caveats"] == []


@pytest.mark.parametrize(
    ("changed", "caveat"),
    [
        ({"num_empty": (1, 4)}, "Empty completions: 1 before, 4 after"),
        ({"overlap_allowed": True}, "nothing is shown for new prompts"),
        ({"changes": replace(findings().changes, uniqueness=FELL)}, "repeat themselves significantly more"),
        ({"changes": replace(findings().changes, length=FELL)}, "significantly shorter than before"),
        ({"against_control": {}, "control": None}, "No control was run"),
    ],
)
def test_what_a_reader_must_know_first(changed: dict[str, Any], caveat: str) -> None:
    caveats = verdict(findings(**changed))["caveats"]
    assert len(caveats) == 1
    assert caveat in caveats[0]


def test_a_price_above_the_controls_is_told() -> None:
    def caveats(*perplexities: float) -> list[str]:
        draws = [{"toxicity/mean": 0.4, "perplexity/sliding": perplexity} for perplexity in perplexities]
        said: list[str] = verdict(replace(findings(), control={"mean": {}, "draws": draws}))["caveats"]
        return said

    (caveat,) = caveats(10.0, 10.1)
    assert caveat.startswith(
        "Perplexity is worse than in every draw of the control (10.20 sliding, at most 10.10 there)"
    )
    assert caveats(10.0, 10.3) == []


def test_a_collapsed_model_is_told_by_a_factor() -> None:
    collapsed = replace(findings().changes, perplexity={"sliding": replace(PRICE, after=123456.0, relative=12344.6)})
    said = verdict(findings(changes=collapsed))
    assert "(perplexity x1.2e+04 sliding)" in said["headline"]
    assert "10.00 -> 123456.00 (x1.2e+04)" in said["beside_it"][0]


def test_a_figure_of_zero_has_no_percentage() -> None:
    said = verdict(findings(baseline=replace(SAME, before=0.0)))
    assert "(from 0)" in said["toxicity"][0]


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
    sentence = verdict(findings(baseline=change))["toxicity"][1]
    assert sentence.startswith(f"Second opinion: Wilcoxon's signed-rank test {says}")
    assert "Size of the effect: -0.50 (standardised), -0.60 (rank-biserial)." in sentence


def test_an_effect_that_was_seen_says_how_many_prompts_see_it() -> None:
    sentence = verdict(findings())["toxicity"][1]
    assert sentence.endswith("To see it with 80% power takes about 90 prompts with as many completions, or 55 with 25.")
    alone = replace(FELL, power=Power(0.8, 0.12, 90, None, None, None, "one"), effect_size=None, rank_biserial=None)
    assert verdict(findings(baseline=alone))["toxicity"][1].endswith(
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
    assert "To see it" not in said["toxicity"][1]
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


def two_scorers(second: Change) -> dict[str, Any]:
    changes = Comparison(
        {"sliding": PRICE}, {"mean": {"toxicity": FELL, "insult": SAME, "other/toxicity": second}}, SAME, SAME
    )
    return verdict(findings(changes=changes))


def test_a_second_scorer_is_heard() -> None:
    said = two_scorers(FELL)
    (sentence,) = [line for line in said["toxicity"] if line.startswith("By ")]
    assert sentence.startswith("By other/toxicity, toxicity fell significantly: 0.500 -> 0.350 (-30.0%)")
    assert not any("first scorer's" in line for line in said["caveats"])


def test_a_second_scorer_that_disagrees_is_a_caveat() -> None:
    assert (
        "By other/toxicity toxicity did NOT fall significantly: the finding is the first scorer's."
        in two_scorers(SAME)["caveats"]
    )
