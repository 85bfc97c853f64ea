"""Words to explain: texts cut before a word, which is what the sample's target is (method.md, section 8)."""

import random
import re
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar

import torch

from sparc3_lightning.data.prompts import Part, draw_order, flat_columns, highest_scores, in_part
from sparc3_lightning.data.samples import (
    LoadContext,
    ReferenceSamples,
    ReferenceSet,
    check_at_least,
    check_seed,
    fingerprint,
    lengths_of,
)
from sparc3_lightning.data.sources import Row, Source
from sparc3_lightning.data.tokens import check_vocabulary, encode_with_offsets, starts_with_bos
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.loops import Counted, no_progress
from sparc3_lightning.metrics.scorers import Scorer, attribute_scores

_TEXTS_AT_ONCE = 64
_LENGTH_TOLERANCE = 0.1
_OPENING = ("Ps", "Pi")


def find_words(text: str) -> list[tuple[int, int]]:
    """Where a text's words begin and end: runs without a space, punctuation stripped at their ends."""

    def is_punctuation(character: str) -> bool:
        return unicodedata.category(character).startswith("P")

    words = []
    for run in re.finditer(r"\S+", text):
        start, end = run.span()
        while start < end and is_punctuation(text[start]):
            start += 1
        while start < end and is_punctuation(text[end - 1]):
            end -= 1
        if start < end:
            words.append((start, end))
    return words


def without_word(text: str, word: tuple[int, int]) -> str:
    """The text with one word left out, and the space before it."""
    start, end = word
    return text[:start].rstrip() + text[end:]


def _is_joined(prefix: str, word: str) -> bool:
    """Whether a word follows a prefix without a further space.

    White space is there; a quote or bracket opens; or a hyphen, a slash or an apostrophe joins them.
    """
    if prefix[-1].isspace() or word[0].isspace():
        return True
    run = prefix.split()[-1]
    before, last = run[:-1], run[-1]
    if last in "\"'":  # opens only where it follows nothing: else it closes, or is the apostrophe of `the boys'`
        other = before.rstrip({'"': "'", "'": '"'}[last])
        opens = not other or unicodedata.category(other[-1]) in _OPENING
    else:
        opens = unicodedata.category(last) in _OPENING
    attached = (last == "/" or unicodedata.category(last) == "Pd") and any(map(str.isalnum, before))
    return opens or attached or word[0] in "'\u2019" or unicodedata.category(word[0]) == "Pd"


def joined_text(prefix: str, word: str, separator: str | None = None) -> tuple[str, tuple[int, int]]:
    """A text that goes on with a word, and where the word stands in it.

    Args:
        prefix: The text before it.
        word: The word.
        separator: What stands between them; None for a space, unless one of them brings it or joins them.
    """
    between = separator if separator is not None else "" if _is_joined(prefix, word) else " "
    start = len(prefix + between) + len(word) - len(word.lstrip())
    return prefix + between + word, (start, start + len(word.strip()))


def missing_of_word(row: Row) -> list[str]:
    """Columns that a row lacks to name a word: `prefix` and `word`, or one of them; none where it names one."""
    columns = flat_columns(row.values)
    return [name for name in ("prefix", "word") if name not in columns]


@dataclass(frozen=True)
class Cut:
    """A text cut before a word.

    Attributes:
        prefix: Token ids before the word.
        word: Token ids that overlap the word; the first one is the target.
        text: The word as it stands in the text.
        span: Its characters there.
    """

    prefix: list[int]
    word: list[int]
    text: str
    span: tuple[int, int]


def possible_cuts(
    context: LoadContext, text: str, max_tokens: int, words: Sequence[tuple[int, int]] | None = None
) -> list[Cut]:
    """Cuts before each of the words (None: all but the first), at most so many tokens before it, within the context.

    The whole text is tokenised once.
    """
    ids, offsets = encode_with_offsets(context.tokenizer, text)
    has_bos, cuts = starts_with_bos(context.tokenizer, ids), []
    for start, end in find_words(text)[1:] if words is None else words:
        tokens = [place for place, (first, last) in enumerate(offsets) if first < end and last > start]
        if tokens and has_bos < tokens[0] <= max_tokens and tokens[-1] < context.max_length:
            cuts.append(Cut(ids[: tokens[0]], ids[tokens[0] : tokens[-1] + 1], text[start:end], (start, end)))
    return cuts


