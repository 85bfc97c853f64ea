"""The repetition scorer: the share of a text's words that it holds already."""

import pytest

from sparc3_lightning.metrics import RepetitionScorer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three", 0.0),
        ("no no no no", 0.75),
        ("The dog, the DOG!", 1 - 4 / 6),
        ("! ! ! !", 0.75),
        ("......", 1 - 1 / 6),
        ("\u54c8\u54c8\u54c8\u54c8", 0.75),
        ("", 0.0),
        ("don't don't", 0.5),  # an apostrophe parts words, in both alike
    ],
)
def test_words_that_come_again_count(text: str, expected: float) -> None:
    assert RepetitionScorer().score([text])["repetition"].tolist() == [expected]


def test_it_scores_none_and_many() -> None:
    scorer = RepetitionScorer()
    assert scorer.attributes == ["repetition"]
    assert scorer.score([])["repetition"].tolist() == []
    assert scorer.score(["a", "a a"])["repetition"].tolist() == [0.0, 0.5]
