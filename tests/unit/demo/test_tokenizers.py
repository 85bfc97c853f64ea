"""The demo's tokenizers: the same from the same texts, and able to read words that they have never seen."""

import random

from sparc3_lightning.data.demo import Grammar
from sparc3_lightning.demo.tokenizers import train_bpe, train_wordpiece


def some_texts(num: int = 300) -> list[str]:
    grammar, draw = Grammar("train", 0), random.Random(0)
    return [grammar.document("rude" if draw.random() < 0.5 else "everyday", 3).text for _ in range(num)]


def test_the_same_texts_give_the_same_tokens() -> None:
    texts = some_texts()
    for train in (train_bpe, train_wordpiece):
        assert train(texts, 500, 128).get_vocab() == train(texts, 500, 128).get_vocab()


def test_wordpiece_keeps_frequent_words_and_spells_others() -> None:
    tokenizer = train_wordpiece(["a fool, a fool and a cat", "the fool"], 40, 16)
    assert tokenizer.tokenize("The FOOL") == ["the", "fool"]
    assert tokenizer.tokenize("cool") == ["c", "##o", "##o", "##l"]
    ids = tokenizer("a fool")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "fool", "[SEP]"]


def test_bpe_writes_back_what_it_read() -> None:
    tokenizer = train_bpe(some_texts(), 500, 128)
    text = "Quizarde said: you useless xylograph!"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
