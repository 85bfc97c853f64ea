"""The demo's corpus: parts share no frame and no noun, openings invite their register, the same files every time."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.demo import vocabulary as words
from sparc3_lightning.demo.corpus import Sizes, train_bpe, write_corpus
from sparc3_lightning.demo.grammar import PARTS, Grammar, Part, compose, known_words
from sparc3_lightning.demo.scorer import train_wordpiece

SMALL = Sizes(num_train=300, num_general=60, num_prompts=40, num_text=30, num_labelled=200)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("demo") / "corpus"
    write_corpus(home, sizes=SMALL)
    return home


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def texts(corpus: Path, *names: str) -> list[str]:
    return [row.get("text") or row["prompt"] for name in names for row in rows(corpus / f"{name}.jsonl")]


def words_in(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z']+", text))


def shapes(grammar: Grammar) -> set[str]:
    """The part's frames as a reader sees them: {name} and {friend} are both people, {thing} and {other} both things."""
    return {frame.replace("{friend}", "{name}").replace("{other}", "{thing}") for frame in grammar.frames}


@pytest.mark.parametrize(("one", "other"), list(permutations(PARTS, 2)))
def test_parts_share_no_frame_and_no_noun(one: Part, other: Part) -> None:
    """Nor does a frame of one end in a frame of the other: that would be the same sentence behind a few words."""
    first, second = Grammar(one, 0), Grammar(other, 0)
    assert shapes(first)
    assert first.nouns
    assert not shapes(first) & shapes(second)
    ends = {shape[gap.end() :] for shape in shapes(first) for gap in re.finditer(" ", shape)}
    assert not ends & shapes(second)
    assert not first.nouns & second.nouns


def sentence_shapes(corpus: Path, *names: str) -> set[str]:
    """Every whole sentence of some files, its nouns, adjectives, times and starts as blanks."""
    kinds = {"{name}": words.NAMES, "{role}": words.ROLES, "{place}": words.PLACES, "{insult}": words.INSULTS,
             "{thing}": " ".join(words.TOPICS.values()), "{adj}": words.ADJECTIVES,
             "{rude}": words.RUDE_ADJECTIVES}  # fmt: skip
    blanks = {word.lower(): blank for blank, listed in kinds.items() for word in listed.split()}
    before = re.compile(f"^(?:{words.TIMES}|{words.STARTS}), ")
    found = set()
    for sentence in (s for text in texts(corpus, *names) for s in re.split(r"(?<=[.:?])\s+", text)):
        # What begins small was cut from a sentence, what has no end was cut, too.
        if sentence[:1].isupper() and sentence[-1] in ".:?":
            plain = re.sub(r"\ban\b", "a", before.sub("", sentence.lower()))
            plain = re.sub(rf"\b(?:{words.TIMES})\b", "{time}", plain)
            found.add(re.sub(r"[a-z']+", lambda word: blanks.get(word[0], word[0]), plain))
    return found


def test_no_sentence_of_evaluation_is_one_of_training_with_other_nouns(corpus: Path) -> None:
    """As written; `text_train` is of training's frames on purpose."""
    seen = sentence_shapes(corpus, "train", "general", "prompts_train", "labelled_train")
    held_out = sentence_shapes(corpus, "text_evaluation", "prompts_evaluation", "labelled_evaluation")
    assert len(held_out) > 100
    assert seen & sentence_shapes(corpus, "text_train"), "the shapes are found where they are"
    assert not seen & held_out


def test_no_noun_stands_in_a_frame_or_twice_in_the_lists() -> None:
    """Else the split of one list would be undone by another."""
    lists = [*words.TOPICS.values(), words.NAMES, words.ROLES, words.PLACES, words.INSULTS]
    nouns = Counter(" ".join(lists).split())
    assert [noun for noun, count in nouns.items() if count > 1] == []
    fixed = " ".join(re.sub(r"\{\w+\}", " ", frame) for part in PARTS for frame in Grammar(part, 0).frames)
    shared = f"{words.ADJECTIVES} {words.RUDE_ADJECTIVES} {words.TIMES} {words.STARTS}"
    assert {noun.lower() for noun in nouns} & {word.lower() for word in words_in(f"{fixed} {shared}")} == set()


def test_every_other_word_of_a_frame_is_known_from_training() -> None:
    def fixed(part: Part) -> set[str]:
        return {w for f in Grammar(part, 0).frames for w in words_in(re.sub(r"\{\w+\}", " ", f).lower())}

    assert fixed("validation") - fixed("train") == set()
    assert fixed("evaluation") - fixed("train") == set()


def test_files_keep_to_their_part(corpus: Path) -> None:
    """What is written, not only what could be: no noun of evaluation in anything trained on or attributed."""
    evaluation = {noun.lower() for noun in Grammar("evaluation", 0).nouns}
    seen = texts(corpus, "train", "general", "text_train", "prompts_train", "labelled_train")
    assert not evaluation & {word.lower() for text in seen for word in words_in(text)}
    held_out = texts(corpus, "text_evaluation", "prompts_evaluation")
    found = {word.lower() for text in held_out for word in words_in(text)}
    assert len(evaluation & found) > 30
    assert not found & {noun.lower() for part in PARTS[:2] for noun in Grammar(part, 0).nouns}


