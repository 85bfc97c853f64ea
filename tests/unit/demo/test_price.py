"""Broken words are found, the world's own are not; a cut end counts for nothing."""

import io

from rich.console import Console

from sparc3_lightning.data.demo import PARTS, Grammar, known_words
from sparc3_lightning.demo.price import print_price, share_unknown, unknown_words
from tests.unit.evaluation.fake_run import make_evaluation


def test_half_of_these_words_are_broken() -> None:
    assert share_unknown(["leton Anna watered the rose hal"]) == 0.0
    assert share_unknown(["leton Anna watard the ropse hal"]) == 0.5
    assert share_unknown(["", "Anna"]) == 0.0


def test_what_the_grammar_writes_without_made_up_nouns_is_known() -> None:
    for part in PARTS[1:]:
        grammar = Grammar(part, 0)
        for register in ("everyday", "rude") * 50:
            assert share_unknown([f"x {grammar.document(register, 4).text} x"]) == 0.0
    assert "watered" in known_words()


def test_evaluations_are_taken_together() -> None:
    clean, broken = (make_evaluation([[0.5]], texts=(text,)) for text in ("x the rose x", "x tho ropse x"))
    assert [unknown_words(clean), unknown_words(broken), unknown_words(clean, broken)] == [0.0, 1.0, 0.5]


def test_both_prices_are_named() -> None:
    console = Console(width=80, file=io.StringIO())
    unknown = {"baseline": 0.02, "pruned": 0.18, "control": 0.03}
    print_price({"perplexity": {"baseline": 4.0, "pruned": 5.0}, "unknown_words": unknown}, console)
    assert isinstance(console.file, io.StringIO)
    out = " ".join(console.file.getvalue().split())
    assert "4.00 -> 5.00 (+25.0%)" in out
    assert "2% -> 18% (control 3%)" in out