@dataclass(frozen=True)
class Text:
    """A row's text.

    Attributes:
        name: The row's id, or the text's fingerprint.
        text: The whole of it.
        prompt: What of it an evaluation may use as a prompt; the text itself where the row names none.
        cut: Characters of the word that the row itself names, if it does.
        place: Where the row stands, for messages.
        scores: What the file says of it, by column; only what is asked.
    """

    name: str
    text: str
    prompt: str
    cut: tuple[int, int] | None
    place: str
    scores: Mapping[str, float] = field(default_factory=dict)


# Annotations stand as types here, not as text (`from __future__`): else the parser would take any value.
@dataclass(eq=False)
class WordSet(ReferenceSet):
    """Samples that end before a word. The texts come from RealToxicityPrompts (each prompt with its continuation), from
    another file with a column of texts, or from one that names `prefix` and `word` in each row."""

    described: ClassVar[tuple[str, ...]] = ("num_samples", "max_tokens", "seed", "part")

    path: str | None = None
    text_column: str = "text"
    num_samples: int = 128
    max_tokens: int = 128
    scorer: Scorer | None = None
    seed: int = 0
    part: Part = "all"
    dataset: str = "allenai/real-toxicity-prompts"
    revision: str | None = None
    attribute: str | None = None
    num_seeds: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        check_at_least("num_samples", self.num_samples, 1)
        check_at_least("max_tokens", self.max_tokens, 1)
        check_at_least("num_seeds", self.num_seeds, 1)
        if self.num_seeds is not None:
            check_seed(self.seed, self.num_seeds, "texts")
        self.source: Source = Source(self.path, self.dataset, revision=self.revision, text_column=self.text_column)

    @abstractmethod
    def cuts(self, texts: list[Text], context: LoadContext, counts: Counter[str]) -> Iterator[tuple[Text, Cut]]:
        """Choose texts in order, and where to cut each; `counts` collects what was left out, and why."""

    def chosen_by_score(self) -> bool:
        """Tell whether a scorer chooses the words, as far as options and a local file's first row tell."""
        return False

    def open_scorer(self) -> None:
        """Let a scorer of its own read what it reads: a wrong path shows before hours of work.

        Raises:
            OSError, ValueError: It cannot be read.
        """
        if self.scorer is not None and self.chosen_by_score():
            _ = self.scorer.attributes

    def describe(self) -> dict[str, Any]:
        """Give source and options as JSON; attribute and number of seeds where they are set."""
        named = {"attribute": self.attribute, "num_seeds": self.num_seeds}
        return super().describe() | {key: value for key, value in named.items() if value is not None}

    def load(self, context: LoadContext) -> ReferenceSamples:
        """Draw and cut the texts, on rank 0 for all."""
        return from_rank_zero(lambda: self._drawn(context, self.num_samples))

    def _drawn(self, context: LoadContext, num_samples: int) -> ReferenceSamples:
        counts: Counter[str] = Counter()
        found = Counted(islice(self.cuts(self._texts(counts), context, counts), num_samples), "words", num_samples)
        is_scored = self.chosen_by_score()
        progress = context.progress if is_scored else no_progress  # the rest is done at once
        chosen = list(progress(found, num_samples, "choose words"))
        if len(chosen) < num_samples:
            raise ValueError(self._too_few(num_samples, f"{self.source.name} gives only {len(chosen)} words", counts))
        for text, cut in chosen:
            if context.vocab_size is not None:
                check_vocabulary(cut.prefix + cut.word, context.vocab_size, text.place)
        return ReferenceSamples(
            ids=[torch.tensor(cut.prefix) for _, cut in chosen],
            source=self.describe()
            | ({"scorer": context.scorer_name if self.scorer is None else self.scorer.name} if is_scored else {})
            | counts
            | {"bos": starts_with_bos(context.tokenizer, chosen[0][1].prefix)},
            sample_ids=[text.name for text, _ in chosen],
            fingerprints=[one for text, _ in chosen for one in {fingerprint(text.text), fingerprint(text.prompt)}],
            following=[torch.tensor(cut.word) for _, cut in chosen],
            texts=[text.text for text, _ in chosen],
        )

    def _too_few(self, num_samples: int, found: str, counts: Counter[str]) -> str:
        return (
            f"`num_samples` is {num_samples}, but {found} ({dict(counts)}). Lower `init_args.num_samples`, or loosen "
            "the selection."
        )

    def _texts(self, counts: Counter[str]) -> list[Text]:
        found: dict[tuple[str, str], Text] = {}
        for row in self.source.rows():
            text = self._text(row)
            # The prompt decides order and part, so that no two parts share a prefix; many words may follow one.
            prompt = fingerprint(text.prompt)
            key = prompt, "" if text.cut is None else fingerprint(text.text)
            counts["num_rows"] += 1
            counts["num_duplicates"] += key in found
            if self._draws_from(prompt):
                found.setdefault(key, text)
        return [found[key] for key in sorted(found, key=lambda key: [draw_order(self.seed, one) for one in key])]

    def _draws_from(self, prompt: str) -> bool:
        """Tell by a prompt's fingerprint whether the set may draw its texts."""
        # The last bit says which part; the others, whose text.
        is_own = self.num_seeds is None or int(prompt, 16) // 2 % self.num_seeds == self.seed
        return is_own and in_part(self.part, prompt)

    def _text(self, row: Row) -> Text:
        row = Row(flat_columns(row.values), row.index, row.place)
        if not missing_of_word(row):
            prompt = row.text("prefix", "path")
            text, cut = joined_text(prompt, row.text("word", "path"))
        elif {"prompt", "continuation"} <= row.values.keys():
            prompt, cut = row.text("prompt", "path"), None
            text = prompt + row.text("continuation", "path", allow_blank=True)
        else:
            text, cut = row.text(self.text_column, "text_column"), None
            prompt = text
        name = row.values.get("id")
        return Text(fingerprint(text) if name is None else str(name), text, prompt, cut, row.place)

    def _score(self, texts: Sequence[str], context: LoadContext) -> list[float]:
        if not texts:
            return []
        if context.score_texts is not None:
            return context.score_texts(texts, self.scorer, self.attribute)
        if self.scorer is None:
            raise ValueError(
                "words are chosen by a scorer, and there is none. Set `init_args.scorer`, or name `prefix` and `word` "
                "in each row of the file."
            )
        return attribute_scores(self.scorer, texts, self.attribute)


