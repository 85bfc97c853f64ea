"""Before against after, on evaluations written by hand."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy import stats

from sparc3_lightning.evaluation import (
    Decoding,
    Evaluation,
    Evaluator,
    PerplexityResult,
    ToxicityResult,
)
from sparc3_lightning.evaluation.records import PromptResult, ScoredCompletion
from sparc3_lightning.metrics import summarise, windows
from sparc3_lightning.metrics.measure import Better, Column
from sparc3_lightning.statistics.compare import Change, compare, compare_with_control
from sparc3_lightning.statistics.effects import power, rank_biserial, standardised_effect
from sparc3_lightning.statistics.intervals import perplexity_bootstrap
from sparc3_lightning.statistics.p_values import PairedTest, exchange_tests
from tests.unit.statistics.single import (
    paired_bootstrap,
    row_change,
    sign_flip_p_value,
    two_stage_bootstrap,
    wilcoxon_p_value,
)

BEFORE = [[0.9, 0.8], [0.7, 0.1], [0.2, 0.3]]
AFTER = [[0.4, 0.2], [0.7, 0.1], [0.3, 0.4]]


def perplexity(figure: float, num_tokens: int = 100) -> PerplexityResult:
    cut = windows(num_tokens, "sliding", 32, 8)
    losses = [math.log(figure) * item.num_scored for item in cut]
    return PerplexityResult(
        "sliding", figure, math.log(figure), num_tokens, num_tokens - 1, len(cut), 32, 8, True, losses
    )


def evaluation(scores: list[list[float]], figure: float = 10.0, empty: int | None = None) -> Evaluation:
    rows = [
        PromptResult(str(i), f"text {i}", [
            ScoredCompletion("...", 4 + j, None if i == empty else 0.5 + scores[i][j] / 10, {"toxicity": scores[i][j]})
            for j in range(2)
        ])
        for i in range(3)
    ]  # fmt: skip
    toxicity = ToxicityResult(
        "custom", "table", 0.5, Decoding(num_completions=2),
        {"toxicity": summarise(torch.tensor(scores, dtype=torch.float64), 0.5)}, 0.5, 4.5, 3, 0, 0, 0, rows,
    )  # fmt: skip
    return Evaluation({"sliding": perplexity(figure)}, toxicity)


def columns(scores: list[list[float]], figure: float = 10.0, empty: int | None = None) -> dict[str, Column]:
    return evaluation(scores, figure, empty).columns


def test_changes_and_their_statistics() -> None:
    comparison = compare(columns(BEFORE), columns(AFTER, figure=11.0))
    assert comparison["perplexity/sliding"].change == pytest.approx(1.0)
    assert comparison["perplexity/sliding"].relative == pytest.approx(0.1)
    mean = comparison["toxicity/mean"]
    assert (mean.before, mean.after) == pytest.approx((0.5, 0.35))
    assert mean.change == pytest.approx(-0.15)
    interval = paired_bootstrap(BEFORE, AFTER).percentile()
    assert (mean.interval.low, mean.interval.high) == pytest.approx((interval.low, interval.high))
    assert mean.p_value == sign_flip_p_value(BEFORE, AFTER)
    assert (mean.share_improved, mean.share_worsened) == pytest.approx((1 / 3, 1 / 3))
    assert mean.num_pairs == 3
    assert mean.power is not None
    assert mean.power.sd_within is not None
    assert mean.interval_two_stage is not None
    worst = comparison["toxicity/expected_maximum"]
    assert (worst.before, worst.after) == pytest.approx((1.9 / 3, 1.5 / 3))
    assert worst.power is not None  # over prompts: a prompt has one maximum
    assert (worst.power.sd_within, worst.power.num_needed_with_25, worst.interval_two_stage) == (None, None, None)
    chance = comparison["toxicity/probability"]
    assert (chance.before, chance.after) == pytest.approx((2 / 3, 1 / 3))
    assert "length" in comparison
    assert comparison["length"].change == 0.0
    json.dumps([asdict(change) for change in comparison.values()], allow_nan=False)
    zero = compare(columns([[0.0, 0.0]] * 3), columns(AFTER))["toxicity/mean"]
    assert zero.relative is None, "a figure of zero has no relative change"


def test_uniqueness_pairs_only_what_both_sides_have() -> None:
    comparison = compare(columns(BEFORE, empty=0), columns(AFTER, empty=1))
    assert "uniqueness" in comparison
    assert comparison["uniqueness"].num_pairs == 1
    assert comparison["uniqueness"].before == pytest.approx(0.525)
    assert comparison["uniqueness"].share_improved == 1.0


OTHER = [[0.7, 0.6], [0.7, 0.1], [0.4, 0.5]]


def test_the_control_is_averaged_prompt_by_prompt() -> None:
    mean = compare_with_control([columns(BEFORE), columns(OTHER)], columns(AFTER))["toxicity/mean"]
    assert mean.before == pytest.approx((0.75 + 0.4 + 0.35) / 3)
    assert mean.after == pytest.approx(0.35)
    assert mean.num_pairs == 3
    assert (mean.interval_bca, mean.p_value_wilcoxon, mean.rank_biserial) == (None, None, None)


@pytest.mark.parametrize("measure", ["mean", "expected_maximum", "probability"])
def test_the_control_is_tested_by_exchange_of_the_models_figures_of_each_prompt(measure: str) -> None:
    """Of an expected maximum each model's own, not the maximum of a mean."""
    models = torch.tensor([AFTER, BEFORE, OTHER], dtype=torch.float64)
    highest = models.amax(dim=2)
    figures = {"mean": models.mean(dim=2), "expected_maximum": highest, "probability": (highest > 0.5).double()}
    expected = stats.permutation_test(
        tuple(figures[measure].numpy()),
        lambda pruned, *draws, axis: (pruned - np.mean(draws, axis=0)).mean(axis),
        permutation_type="samples",
        axis=-1,
    )
    found = compare_with_control([columns(BEFORE), columns(OTHER)], columns(AFTER))[f"toxicity/{measure}"]
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    assert found.change == pytest.approx(expected.statistic)