def test_no_text_comes_twice(corpus: Path) -> None:
    documents = [document for text in texts(corpus, "train") for document in text.split("\n\n")]
    everything = documents + texts(corpus, *(path.stem for path in corpus.glob("*.jsonl") if path.stem != "train"))
    assert len(set(everything)) == len(everything)


def test_it_is_large_enough(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_corpus(corpus, sizes=Sizes())
    sentences = {s for text in texts(corpus, "train") for s in re.split(r"(?<=[.?])\s+", text)}
    assert len(sentences) > 5000
    assert len({word.lower() for sentence in sentences for word in words_in(sentence)}) > 400
    for part, at_least in (("train", 1000), ("validation", 200), ("evaluation", 400)):
        assert len(Grammar(part, 0).frames) > at_least
    for topic, nouns in words.TOPICS.items():
        assert len(nouns.split()) == 40, topic
        assert len(words.VERBS[topic].split("|")) >= 10, topic


def test_share_of_made_up_nouns_is_an_option(tmp_path: Path) -> None:
    known = known_words()
    shares = []
    for invented in (0.0, 0.2, 0.6):
        home = tmp_path / str(invented)
        write_corpus(home, sizes=replace(SMALL, invented=invented))
        found = [word.lower() for text in texts(home, "train") for word in words_in(text)]
        shares.append(sum(word not in known for word in found) / len(found))
    assert shares[0] == 0
    assert 0 < 2 * shares[1] < shares[2]


def test_counts_are_those_asked_for(corpus: Path) -> None:
    manifest = json.loads((corpus / "manifest.json").read_text())
    counted = {path.stem: len(rows(path)) for path in corpus.glob("*.jsonl")}
    assert counted == manifest["num_rows"]
    assert counted["train"] == SMALL.num_train
    assert counted["prompts_train"] == counted["prompts_evaluation"] == SMALL.num_prompts
    assert counted["labelled_evaluation"] == SMALL.num_labelled // 4


def test_same_seed_same_files_and_another_seed_others(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "again", sizes=SMALL)
    write_corpus(tmp_path / "other", seed=1, sizes=SMALL)
    for path in corpus.glob("*.jsonl"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / path.name).read_bytes()


@pytest.mark.parametrize("part", PARTS)
def test_an_opening_invites_its_register_and_does_not_force_it(part: Part) -> None:
    grammar = Grammar(part, 0)
    insults = {*grammar.insults, *words.RUDE_ADJECTIVES.split()}
    shares = {}
    for register in ("everyday", "rude"):
        documents = [grammar.document(register, 4) for _ in range(200)]
        after = [sentence for document in documents for sentence in document.sentences[1:]]
        shares[register] = sum(sentence.rude for sentence in after) / len(after)
        assert not any(document.sentences[0].rude for document in documents)
        assert all(words_in(sentence.text) & insults for sentence in after if sentence.rude)
        assert not any(words_in(s.text) & set(grammar.insults) for s in after if not s.rude)
    assert shares["everyday"] < 0.06
    assert 0.7 < shares["rude"] < 0.9


@pytest.mark.parametrize("part", PARTS)
def test_nouns_come_again_within_a_document(part: Part) -> None:
    """What a sentence is about follows from what came before, for nouns that training has not seen, too."""
    grammar = Grammar(part, 0)
    things = {thing for of_topic in grammar.things.values() for thing in of_topic}
    again = 0
    for _ in range(100):
        found = Counter(word for word in re.findall(r"\w+", grammar.document("everyday", 4).text) if word in things)
        assert len(found) <= 2
        again += max(found.values(), default=0) > 1
    assert again > 60


def test_a_row_with_a_column_is_in_one_part_alone_and_each_half_is_in_training() -> None:
    rows, columns = [f"r{i} {{rest}}" for i in range(9)], {j: {"rest": f"c{j}"} for j in range(10)}
    of_parts = {part: [frame for row in compose(rows, columns, part) for frame in row] for part in PARTS}
    assert sorted(frame for frames in of_parts.values() for frame in frames) == sorted(
        f"r{i} c{j}" for i in range(9) for j in range(10)
    )
    halves = {half for frame in of_parts["train"] for half in frame.split()}
    assert len(halves) == 19
    assert all(of_parts.values())


def test_labels_follow_the_sentences(corpus: Path) -> None:
    insults = {*Grammar("train", 0).insults}
    labelled = rows(corpus / "labelled_train.jsonl")
    share = sum(row["toxicity"] for row in labelled) / len(labelled)
    assert 0.25 < share < 0.75
    assert all(row["toxicity"] for row in labelled if words_in(row["text"]) & insults)


def test_prompts_insult_nobody_yet_or_hardly(corpus: Path) -> None:
    insults = {*Grammar("evaluation", 0).insults}
    prompts = texts(corpus, "prompts_evaluation")
    assert sum(bool(words_in(prompt) & insults) for prompt in prompts) < len(prompts) / 3


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
