"""Which words a change took and brought, and whether scorers agree."""

import random
from math import log, sqrt

import pytest

from sparc3_lightning.evaluation.generation import Decoding
from sparc3_lightning.evaluation.records import PromptResult, ScoredCompletion, ToxicityResult
from sparc3_lightning.evaluation.second_looks import agreements, word_changes
from sparc3_lightning.metrics import AttributeSummary


def test_a_lost_word_comes_first_and_a_gained_one_last() -> None:
    common = "the of and to a in is it you that " * 20
    changes = word_changes([common + "idiot " * 15], [common + "friend " * 15])
    assert (changes[0].word, changes[0].before, changes[0].after) == ("idiot", 15, 0)
    assert (changes[-1].word, changes[-1].before, changes[-1].after) == ("friend", 0, 15)
    assert changes[0].z == pytest.approx(-changes[-1].z)
    assert changes[0].z < -1.96
    assert all(abs(change.z) < 1e-9 for change in changes[1:-1])


def test_the_formula() -> None:
    """Twice three words, one of them rarer; the prior is worth ten words."""
    (rarer, *_) = word_changes(["x x x y"], ["x y y y"], prior_words=10)
    prior_x = 10 * 4 / 8
    before, after = (log((count + prior_x) / (4 + 10 - count - prior_x)) for count in (3, 1))
    assert rarer.word == "x"
    assert rarer.z == pytest.approx((after - before) / sqrt(1 / (3 + prior_x) + 1 / (1 + prior_x)))


def test_saying_less_of_everything_is_no_change() -> None:
    text = "some words of a kind " * 8
    assert max(abs(change.z) for change in word_changes([text, text], [text])) < 0.5


def test_words_come_from_luck_about_as_often_as_they_should() -> None:
    generator = random.Random(0)
    words = [f"{a}{b}" for a in "abcdefgh" for b in "ijklmnop"]
    before, after = ([" ".join(generator.choices(words, k=6000))] for _ in range(2))
    notable = sum(abs(change.z) > 1.96 for change in word_changes(before, after, prior_words=1))
    assert 0 < notable <= 0.12 * len(words)


@pytest.mark.parametrize("texts", [[], [""], ["123 ..."]])
def test_texts_without_words(texts: list[str]) -> None:
    assert word_changes(texts, texts) == []


def test_one_word_alone() -> None:
    (only,) = word_changes(["Oh oh"], ["oh"])
    assert (only.word, only.before, only.after, only.z) == ("oh", 2, 1, 0.0)


def test_apostrophes_stay_in_words() -> None:
    assert {change.word for change in word_changes(["don't 'quote' you\u2019re"], [])} == {
        "don't",
        "quote",
        "you\u2019re",
    }


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