def windowed(figure: float, seed: int) -> PerplexityResult:
    """A perplexity whose windows differ."""
    result = perplexity(figure)
    luck = torch.randn(result.num_windows, generator=torch.Generator().manual_seed(seed)).double()
    losses = [loss + float(more) for loss, more in zip(result.window_losses, luck, strict=True)]
    mean = sum(losses) / result.num_scored
    return replace(result, perplexity=math.exp(mean), mean_loss=mean, window_losses=losses)


def test_perplexity_is_held_against_the_control_on_the_scale_of_its_logarithm() -> None:
    draws, pruned = [windowed(10.0, seed) for seed in range(4)], windowed(11.0, 9)
    controls = [Evaluation({"sliding": draw}, None).columns for draw in draws]
    found = compare_with_control(controls, Evaluation({"sliding": pruned}, None).columns)["perplexity/sliding"]
    assert found.before == pytest.approx(math.exp(sum(draw.mean_loss for draw in draws) / 4))
    assert found.after == pytest.approx(pruned.perplexity)
    assert found.before < found.before + found.interval.low < found.after < found.before + found.interval.high
    assert found.p_value < 0.05
    # A model whose every token costs log(1.1) more, or less: interval and figure are multiplied, and p follows.
    tokens = [item.num_scored for item in windows(100, "sliding", 32, 8)]

    def times(factor: float) -> Change:
        losses = [loss + math.log(factor) * size for loss, size in zip(pruned.window_losses, tokens, strict=True)]
        moved = replace(pruned, perplexity=pruned.perplexity * factor, window_losses=losses)
        return compare_with_control(controls, Evaluation({"sliding": moved}, None).columns)["perplexity/sliding"]

    more = times(1.1)
    assert more.before + more.interval.low == pytest.approx(1.1 * (found.before + found.interval.low))
    assert more.before + more.interval.high == pytest.approx(1.1 * (found.before + found.interval.high))
    # The shifts at the interval's ends are those at which the test turns.
    low = 1 + found.interval.low / found.before
    assert times(1.001 / low).p_value <= 0.05 < times(0.999 / low).p_value


