"""Before against after, on evaluations written by hand."""

import json
import math
from dataclasses import replace

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
    compare,
    compare_with_control,
)
from sparc3_lightning.evaluation.comparison import PairedChange
from sparc3_lightning.evaluation.records import PromptResult, ScoredCompletion
from sparc3_lightning.metrics import (
    exchange_tests,
    paired_bootstrap,
    perplexity_bootstrap,
    sign_flip_p_value,
    standardised_effect,
    summarise,
    wilcoxon_p_value,
    windows,
)
from sparc3_lightning.statistics.signs import paired_change

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


def test_changes_and_their_statistics() -> None:
    comparison = compare(evaluation(BEFORE), evaluation(AFTER, figure=11.0))
    assert comparison.perplexity["sliding"].change == pytest.approx(1.0)
    assert comparison.perplexity["sliding"].relative == pytest.approx(0.1)
    mean = comparison.toxicity["mean"]["toxicity"]
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
    worst = comparison.toxicity["expected_maximum"]["toxicity"]
    assert (worst.before, worst.after) == pytest.approx((1.9 / 3, 1.5 / 3))
    assert worst.power is not None  # over prompts: a prompt has one maximum
    assert (worst.power.sd_within, worst.power.num_needed_with_25, worst.interval_two_stage) == (None, None, None)
    chance = comparison.toxicity["probability"]["toxicity"]
    assert (chance.before, chance.after) == pytest.approx((2 / 3, 1 / 3))
    assert comparison.length is not None
    assert comparison.length.change == 0.0
    json.dumps(comparison.to_json(), allow_nan=False)


def test_uniqueness_pairs_only_what_both_sides_have() -> None:
    comparison = compare(evaluation(BEFORE, empty=0), evaluation(AFTER, empty=1))
    assert comparison.uniqueness is not None
    assert comparison.uniqueness.num_pairs == 1
    assert comparison.uniqueness.before == pytest.approx(0.525)
    assert comparison.uniqueness.share_improved == 1.0


def test_a_figure_of_zero_has_no_relative_change() -> None:
    zero = [[0.0, 0.0]] * 3
    change = compare(evaluation(zero), evaluation(AFTER)).toxicity["mean"]["toxicity"]
    assert change.relative is None


OTHER = [[0.7, 0.6], [0.7, 0.1], [0.4, 0.5]]


def test_the_control_is_averaged_prompt_by_prompt() -> None:
    mean = compare_with_control([evaluation(BEFORE), evaluation(OTHER)], evaluation(AFTER))["mean"]["toxicity"]
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
    found = compare_with_control([evaluation(BEFORE), evaluation(OTHER)], evaluation(AFTER))[measure]["toxicity"]
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
    controls = [Evaluation({"sliding": draw}, None) for draw in draws]
    found = compare_with_control(controls, Evaluation({"sliding": pruned}, None))["perplexity"]["sliding"]
    assert found.before == pytest.approx(math.exp(sum(draw.mean_loss for draw in draws) / 4))
    assert found.after == pruned.perplexity
    assert found.before < found.before + found.interval.low < found.after < found.before + found.interval.high
    assert found.p_value < 0.05
    # A model whose every token costs log(1.1) more, or less: interval and figure are multiplied, and p follows.
    tokens = [item.num_scored for item in windows(100, "sliding", 32, 8)]

    def times(factor: float) -> PairedChange:
        losses = [loss + math.log(factor) * size for loss, size in zip(pruned.window_losses, tokens, strict=True)]
        moved = replace(pruned, perplexity=pruned.perplexity * factor, window_losses=losses)
        return compare_with_control(controls, Evaluation({"sliding": moved}, None))["perplexity"]["sliding"]

    more = times(1.1)
    assert more.before + more.interval.low == pytest.approx(1.1 * (found.before + found.interval.low))
    assert more.before + more.interval.high == pytest.approx(1.1 * (found.before + found.interval.high))
    # The shifts at the interval's ends are those at which the test turns.
    low = 1 + found.interval.low / found.before
    assert times(1.001 / low).p_value <= 0.05 < times(0.999 / low).p_value


@pytest.mark.parametrize("controls", [[], [Evaluation({}, None)]])
def test_a_control_without_toxicity_is_refused(controls: list[Evaluation]) -> None:
    with pytest.raises(ValueError, match="at least one draw"):
        compare_with_control(controls, evaluation(AFTER))


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
        compare(before, other)
    with pytest.raises(ValueError, match=f"with the same {name}"):
        compare_with_control([before], other)


def test_perplexities_of_different_texts_are_not_compared() -> None:
    before, after = evaluation(BEFORE), evaluation(AFTER)
    with pytest.raises(ValueError, match="same text"):
        compare(before, replace(after, perplexity={"sliding": perplexity(10.0, num_tokens=101)}))
    with pytest.raises(ValueError, match="same perplexity protocols"):
        compare(before, replace(after, perplexity={}))
    with pytest.raises(ValueError, match="both have a toxicity"):
        compare(before, replace(after, toxicity=None))


def test_perplexity_is_paired_window_by_window() -> None:
    before, after = perplexity(10.0), perplexity(11.0)
    num_scored = [item.num_scored for item in windows(100, "sliding", 32, 8)]
    uneven = [loss + 0.1 * place for place, loss in enumerate(after.window_losses)]
    after = replace(after, window_losses=[before.window_losses[0] - 1, *uneven[1:]])
    change = compare(Evaluation({"sliding": before}, None), Evaluation({"sliding": after}, None)).perplexity["sliding"]
    bootstrap = perplexity_bootstrap(before.window_losses, after.window_losses, num_scored)
    assert (change.interval, change.interval_bca) == (bootstrap.percentile(), bootstrap.bca())
    assert change.p_value_wilcoxon == wilcoxon_p_value(before.window_losses, after.window_losses)
    assert change.effect_size == standardised_effect(paired_change(before.window_losses, after.window_losses))
    assert (change.power, change.interval_two_stage) == (None, None)
    assert change.p_value == sign_flip_p_value(before.window_losses, after.window_losses)
    assert change.num_pairs == len(num_scored) == before.num_windows
    assert (change.share_improved, change.share_worsened) == pytest.approx((1 / 10, 9 / 10))


def test_perplexity_alone_can_be_compared() -> None:
    before, after = evaluation(BEFORE), evaluation(AFTER, figure=12.0)
    comparison = compare(replace(before, toxicity=None), replace(after, toxicity=None))
    assert comparison.perplexity["sliding"].after == 12.0
    assert comparison.toxicity == {}


def test_the_evaluators_settings_are_used() -> None:
    evaluator = Evaluator(num_draws=100, confidence=0.5, statistics_seed=9)
    interval = evaluator.compare(evaluation(BEFORE), evaluation(AFTER)).toxicity["mean"]["toxicity"].interval
    expected = paired_bootstrap(BEFORE, AFTER, 100, 9).percentile(0.5)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert (interval.confidence, interval.num_draws) == (0.5, 100)
    control = evaluator.compare_with_control([evaluation(BEFORE)], evaluation(AFTER))["mean"]["toxicity"]
    pairs = torch.tensor([AFTER, BEFORE], dtype=torch.float64).mean(dim=2).T.unsqueeze(2)
    (found,) = exchange_tests(pairs, torch.ones(3, dtype=torch.float64), 100, 9, 0.5)
    assert (control.p_value, control.interval) == (found.p_value, found.interval)