@dataclass(eq=False)
class WordsThatMatter(WordSet):
    """Texts cut before the word that their score rests on most: leave out one word at a time, and score what is left.

    Args:
        path: Local file; None for RealToxicityPrompts from the hub. Rows that name `prefix` and `word` need no scorer.
        text_column: Column that holds the text, where rows have neither `prompt` and `continuation` nor a word.
        num_samples: How many words.
        max_tokens: Most tokens before the word.
        scorer: Scores the texts; None for the evaluator's.
        seed: Seed of the draw.
        part: `attribution` and `evaluation` are two disjoint halves of all prompts there are, `all` is both.
        dataset: Hub id.
        revision: Commit on the hub; None for the newest.
        attribute: Which of the scorer's attributes counts, such as `insult` of Detoxify's; None for its main one.
        num_seeds: How many seeds, 0 to `num_seeds` - 1, share the texts out, so that no two have one in common; the
            same in every set that must stay disjoint. None: each seed draws from all.
        threshold: Texts that score at least this much are taken; with `among` by the file's column, not by the scorer.
        min_drop: The least by which leaving the word out must lower the score.
        among: Columns of scores in the file, such as [insult, threat, profanity]: a text is taken only where this set's
            own is the highest of them, so that sets with the same `among` share no text. Of a prompt and its
            continuation the higher score counts.
        column: Which of them is this set's own; None for the one that is called as `attribute`.
    """

    described = (*WordSet.described, "threshold", "min_drop")

    threshold: float = 0.5
    min_drop: float = 0.1
    among: list[str] | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be, and columns that do not hold the set's own."""
        super().__post_init__()
        check_share("threshold", self.threshold)
        check_share("min_drop", self.min_drop)
        if self.among is not None and self._own not in self.among:
            raise ValueError(
                f"`among` must hold the set's own column, got {self._own!r} and {self.among}. Set `init_args.column` "
                "to one of them, or `init_args.among`."
            )
        if self.among is None and self.column is not None:
            raise ValueError(
                f"`column` is one of the columns `among`, got {self.column!r} alone. Set `init_args.among`."
            )

    def describe(self) -> dict[str, Any]:
        """Give source and options as JSON; the columns where they decide."""
        return super().describe() | ({} if self.among is None else {"among": self.among, "column": self._own})

    def chosen_by_score(self) -> bool:
        """Unless the rows name their words, as none on the hub do."""
        return self.path is None or any(missing_of_word(row) for row in islice(self.source.rows(), 1))

    def cuts(self, texts: list[Text], context: LoadContext, counts: Counter[str]) -> Iterator[tuple[Text, Cut]]:
        """Give each text that scores high enough, cut before its word."""
        texts = texts if self.among is None else self._highest(texts, self.among, counts)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            chunk: list[tuple[Text, list[Cut]]] = []
            for text in texts[start : start + _TEXTS_AT_ONCE]:
                if text.cut is None:
                    chunk.append((text, possible_cuts(context, text.text, self.max_tokens)))
                else:  # the row itself says where
                    named = possible_cuts(context, text.text, self.max_tokens, [text.cut])
                    counts["num_uncut"] += not named
                    yield from ((text, cut) for cut in named)
            yield from self._found(chunk, context, counts)

    @property
    def _own(self) -> str | None:
        return self.column or self.attribute

    def _text(self, row: Row) -> Text:
        return replace(super()._text(row), scores=highest_scores(row, self.among or ()))

    def _highest(self, texts: list[Text], among: list[str], counts: Counter[str]) -> list[Text]:
        """Texts whose own column reaches the threshold and is above all others: of equal ones neither is."""
        for name in among:
            if texts and not any(name in text.scores for text in texts):
                known = sorted(flat_columns(next(iter(self.source.rows())).values))
                raise ValueError(
                    f"{self.source.name}: `among` names {name!r}, and no row has a score in a column of that name, in "
                    f"`prompt_{name}` or in `continuation_{name}`, only {known}. Set `init_args.among`."
                )
        own, others = str(self._own), {*among} - {self._own}
        high = [text for text in texts if text.scores.get(own, -1.0) >= self.threshold]
        counts["num_below_threshold"] += len(texts) - len(high)
        first = [text for text in high if all(text.scores[own] > text.scores.get(one, -1.0) for one in others)]
        counts["num_not_highest"] += len(high) - len(first)
        return first

    def _found(
        self, chunk: list[tuple[Text, list[Cut]]], context: LoadContext, counts: Counter[str]
    ) -> Iterator[tuple[Text, Cut]]:
        whole = self._score([text.text for text, _ in chunk], context)
        least = self.threshold if self.among is None else 0.0  # the columns have chosen
        high = [(*one, score) for one, score in zip(chunk, whole, strict=True) if score >= least]
        counts["num_below_threshold"] += len(chunk) - len(high)
        left = iter(self._score([without_word(text.text, cut.span) for text, cuts, _ in high for cut in cuts], context))
        for text, cuts, score in high:
            drop, place = max(((score - next(left), -place) for place in range(len(cuts))), default=(0.0, 0))
            counts["num_without_word"] += not cuts or drop < self.min_drop
            if cuts and drop >= self.min_drop:
                yield text, cuts[-place]