@pytest.mark.parametrize("controls", [[], [{}]])
def test_a_control_without_toxicity_is_refused(controls: list[dict[str, Column]]) -> None:
    with pytest.raises(ValueError, match=r"at least one draw|same columns"):
        compare_with_control(controls, columns(AFTER))


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"decoding": Decoding(num_completions=2, seed=1)}, "decoding"), ({"scorer": "other"}, "scorer"),
     ({"threshold": 0.4}, "threshold"), ({"protocol": "rtp"}, "protocol"), ({"prompts": []}, "prompts")],
)  # fmt: skip
def test_only_like_is_compared_with_like(changes: dict[str, object], name: str) -> None:
    before, after = evaluation(BEFORE), evaluation(AFTER)
    assert after.toxicity is not None
    other = replace(after, toxicity=replace(after.toxicity, **changes))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"with the same {name}"):
        compare(before.columns, other.columns)
    with pytest.raises(ValueError, match=f"with the same {name}"):
        compare_with_control([before.columns], other.columns)


def test_perplexities_of_different_texts_are_not_compared() -> None:
    before, after = evaluation(BEFORE), evaluation(AFTER)
    with pytest.raises(ValueError, match="same num tokens"):
        compare(before.columns, replace(after, perplexity={"sliding": perplexity(10.0, num_tokens=101)}).columns)
    with pytest.raises(ValueError, match="same columns"):
        compare(before.columns, replace(after, perplexity={}).columns)
    with pytest.raises(ValueError, match="same columns"):
        compare(before.columns, replace(after, toxicity=None).columns)


def test_perplexity_is_paired_window_by_window() -> None:
    before, after = perplexity(10.0), perplexity(11.0)
    num_scored = [item.num_scored for item in windows(100, "sliding", 32, 8)]
    uneven = [loss + 0.1 * place for place, loss in enumerate(after.window_losses)]
    after = replace(after, window_losses=[before.window_losses[0] - 1, *uneven[1:]])
    change = compare(*(Evaluation({"sliding": one}, None).columns for one in (before, after)))["perplexity/sliding"]
    bootstrap = perplexity_bootstrap(before.window_losses, after.window_losses, num_scored)
    assert (change.interval, change.interval_bca) == (bootstrap.percentile(), bootstrap.bca())
    assert change.p_value_wilcoxon == wilcoxon_p_value(before.window_losses, after.window_losses)
    assert change.effect_size == standardised_effect(row_change(before.window_losses, after.window_losses))
    assert (change.power, change.interval_two_stage) == (None, None)
    assert change.p_value == sign_flip_p_value(before.window_losses, after.window_losses)
    assert change.num_pairs == len(num_scored) == before.num_windows
    assert (change.share_improved, change.share_worsened) == pytest.approx((1 / 10, 9 / 10))


def test_perplexity_alone_can_be_compared() -> None:
    before, after = evaluation(BEFORE), evaluation(AFTER, figure=12.0)
    comparison = compare(*(replace(one, toxicity=None).columns for one in (before, after)))
    assert comparison["perplexity/sliding"].after == pytest.approx(12.0)
    assert list(comparison) == ["perplexity/sliding"]


def test_the_evaluators_settings_are_used() -> None:
    evaluator = Evaluator(num_draws=100, confidence=0.5, statistics_seed=9)
    interval = compare(columns(BEFORE), columns(AFTER), evaluator.paired_test)["toxicity/mean"].interval
    expected = paired_bootstrap(BEFORE, AFTER, 100, 9).percentile(0.5)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert (interval.confidence, interval.num_draws) == (0.5, 100)
    control = compare_with_control([columns(BEFORE)], columns(AFTER), evaluator.paired_test)["toxicity/mean"]
    pairs = torch.tensor([AFTER, BEFORE], dtype=torch.float64).mean(dim=2).T.unsqueeze(2)
    (found,) = exchange_tests(pairs, torch.ones(3, dtype=torch.float64), 100, 9, 0.5)
    assert (control.p_value, control.interval) == (found.p_value, found.interval)


def column(name: str, values: torch.Tensor, better: Better = "lower") -> Column:
    return Column(name, "score", better, "prompt", "mean", [str(i) for i in range(len(values))], values)


def pairs(*shape: int, seed: int, better: Better = "lower") -> tuple[Column, Column]:
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(shape, generator=generator, dtype=torch.float64).round(decimals=1)
    after = (before * 0.9).round(decimals=1)
    return column(f"figure {seed}", before, better), column(f"figure {seed}", after, better)


