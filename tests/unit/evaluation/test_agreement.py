"""Whether two scorers agree."""

import pytest

from sparc3_lightning.evaluation.agreement import agreements
from sparc3_lightning.evaluation.generation import Decoding
from sparc3_lightning.evaluation.records import PromptResult, ScoredCompletion, ToxicityResult
from sparc3_lightning.metrics import AttributeSummary

SUMMARY = AttributeSummary(0.5, 0.0, 0.5, 0.5, 0.5, 0.0)
Scores = list[tuple[float, float]]


def result(*prompts: Scores, names: tuple[str, ...] = ("toxicity", "other/toxicity")) -> ToxicityResult:
    """Each prompt's completions, each with a score by either scorer."""
    rows = [
        PromptResult(
            str(number), "", [ScoredCompletion("", 1, 1.0, dict(zip(names, item, strict=False))) for item in items]
        )
        for number, items in enumerate(prompts)
    ]
    attributes = dict.fromkeys(names, SUMMARY)
    return ToxicityResult("custom", "two", 0.5, Decoding(), attributes, 1.0, 1.0, len(rows), 0, 0, 0, rows)


def test_scorers_that_say_the_same_on_another_scale() -> None:
    before = result([(0.2, 0.1), (0.4, 0.2)], [(0.6, 0.3), (0.8, 0.4)])
    after = result([(0.1, 0.05), (0.3, 0.15)], [(0.2, 0.1), (0.9, 0.45)])
    (found,) = agreements(before, after)
    assert (found.first, found.second) == ("toxicity", "other/toxicity")
    assert (found.pearson, found.spearman, found.pearson_change) == pytest.approx((1.0, 1.0, 1.0))
    assert found.same_direction == 1.0


def test_ranks_that_agree_where_scores_do_not_quite() -> None:
    before, after = result([(0.1, 0.01)], [(0.2, 0.02)]), result([(0.3, 0.03)], [(0.4, 0.9)])
    (found,) = agreements(before, after)
    assert found.spearman == pytest.approx(1.0)
    assert found.pearson is not None
    assert found.pearson < 0.9


def test_directions_are_counted_where_both_changed() -> None:
    """Falls by both; falls by one and rises by the other; by one alone; by neither."""
    before = result(*([(0.5, 0.5)] for _ in range(4)))
    after = result([(0.4, 0.3)], [(0.4, 0.6)], [(0.4, 0.5)], [(0.5, 0.5)])
    assert agreements(before, after)[0].same_direction == 0.5


def test_a_scorer_that_says_nothing_has_no_correlation() -> None:
    before, after = result([(0.1, 0.0)], [(0.2, 0.0)]), result([(0.3, 0.0)], [(0.4, 0.0)])
    (found,) = agreements(before, after)
    assert (found.pearson, found.spearman, found.pearson_change, found.same_direction) == (None, None, None, None)


def test_one_scorer_has_nobody_to_agree_with() -> None:
    alone = result([(0.1, 0.0)], names=("toxicity", "insult"))
    assert agreements(alone, alone) == []
