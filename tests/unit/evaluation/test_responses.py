"""Scores of texts are kept once, whoever asks."""

from pathlib import Path
from unittest import mock

from sparc3_lightning.evaluation.responses import PROBES, TextScores, score_texts_once
from sparc3_lightning.metrics.scorers import LexicalScorer


def test_scorers_that_are_alike_share_a_file(tmp_path: Path) -> None:
    scores = TextScores(tmp_path, lambda name: [])
    one, alike, other = LexicalScorer(["idiot"]), LexicalScorer(["idiot"]), LexicalScorer(["river"])
    with mock.patch.object(one, "score", wraps=one.score) as asked:
        assert scores.store_of(one) is scores.store_of(one)
    asked.assert_called_once_with(PROBES)
    assert scores.store_of(alike) is scores.store_of(one)
    assert scores.store_of(other) is not scores.store_of(one)
    assert score_texts_once(["an idiot", "a river"], scores.store_of(one), one) == [1.0, 0.0]
    with mock.patch.object(alike, "score", side_effect=AssertionError):
        assert score_texts_once(["a river"], scores.store_of(alike), alike) == [0.0]
    assert len(list(tmp_path.iterdir())) == 1


def test_each_attribute_s_scores_have_a_file(tmp_path: Path) -> None:
    scores, one = TextScores(tmp_path, lambda name: []), LexicalScorer(["idiot"], attribute="insult")
    for attribute in (None, "insult"):
        assert score_texts_once(["an idiot"], scores.store_of(one, attribute), one, attribute) == [1.0]
    assert scores.store_of(one) is not scores.store_of(one, "insult")
    assert len(list(tmp_path.iterdir())) == 2