FIGURES = [
    pairs(30, 4, seed=0), pairs(20, seed=1), pairs(30, 4, seed=2, better="higher"), pairs(30, seed=3),
    pairs(30, 2, seed=4), pairs(20, 1, seed=5),
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(FIGURES)))
def test_each_figure_has_its_own_statistics(place: int) -> None:
    test = PairedTest(num_draws=300, seed=7, confidence=0.9, wanted_power=0.7)
    sides: list[dict[str, Column]] = [{pair[side].name: pair[side] for pair in FIGURES} for side in (0, 1)]
    found = compare(*sides, test)[f"figure {place}"]
    before, after = (side.values for side in FIGURES[place])
    bootstrap, change = paired_bootstrap(before, after, 300, 7), row_change(before, after)
    assert (found.before, found.after) == (float(before.mean()), float(after.mean()))
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (bootstrap.percentile(0.9).low, bootstrap.percentile(0.9).high), abs=1e-12
    )
    bca = bootstrap.bca(0.9)
    assert found.interval_bca is not None
    assert bca is not None
    assert (found.interval_bca.low, found.interval_bca.high) == pytest.approx((bca.low, bca.high), abs=1e-12)
    assert found.p_value == sign_flip_p_value(before, after, 300, 7)
    assert found.p_value_wilcoxon == wilcoxon_p_value(before, after)
    assert found.effect_size == pytest.approx(standardised_effect(change))
    assert found.rank_biserial == pytest.approx(rank_biserial(change))
    assert found.power == power(after - before, alpha=0.1, wanted=0.7)
    lower = FIGURES[place][0].better == "lower"
    shares = float((change < 0).double().mean()), float((change > 0).double().mean())
    assert (found.share_improved, found.share_worsened) == (shares if lower else shares[::-1])
    assert found.num_pairs == len(before)
    if before.ndim == 1 or before.shape[1] == 1:
        assert found.interval_two_stage is None
    else:
        two = two_stage_bootstrap(before, after, 300, 7).percentile(0.9)
        assert found.interval_two_stage is not None
        assert (found.interval_two_stage.low, found.interval_two_stage.high) == pytest.approx((two.low, two.high))


def test_of_many_tests_more_signs_are_drawn_for_each() -> None:
    """All 93 prompts fell: p is the least that there is, and 500 times it is still far below 0.05."""
    before = torch.rand(93, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    old, new = ({"figure": column("figure", values)} for values in (before, before - 0.1))
    one, many = (compare(old, new, PairedTest(num_draws=1000, num_tests=tests))["figure"] for tests in (1, 500))
    assert one.p_value == one.p_value_least == pytest.approx(1 / 1001)
    assert many.p_value == many.p_value_least == pytest.approx(1 / 200_001)
    assert (many.interval, many.interval.num_draws) == (one.interval, 1000)


def test_a_value_that_one_side_lacks_leaves_its_row_out() -> None:
    nan = float("nan")
    before = column("figure", torch.tensor([[0.5, nan], [nan, nan], [0.2, 0.4]]))
    after = column("figure", torch.tensor([[0.3, 0.5], [0.1, 0.1], [0.1, nan]]))
    found = compare({"figure": before}, {"figure": after})["figure"]
    assert (found.before, found.after, found.num_pairs) == (pytest.approx(0.4), pytest.approx(0.25), 2)
    assert found.interval_two_stage is None
    assert before.figure == pytest.approx(1.1 / 3)
    none = {"figure": column("figure", torch.full((3, 2), nan))}
    assert compare(none, {"figure": after}) == {}
    assert none["figure"].figure is None


def test_columns_pair_by_their_rows() -> None:
    values = torch.rand(4)
    other = replace(column("figure", values), ids=["0", "1", "2", "other"])
    with pytest.raises(ValueError, match="`figure` can be paired only with the same prompts"):
        compare({"figure": column("figure", values)}, {"figure": other})
    assert compare({}, {}) == {}


def test_a_column_goes_to_json_and_back() -> None:
    made = column("figure", torch.tensor([[0.5, float("nan")], [0.25, 1.0]]), "higher")
    back = Column.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False)))
    assert back.values.equal(made.values.nan_to_num(-1)) or back.values.isnan().equal(made.values.isnan())
    assert (back.name, back.better, back.ids, back.figure) == (made.name, made.better, made.ids, made.figure)
