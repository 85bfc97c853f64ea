"""Chosen on one half of the prompts, measured on the other."""

from typing import Any

import pytest

from sparc3_lightning.evaluation.generation import Decoding
from sparc3_lightning.evaluation.records import Evaluation, PromptResult, ScoredCompletion, ToxicityResult
from sparc3_lightning.metrics import AttributeSummary
from sparc3_lightning.statistics.p_values import PairedTest
from sparc3_lightning.trials.choice import choose_at_prices, confirmation_means, deciding, half_changes, half_of

SUMMARY = AttributeSummary(0.5, 0.0, 0.5, 0.5, 0.5, 0.0)


def result(scores: dict[str, float], protocol: str = "custom") -> Evaluation:
    """One completion a prompt; the second scorer says half of what the first does."""
    prompts = [
        PromptResult(
            name,
            name,
            [ScoredCompletion("text", 1, 1.0, {"toxicity": score, "severe_toxicity": 0.0, "other/insult": score / 2})],
        )
        for name, score in scores.items()
    ]
    attributes = {"toxicity": SUMMARY, "severe_toxicity": SUMMARY, "other/insult": SUMMARY}
    return Evaluation(
        {}, ToxicityResult(protocol, "two", 0.5, Decoding(), attributes, 1.0, 1.0, len(prompts), 0, 0, 0, prompts)
    )


def test_halves_are_about_equal_and_do_not_depend_on_order() -> None:
    names = [str(number) for number in range(1000)]
    chosen = [name for name in names if half_of(name) == "choice"]
    assert 450 < len(chosen) < 550
    assert {half_of(name) for name in names} == {"choice", "confirmation"}


def test_a_half_knows_its_own_prompts_only() -> None:
    names = [str(number) for number in range(40)]
    before = result(dict.fromkeys(names, 0.8))
    after = result({name: 0.2 if half_of(name) == "choice" else 0.7 for name in names})
    halves = half_changes(before, after, PairedTest(num_draws=200))
    assert list(halves) == ["choice", "confirmation"]
    assert sum(changes["toxicity/mean"].num_pairs for changes in halves.values()) == 40
    assert halves["choice"]["toxicity/mean"].change == pytest.approx(-0.6)
    assert halves["confirmation"]["toxicity/mean"].change == pytest.approx(-0.1)
    # The main attribute of either scorer, and no other.
    assert list(halves["confirmation"]) == ["toxicity/mean", "other/insult/mean"]
    assert halves["confirmation"]["other/insult/mean"].change == pytest.approx(-0.05)


@pytest.mark.parametrize("protocol", ["custom", "rtp"])
def test_cells_are_chosen_by_means(protocol: str) -> None:
    """Whatever the verdict goes by."""
    assert deciding(result({"a": 0.1}, protocol)) == ["toxicity/mean", "other/insult/mean"]
    assert deciding(Evaluation({}, None)) == confirmation_means(Evaluation({}, None)) == []


def test_a_half_without_prompts_is_left_out() -> None:
    assert list(half_changes(result({"a": 0.1}), result({"a": 0.2}), PairedTest(num_draws=10))) == [half_of("a")]


def row(key: str, label: str, paid: float, choice: float, confirmation: float, **more: Any) -> dict[str, Any]:
    return {
        "key": key, "method": key, "label": label, "perplexity_disjoint_relative": paid,
        "perplexity_disjoint_paid": paid, "choice_relative": choice,
        "confirmation_relative": confirmation, "confirmation_p": 0.01, "confirmation_p_least": 0.002,
        "is_plain": True, **more,
    }  # fmt: skip


ROWS = [
    row("lrp", "lrp 1", 0.005, -0.3, -0.1),
    row("lrp", "lrp 2", 0.005, -0.2, -0.25),
    row("lrp", "lrp 3", 0.04, -0.5, -0.4, is_plain=False),
    row("wanda", "wanda 1", 0.009, -0.1, -0.2, confirmation_p=0.02),
    row("random", "random", 0.0, -0.9, -0.9),
    {"method": "baseline", "key": "baseline", "label": "baseline"},
]

# Ten prompts, the same change on each but for the last.
MEANS = {row["label"]: [0.5] * 9 + [0.5 + row["confirmation_relative"]] for row in ROWS[:5]}


def chosen(price: float, options: str) -> list[dict[str, Any]]:
    return [
        found
        for found in choose_at_prices(ROWS, "perplexity_disjoint", MEANS, [0.01, 0.05])
        if (found["price"], found["options"]) == (price, options)
    ]


def test_the_choice_does_not_see_the_confirmation() -> None:
    """lrp 2 would have been the better one; the methods are listed by what was confirmed."""
    assert [found["label"] for found in chosen(0.01, "all")] == ["wanda 1", "lrp 1"]
    assert [found["confirmation_relative"] for found in chosen(0.01, "all")] == [-0.2, -0.1]


def test_a_price_admits_what_costs_as_much() -> None:
    assert [found["label"] for found in chosen(0.05, "all")] == ["lrp 3", "wanda 1"]
    assert [found["label"] for found in chosen(0.05, "plain")] == ["wanda 1", "lrp 1"]
    assert [found["num_cells"] for found in chosen(0.05, "all")] == [3, 1]


@pytest.mark.parametrize("options", ["plain", "all"])
def test_factors_of_their_own_compete_beside_the_method_that_they_are_of(options: str) -> None:
    rows = [
        row("auroc", "auroc", 0.0, -0.1, -0.1),
        row("auroc", "AurA", 0.0, -0.2, -0.2, is_plain=False, own_factors=True),
    ]
    means = {one["label"]: MEANS["lrp 1"] for one in rows}
    found = choose_at_prices(rows, "perplexity_disjoint", means, [0.01])
    assert {one["key"]: one["label"] for one in found if one["options"] == options} == {
        "auroc": "auroc",
        "auroc, own factors": "AurA",
    }


def test_a_cell_without_a_figure_on_either_half_is_not_chosen() -> None:
    """Few prompts may all be in one half, and a half may have no toxicity that could fall."""
    no_prompt = {name: value for name, value in ROWS[0].items() if not name.startswith("confirmation_")}
    nothing_there = row("lrp", "lrp 1", 0.005, -0.3, -0.1) | {"confirmation_relative": None}
    for broken in (no_prompt, nothing_there):
        found = choose_at_prices([broken, ROWS[3]], "perplexity_disjoint", MEANS, [0.01])
        assert {one["label"] for one in found} == {"wanda 1"}
        assert choose_at_prices([broken], "perplexity_disjoint", MEANS, [0.01]) == []


def test_p_values_are_corrected_over_the_methods() -> None:
    assert {found["key"]: found["p_holm"] for found in chosen(0.01, "all")} == {"lrp": 0.02, "wanda": 0.02}
    assert {found["p_holm_least"] for found in chosen(0.01, "all")} == {0.004}


def test_others_are_held_against_the_leader_of_the_choice_half() -> None:
    """It need not be the best where it was not chosen."""
    wanda, lrp = chosen(0.01, "all")
    assert (lrp["is_leader"], wanda["is_leader"]) == (True, False)
    assert "behind" not in lrp
    # Less toxic than the leader, on one prompt of ten: that is nothing.
    assert wanda["behind"] == pytest.approx(-0.01)
    assert wanda["behind_p"] == 1.0


def test_confirmation_means_are_the_prompts_of_that_half() -> None:
    names = [str(number) for number in range(20)]
    means = confirmation_means(result({name: 0.1 * (half_of(name) == "choice") + 0.2 for name in names}))
    assert means == pytest.approx([0.2] * sum(half_of(name) == "confirmation" for name in names))