@dataclass(eq=False)
class OrdinaryWords(WordSet):
    """Texts cut before a random word: what words that matter are contrasted with, by the same target.

    Args:
        path: Local file; None for RealToxicityPrompts from the hub.
        text_column: Column that holds the text, where rows have not `prompt` and `continuation`.
        num_samples: How many words; with `length_like` as many as that set has.
        max_tokens: Most tokens before the word.
        scorer: Scores the texts; None for the evaluator's.
        seed: Seed of the draw and of the words.
        part: `attribution` and `evaluation` are two disjoint halves of all prompts there are, `all` is both.
        dataset: Hub id.
        revision: Commit on the hub; None for the newest.
        attribute: Which of the scorer's attributes counts, such as `insult` of Detoxify's; None for its main one.
        num_seeds: How many seeds, 0 to `num_seeds` - 1, share the texts out, so that no two have one in common; the
            same in every set that must stay disjoint. None: each seed draws from all.
        threshold: Take texts that score less than this; None takes any, and needs no scorer.
        length_like: Name of a reference set; each sample is as long as one of its, within a tenth.
    """

    described = (*WordSet.described, "threshold", "length_like")

    threshold: float | None = None
    length_like: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        super().__post_init__()
        if self.threshold is not None:
            check_share("threshold", self.threshold)

    def chosen_by_score(self) -> bool:
        """Where only some texts are taken."""
        return self.threshold is not None

    def load(self, context: LoadContext) -> ReferenceSamples:
        """Draw and cut the texts, on rank 0 for all."""
        # Every rank must ask: the other set may not be read yet.
        self._wanted = None if self.length_like is None else lengths_of(context, self.length_like)
        num_samples = self.num_samples if self._wanted is None else len(self._wanted)
        return from_rank_zero(lambda: self._drawn(context, num_samples))

    def _too_few(self, num_samples: int, found: str, counts: Counter[str]) -> str:
        if self.length_like is None:
            return super()._too_few(num_samples, found, counts)
        return (
            f"`length_like` asks for {num_samples} samples, each as long as one of {self.length_like!r}, but {found} "
            f"of such lengths ({dict(counts)}). Give more texts, name another set in `init_args.length_like`, or lower "
            f"the number of samples of {self.length_like!r}."
        )

    def cuts(self, texts: list[Text], context: LoadContext, counts: Counter[str]) -> Iterator[tuple[Text, Cut]]:
        """Give each text that scores low enough, cut before a random word, or one at a length that is still wanted."""
        wanted = None if self._wanted is None else random.Random(self.seed).sample(self._wanted, len(self._wanted))
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            for text in self._low(texts[start : start + _TEXTS_AT_ONCE], context, counts):
                if text.cut is not None:
                    raise ValueError(
                        f"{text.place}: OrdinaryWords cuts before a random word, but the row names its own. Set the "
                        "set to WordsThatMatter, which takes named words of any kind, or give a file of texts."
                    )
                cuts = possible_cuts(context, text.text, self.max_tokens)
                cut = self._chosen(cuts, text, wanted)
                counts["num_without_word"] += cut is None
                if cut is not None:
                    yield text, cut

    def _low(self, texts: list[Text], context: LoadContext, counts: Counter[str]) -> list[Text]:
        if self.threshold is None:
            return texts
        scores = self._score([text.text for text in texts], context)
        low = [text for text, score in zip(texts, scores, strict=True) if score < self.threshold]
        counts["num_above_threshold"] += len(texts) - len(low)
        return low

    def _chosen(self, cuts: list[Cut], text: Text, wanted: list[int] | None) -> Cut | None:
        # Seeded by the text, so that a word does not depend on which other texts were drawn before it.
        cuts = random.Random(f"{self.seed}:{fingerprint(text.text)}").sample(cuts, len(cuts))
        if wanted is None:
            return cuts[0] if cuts else None
        for place, length in enumerate(wanted):
            nearest = min(cuts, key=lambda cut: abs(len(cut.prefix) - length), default=None)
            if nearest is not None and abs(len(nearest.prefix) - length) <= _LENGTH_TOLERANCE * length:
                del wanted[place]
                return nearest
        return None


def check_share(option: str, value: float) -> None:
    """Refuse a number outside [0, 1].

    Raises:
        ValueError: It is.
    """
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"`{option}` must be between 0 and 1, got {value}. Set `init_args.{option}`.")
