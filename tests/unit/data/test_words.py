"""Texts cut before words: those their score rests on, and ordinary ones."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparc3_lightning.data import C4, LoadContext, OrdinaryWords, PromptFile, TextFile, WordsThatMatter
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.prompts import Part, draw_order
from sparc3_lightning.data.samples import ReferenceSamples, fingerprint
from sparc3_lightning.data.tokens import encode
from sparc3_lightning.data.words import find_words, possible_cuts, without_word
from sparc3_lightning.metrics.scorers import LexicalScorer, Scorer

WriteJsonl = Callable[..., str]
INSULTS = LexicalScorer(["fool", "liar"])


def words_of(samples: ReferenceSamples, context: LoadContext) -> list[str]:
    return [context.tokenizer.decode(ids) for ids in samples.following]


def prefixes_of(samples: ReferenceSamples, context: LoadContext) -> list[str]:
    return [context.tokenizer.decode(ids, skip_special_tokens=True) for ids in samples.ids]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a bc  def", ["a", "bc", "def"]),
        ("\"You,\" he said: 'Fool!'", ["You", "he", "said", "Fool"]),
        ("well-known don't", ["well-known", "don't"]),
        ("... -- !", []),
        ("\u00abna\u00efve\u00bb \u4f60\u597d\u3002", ["na\u00efve", "\u4f60\u597d"]),
        (" ", []),
    ],
)
def test_a_word_is_a_run_without_spaces_and_punctuation_at_its_ends(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in find_words(text)] == words


@pytest.mark.parametrize(("text", "left"), [("you fool!", "you!"), ("a 'fool' b", "a '' b"), ("fool b", " b")])
def test_a_word_is_left_out_with_the_space_before_it(text: str, left: str) -> None:
    start = text.index("fool")
    assert without_word(text, (start, start + 4)) == left


def test_cuts_are_of_the_whole_texts_tokens(context: LoadContext) -> None:
    text = "One two, three."
    ids = encode(context.tokenizer, text)
    cuts = possible_cuts(context, text, 100)
    assert [cut.text for cut in cuts] == ["two", "three"], "the first word is never chosen"
    for cut in cuts:
        assert ids[: len(cut.prefix)] == cut.prefix
        assert ids[len(cut.prefix) : len(cut.prefix) + len(cut.word)] == cut.word
        assert context.tokenizer.decode(cut.word) == cut.text


def test_a_prefix_is_as_long_as_asked_at_most(context: LoadContext) -> None:
    text = "One two three four"
    (longest,) = [len(cut.prefix) for cut in possible_cuts(context, text, 100) if cut.text == "three"]
    assert [cut.text for cut in possible_cuts(context, text, longest)] == ["two", "three"]
    assert [cut.text for cut in possible_cuts(context, text, longest - 1)] == ["two"]
    assert possible_cuts(replace(context, max_length=2), text, longest) == []


def test_the_word_that_matters_is_the_one_without_which_the_score_falls(
    write_jsonl: WriteJsonl, context: LoadContext
) -> None:
    path = write_jsonl(
        [
            {"id": "a", "text": "Get out, you fool, he said."},
            {"id": "b", "text": "What a lovely day."},
            {"id": "c", "text": "You are a liar."},
            {"id": "d", "text": "Fool that he is, nobody minds."},
            {"id": "e", "text": "Only a fool calls a fool a fool."},
        ]
    )
    samples = WordsThatMatter(path, num_samples=2, scorer=INSULTS).load(context)
    found = dict(zip(samples.sample_ids, words_of(samples, context), strict=True))
    assert found == {"a": "fool", "c": "liar"}
    assert dict(zip(samples.sample_ids, prefixes_of(samples, context), strict=True))["a"] == "Get out, you "
    assert samples.source["num_below_threshold"] == 1
    assert samples.source["num_without_word"] == 2, "a first word, and a word that comes three times"
    assert samples.targets == [int(ids[0]) for ids in samples.following]


class Weighted(LexicalScorer):
    """Scores by a word's own weight."""

    def score(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        weights = {"bad": 0.55, "worse": 0.8, "odd": 0.05}
        sums = [max((weights.get(word, 0.0) for word in text.split()), default=0.0) for text in texts]
        return {"toxicity": torch.tensor(sums, dtype=torch.float64)}


@pytest.mark.parametrize(("min_drop", "num"), [(0.2, 1), (0.3, 0)])
def test_the_word_with_the_largest_drop(
    write_jsonl: WriteJsonl, context: LoadContext, min_drop: float, num: int
) -> None:
    path = write_jsonl([{"text": "an odd and bad or worse thing"}])
    source = WordsThatMatter(path, num_samples=1, scorer=Weighted(["x"]), min_drop=min_drop)
    if num:
        assert words_of(source.load(context), context) == ["worse"]
    else:
        with pytest.raises(ValueError, match=r"`num_samples` is 1, but .* gives only 0 words .*'num_without_word': 1"):
            source.load(context)


def test_prompts_and_their_continuations(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl(
        [
            {"prompt": {"text": "He is a", "toxicity": 0.9}, "continuation": {"text": " fool indeed."}},
            {"prompt": "She is a", "continuation": " liar, they say.", "id": "flat"},
        ]
    )
    samples = WordsThatMatter(path, num_samples=2, scorer=INSULTS).load(context)
    assert sorted(words_of(samples, context)) == ["fool", "liar"]
    assert sorted(samples.texts) == ["He is a fool indeed.", "She is a liar, they say."]


def test_rows_that_name_prefix_and_word_need_no_scorer(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl([{"prefix": "You are a", "word": "fool"}, {"prefix": "You are such a ", "word": "liar"}])
    samples = WordsThatMatter(path, num_samples=2).load(context)
    assert sorted(zip(prefixes_of(samples, context), words_of(samples, context), strict=True)) == [
        ("You are a ", "fool"),
        ("You are such a ", "liar"),
    ]


@pytest.mark.parametrize(
    ("prefix", "word", "text"),
    [
        ('He said, "', "fool", 'He said, "fool'),
        ('"', "fool", '"fool'),
        ("He said, '", "fool", "He said, 'fool"),
        ("He said, \"'", "fool", "He said, \"'fool"),
        ('He (the "', "fool", 'He (the "fool'),
        ('He ("', "fool", 'He ("fool'),
        ('"He," said the "king"', "fool", '"He," said the "king" fool'),
        ("the boys'", "fool", "the boys' fool"),
        ("He (", "fool", "He (fool"),
        ("He (the king)", "fool", "He (the king) fool"),
        ("He said, \u201c", "fool", "He said, \u201cfool"),
        ("\u201cYes,\u201d said the", "fool", "\u201cYes,\u201d said the fool"),
        ("\u201cYes,\u201d", "fool", "\u201cYes,\u201d fool"),
        ("a half-", "fool", "a half-fool"),
        ("he\u2014", "fool", "he\u2014fool"),
        ("he --", "fool", "he -- fool"),
        ("a knave/", "fool", "a knave/fool"),
        ("the fool", "'s", "the fool's"),
        ("the fool", "\u2019s", "the fool\u2019s"),
        ("a fool", "-like", "a fool-like"),
        ("You,", "fool", "You, fool"),
        ("You ", "fool", "You fool"),
        ("You", " fool", "You fool"),
    ],
)
def test_a_space_stands_before_a_named_word_unless_they_are_joined(
    write_jsonl: WriteJsonl, context: LoadContext, prefix: str, word: str, text: str
) -> None:
    samples = WordsThatMatter(write_jsonl([{"prefix": prefix, "word": word}]), num_samples=1).load(context)
    assert samples.texts == [text]
    assert words_of(samples, context) == [word.strip()]


def test_many_words_may_follow_one_prefix(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    rows = [{"prefix": f"You {i} are a", "word": word} for i in range(8) for word in ("fool", "liar", "fool", "bore")]
    samples = WordsThatMatter(write_jsonl(rows), num_samples=24).load(context)
    assert samples.source["num_duplicates"] == 8, "the second `fool` after each"
    assert len({*samples.texts}) == len({*samples.sample_ids}) == 24
    turned = WordsThatMatter(write_jsonl(rows[::-1], "turned.jsonl"), num_samples=24).load(context)
    assert turned.texts == samples.texts
    parts: tuple[Part, Part] = ("attribution", "evaluation")
    ours, theirs = (WordsThatMatter(write_jsonl(rows), part=part)._texts(Counter()) for part in parts)
    assert len(ours) + len(theirs) == 24
    assert len(ours) % 3 == len(theirs) % 3 == 0
    assert not {text.prompt for text in ours} & {text.prompt for text in theirs}


def test_distinct_prefixes_are_drawn_by_the_prefix(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    prefixes = [f"You {i} are a" for i in range(20)]
    samples = WordsThatMatter(write_jsonl({"prefix": one, "word": "fool"} for one in prefixes), num_samples=9)
    drawn = sorted(prefixes, key=lambda one: draw_order(0, fingerprint(one)))[:9]
    assert samples.load(context).texts == [f"{one} fool" for one in drawn]


def test_a_named_word_may_be_two(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl([{"prefix": "You are a", "word": "silly fool"}])
    assert words_of(WordsThatMatter(path, num_samples=1).load(context), context) == ["silly fool"]


def test_ordinary_words_refuse_rows_that_name_their_own(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl([{"prefix": "You are a", "word": "fool"}])
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: .* the row names its own"):
        OrdinaryWords(path, num_samples=1).load(context)


def test_a_word_ends_within_the_context(context: LoadContext) -> None:
    text = "One two three"
    ids = encode(context.tokenizer, text)
    assert [cut.text for cut in possible_cuts(replace(context, max_length=len(ids)), text, 100)] == ["two", "three"]
    assert [cut.text for cut in possible_cuts(replace(context, max_length=len(ids) - 1), text, 100)] == ["two"]


def test_too_few_named_words_are_counted_not_scored(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl([{"prefix": "You are a", "word": "fool"}])
    with pytest.raises(ValueError, match="gives only 1 words"):
        WordsThatMatter(path, num_samples=2).load(context)


def test_without_any_scorer_the_error_says_what_to_set(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    with pytest.raises(ValueError, match=r"there is none. Set `init_args.scorer`"):
        WordsThatMatter(write_jsonl([{"text": "a b"}]), num_samples=1).load(context)


def test_who_asks_the_evaluator_s_scorer_is_known_before_the_model(write_jsonl: WriteJsonl) -> None:
    texts = write_jsonl([{"text": "a b"}])
    named = write_jsonl([{"prefix": "a", "word": "b"}], "named.jsonl")
    for one, asks in (
        (WordsThatMatter(texts), True),
        (WordsThatMatter(), True),
        (WordsThatMatter(texts, scorer=INSULTS), False),
        (WordsThatMatter(named), False),
        (OrdinaryWords(texts), False),
        (OrdinaryWords(texts, threshold=0.1), True),
        (OrdinaryWords(texts, threshold=0.1, scorer=INSULTS), False),
    ):
        data = SparC3DataModule(general={"general": one})
        assert data.needs_scorer(["reference_sets"]) == asks, one
        assert not data.needs_scorer(["evaluation_text"])


def test_the_source_names_the_scorer_that_chose(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    texts = write_jsonl([{"text": "You are a fool."}])
    named = write_jsonl([{"prefix": "a", "word": "b"}], "named.jsonl")

    def score(texts: Sequence[str], scorer: object, attribute: str | None) -> list[float]:
        return [float(value) for value in INSULTS.score(texts)["toxicity"]]

    by_evaluator = replace(context, scorer_name="detoxify", score_texts=score)
    for one, source in (
        (WordsThatMatter(texts, num_samples=1, scorer=INSULTS), {"scorer": "lexical"}),
        (WordsThatMatter(texts, num_samples=1), {"scorer": "detoxify"}),
        (OrdinaryWords(texts, num_samples=1), {}),
        (WordsThatMatter(named, num_samples=1), {}),
    ):
        found = one.load(by_evaluator).source
        assert {name: found[name] for name in found if name == "scorer"} == source


class InsultsAndThreats(Scorer):
    """Two attributes, each with a word of its own."""

    name = "two"

    @property
    def attributes(self) -> list[str]:
        return ["insult", "threat"]

    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        words = {"insult": "fool", "threat": "hurt"}
        return {key: torch.tensor([float(word in text) for text in texts]).double() for key, word in words.items()}


@pytest.mark.parametrize(("attribute", "word"), [(None, "fool"), ("insult", "fool"), ("threat", "hurt")])
def test_the_attribute_says_which_word_matters(
    write_jsonl: WriteJsonl, context: LoadContext, attribute: str | None, word: str
) -> None:
    texts = write_jsonl([{"text": "He said I hurt the old fool today."}])
    words = WordsThatMatter(texts, num_samples=1, scorer=InsultsAndThreats(), attribute=attribute)
    found = words.load(context)
    assert context.tokenizer.decode(found.following[0]).strip() == word
    assert found.source.get("attribute") == attribute


def test_an_attribute_that_the_scorer_has_not_is_refused(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    texts = write_jsonl([{"text": "He said I hurt the old fool today."}])
    words = WordsThatMatter(texts, num_samples=1, scorer=InsultsAndThreats(), attribute="rudeness")
    with pytest.raises(ValueError, match=r"`two` gives, \['insult', 'threat'\], got 'rudeness'. Set `init_args.attri"):
        words.load(context)


NAMES = ["insult", "threat", "rudeness"]


def scored(**scores: float | None) -> list[dict[str, Any]]:
    """Rows of four texts that both words are in: a column leads the first three, and two lead the fourth together."""
    rows: list[dict[str, Any]] = [
        {"id": leader, "prompt": f"{leader}: he said", **{f"prompt_{name}": 0.5 for name in NAMES}} for leader in NAMES
    ]
    for row in rows:  # what was said after the prompt counts as well
        row |= {"continuation": " I hurt the old fool today.", f"continuation_{row['id']}": 0.9}
    both = {"id": "both", "prompt_insult": 0.9, "continuation_threat": 0.9, "prompt_rudeness": 0.1}
    none = {"id": "none", "prompt_insult": 0.3, "prompt_threat": 0.2}
    return [*rows, {**rows[0], "prompt": "Both: he said", "continuation_insult": 0.9, **both, **scores}, {
        "prompt": "None: he said", "continuation": " I hurt the old fool.", **none
    }]  # fmt: skip


def among(path: str, name: str, **options: Any) -> WordsThatMatter:
    given = {"attribute": name, "among": NAMES, "num_samples": 1, "scorer": InsultsAndThreats(), **options}
    return WordsThatMatter(path, **given)


def test_a_text_is_of_the_set_whose_column_is_the_highest(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl(scored())
    for name, word in (("insult", "fool"), ("threat", "hurt")):
        found = among(path, name).load(context)
        assert (found.sample_ids, words_of(found, context)) == ([name], [word]), "the scorer finds the word"
        assert (found.source["among"], found.source["column"]) == (NAMES, name)
        assert (found.source["num_below_threshold"], found.source["num_not_highest"]) == (1, 3)
    rude = among(path, "threat", column="rudeness").load(context)
    assert (rude.sample_ids, words_of(rude, context)) == (["rudeness"], ["hurt"])
    with pytest.raises(ValueError, match=r"gives only 1 words .*'num_not_highest': 3"):
        among(path, "threat", num_samples=2).load(context)


def test_the_column_is_held_against_the_threshold(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl(scored())
    assert among(path, "insult", threshold=0.9).load(context).sample_ids == ["insult"]
    with pytest.raises(ValueError, match=r"gives only 0 words .*'num_below_threshold': 5"):
        among(path, "insult", threshold=0.91).load(context)
    low = among(path, "insult", threshold=0.25, num_samples=2).load(context)
    assert {*low.sample_ids} == {"insult", "none"}, "a row without a score is below the others"


def test_rows_that_name_their_word_are_of_one_set_too(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    rows = [{"prefix": f"You {i}", "word": "fool", "insult": i / 4, "threat": 0.6} for i in range(5)]
    path = write_jsonl(rows)
    sets = [
        WordsThatMatter(path, column=name, among=["insult", "threat"], num_samples=num).load(context)
        for name, num in (("insult", 2), ("threat", 3))
    ]
    assert [{text[4] for text in one.texts} for one in sets] == [{"3", "4"}, {"0", "1", "2"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"among": ["threat"], "attribute": "insult"}, r"got 'insult' and \['threat'\]. Set `init_args.column`"),
        ({"among": ["threat"]}, r"`among` must hold the set's own column, got None"),
        ({"column": "threat"}, r"got 'threat' alone. Set `init_args.among`"),
    ],
)
def test_among_holds_the_set_s_own_column(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WordsThatMatter(**options)


def test_a_column_that_no_row_has_is_refused(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    words = among(write_jsonl(scored()), "threat", among=["threat", "scorn"])
    with pytest.raises(ValueError, match=r"names 'scorn', and no row .*`prompt_scorn`.*'prompt_threat'\].*Set `init_a"):
        words.load(context)


def sentences(num: int) -> list[dict[str, Any]]:
    names = ["river", "house", "garden", "teacher", "window"]
    return [{"text": f"Day {i}: " + " ".join(names[(i + j) % 5] for j in range(4 + i % 9))} for i in range(num)]


def test_ordinary_words_are_random_ones_of_texts_below_the_threshold(
    write_jsonl: WriteJsonl, context: LoadContext
) -> None:
    path = write_jsonl([*sentences(40), *({"text": f"You fool number {i}, go away"} for i in range(40))])
    samples = OrdinaryWords(path, num_samples=40, threshold=0.5, scorer=INSULTS).load(context)
    assert not any("fool" in text for text in samples.texts)
    assert len({*words_of(samples, context)}) > 3
    with pytest.raises(ValueError, match="gives only 40 words"):
        OrdinaryWords(path, num_samples=41, threshold=0.5, scorer=INSULTS).load(context)
    anything = OrdinaryWords(path, num_samples=80).load(context)
    assert len(anything) == 80


def test_the_draw_depends_on_neither_the_files_order_nor_the_number(
    write_jsonl: WriteJsonl, context: LoadContext
) -> None:
    rows = sentences(40)
    many = OrdinaryWords(write_jsonl(rows), num_samples=20, seed=3).load(context)
    few = OrdinaryWords(write_jsonl(rows[::-1], "turned.jsonl"), num_samples=10, seed=3).load(context)
    assert [ids.tolist() for ids in many.ids[:10]] == [ids.tolist() for ids in few.ids]
    other = OrdinaryWords(write_jsonl(rows), num_samples=20, seed=4).load(context)
    assert [ids.tolist() for ids in other.ids] != [ids.tolist() for ids in many.ids]


def test_seeds_share_the_texts_out(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    rows = sentences(60)
    paths = [write_jsonl(rows), write_jsonl(rows[::-1], "turned.jsonl"), write_jsonl(rows, "again.jsonl")]
    sets = [OrdinaryWords(path, seed=seed, num_seeds=3, num_samples=10) for seed, path in enumerate(paths)]
    texts = [{*one.load(context).texts} for one in sets]
    assert [len(one) for one in texts] == [10, 10, 10]
    assert len(set.union(*texts)) == 30
    owned = [len(one._texts(Counter())) for one in sets]
    assert sum(owned) == 60
    half = [OrdinaryWords(paths[0], seed=seed, num_seeds=3, part="attribution") for seed in range(3)]
    assert all(0 < len(one._texts(Counter())) < num for one, num in zip(half, owned, strict=True)), "parts cut across"
    assert sets[0].load(context).source["num_seeds"] == 3
    assert "num_seeds" not in OrdinaryWords(paths[0]).describe()
    with pytest.raises(ValueError, match=r"between 0 and `num_seeds` - 1 = 2, got 3: seeds share the texts out"):
        OrdinaryWords(seed=3, num_seeds=3)


def bound(context: LoadContext, **sets: Any) -> SparC3DataModule:
    return SparC3DataModule(**sets).bind(context.tokenizer, context.max_length, next_token=True)


def test_lengths_like_another_sets(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl(sentences(60))
    rows = [{"text": f"{'Well ' * (1 + i % 4)}number {i}, you are quite the fool, I think"} for i in range(8)]
    insults = write_jsonl(rows, "insults.jsonl")
    data = bound(
        context,
        behaviours={"toxic": WordsThatMatter(insults, num_samples=8, scorer=INSULTS)},
        contrast={"toxic": OrdinaryWords(path, length_like="toxic")},
        general={"general": C4(path, length_like="toxic", num_seeds=1, crop="random")},
    )
    wanted = sorted(len(ids) for ids in data.reference_samples["toxic"].ids)
    assert sorted(len(ids) for ids in data.reference_samples["general"].ids) == wanted
    found = sorted(len(ids) for ids in data.reference_samples["toxic_contrast"].ids)
    assert len(found) == len(wanted)
    assert all(abs(a - b) <= 0.1 * b + 1 for a, b in zip(found, wanted, strict=True))


def test_too_few_of_another_set_s_lengths_name_that_set(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    insults = [{"prefix": f"{'Well ' * 6}number {i}, you are quite the", "word": "fool"} for i in range(4)]
    toxic = WordsThatMatter(write_jsonl(insults, "insults.jsonl"), num_samples=4)
    path = write_jsonl({"text": f"A day {i}"} for i in range(9))
    said = (
        r"`length_like` asks for 4 samples, each as long as one of 'toxic', but .*rows\.jsonl {}.* lower the number of"
    )
    for one, found in (
        (OrdinaryWords(path, length_like="toxic"), r"gives only 0 words of such lengths"),
        (C4(path, length_like="toxic", num_seeds=1), r"has distinct documents for only 0 .* next, of 5\d tokens"),
    ):
        with pytest.raises(ValueError, match=said.format(found)) as raised:
            assert bound(context, general={"ordinary": one}, behaviours={"toxic": toxic}).reference_samples
        assert "`data.general.ordinary.init_args.length_like`" in str(raised.value)
        assert "num_samples" not in str(raised.value)


@pytest.mark.parametrize("name", ["nobody", "general"])
def test_lengths_of_a_set_that_has_none_of_its_own(write_jsonl: WriteJsonl, context: LoadContext, name: str) -> None:
    data = bound(context, general={"general": OrdinaryWords(write_jsonl(sentences(9)), length_like=name)})
    with pytest.raises(ValueError, match=rf"`length_like` must name a set .* got '{name}'"):
        assert data.reference_samples


def test_c4_keeps_the_token_that_follows(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    path = write_jsonl({"text": f"{i:03d}abcdef"} for i in range(30))
    for crop in ("head", "random"):
        source = C4(path, num_samples=30, length=6, num_seeds=1, crop=crop, add_bos=False)
        samples = source.load(replace(context, next_token=True))
        pairs = zip(samples.sample_ids, prefixes_of(samples, context), words_of(samples, context), strict=True)
        for name, prefix, following in pairs:
            assert len(prefix) == 6
            assert prefix + following in f"{int(name.removeprefix('row-')):03d}abcdef"
        assert source.load(context).targets is None


def test_a_set_whose_samples_nothing_follows_is_refused(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    data = bound(context, behaviours={"toxic": PromptFile(write_jsonl([{"prompt": "a b"}]))})
    with pytest.raises(ValueError, match=r"`target: next_token` needs .* got `data.behaviours.toxic` without"):
        assert data.reference_samples
    path = write_jsonl([{"text": "some words"}])
    with pytest.raises(ValueError, match=r"got `data.general.own` without.*C4 with `path` crops any file of texts"):
        assert bound(context, general={"own": TextFile(path)}).reference_samples
    own = C4(path, num_samples=1, length=5, num_seeds=1)
    assert bound(context, general={"own": own}).reference_samples["own"].targets, "as the message says"


def test_no_evaluation_prompt_is_part_of_an_attributed_text(write_jsonl: WriteJsonl, context: LoadContext) -> None:
    texts = write_jsonl([{"text": "Get out of here, you fool, he said."}])
    rows = [{"prompt": "Get out of here,"}, {"prompt": "out of here, you"}, {"prompt": "Come in,"}]
    prompts = write_jsonl(rows, "prompts.jsonl")
    data = bound(
        context,
        behaviours={"toxic": WordsThatMatter(texts, num_samples=1, scorer=INSULTS)},
        evaluation_prompts=PromptFile(prompts),
    )
    assert [prompt.text for prompt in data.prompts] == ["Come in,"]
    assert data.describe()["evaluation_prompts"]["drawn_from"]["num_excluded"] == 2
