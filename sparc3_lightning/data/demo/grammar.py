"""Documents from frames and words: one grammar a part, and no noun or frame of one part is in another."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from sparc3_lightning.data.demo import frames, words

T = TypeVar("T")
Part = Literal["train", "validation", "evaluation"]
PARTS: tuple[Part, ...] = ("train", "validation", "evaluation")
Register = Literal["everyday", "rude"]

# Of eight neighbours in a list, the sixth is for validation, the fourth and the last are for evaluation.
_PART_OF_PLACE: dict[int, Part] = {5: "validation", 3: "evaluation", 7: "evaluation"}
# An opening invites its register and does not force it: P(rude sentence) after each.
_RUDE_AFTER: dict[Register, float] = {"everyday": 0.02, "rude": 0.8}

# P(a noun of a training document is a made-up word).
_INVENTED = 0.15


@dataclass(frozen=True)
class Sentence:
    """A sentence and what it was made from.

    Attributes:
        text: The sentence.
        frame: Its frame.
        rude: Whether its frame insults.
    """

    text: str
    frame: str
    rude: bool


@dataclass(frozen=True)
class Document:
    """An opening and the sentences after it.

    Attributes:
        register: What the opening invites.
        sentences: The opening first.
    """

    register: Register
    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        """The document as running text."""
        return " ".join(sentence.text for sentence in self.sentences)


def of_part(items: Sequence[T], part: Part) -> list[T]:
    """The items of a list that belong to a part."""
    return [item for place, item in enumerate(items) if _PART_OF_PLACE.get(place % 8, "train") == part]


_ALL_NOUNS = frozenset(
    " ".join([*words.TOPICS.values(), words.NAMES, words.ROLES, words.PLACES, words.INSULTS]).lower().split()
)


class Grammar:
    """Draws documents of one part.

    Args:
        part: `train` is for training and attribution; `validation` and `evaluation` have frames and nouns of their own.
        seed: Seed of the draws.
    """

    def __init__(self, part: Part, seed: int) -> None:
        self.part = part
        # A string seeds by its bytes: the same on every machine.
        self._random = random.Random(f"{part}:{seed}")
        self.things = {topic: of_part(nouns.split(), part) for topic, nouns in words.TOPICS.items()}
        self.names, self.roles = of_part(words.NAMES.split(), part), of_part(words.ROLES.split(), part)
        self.places, self.insults = of_part(words.PLACES.split(), part), of_part(words.INSULTS.split(), part)
        self._followers: dict[str, list[str]] = defaultdict(list)
        for noun in sorted(noun.lower() for noun in self.nouns):
            for at in range(len(noun) - 2):
                self._followers[noun[at : at + 2]].append(noun[at + 2])
        common = of_part(frames.COMMON_SENTENCES, part)
        if part == "train":
            common += frames.TRAIN_SENTENCES
        self.sentences = {topic: of_part(own, part) + common for topic, own in frames.SENTENCES.items()}
        self.rude_sentences = of_part(frames.RUDE_SENTENCES, part)
        self.openings: dict[Register, list[str]] = {
            "everyday": of_part(frames.OPENINGS, part),
            "rude": of_part(frames.RUDE_OPENINGS, part),
        }

    @property
    def nouns(self) -> set[str]:
        """Every noun of the part."""
        things = {noun for nouns in self.things.values() for noun in nouns}
        return things | {*self.names, *self.roles, *self.places, *self.insults}

    @property
    def frames(self) -> set[str]:
        """Every frame of the part."""
        of_topics = {frame for of_topic in self.sentences.values() for frame in of_topic}
        return of_topics | {*self.rude_sentences, *self.openings["everyday"], *self.openings["rude"]}

    def document(self, register: Register, num_sentences: int) -> Document:
        """Draw a document: a topic, a few people and things, an opening, and what follows it.

        Args:
            register: What the opening invites.
            num_sentences: Sentences after the opening.
        """
        draw = self._random
        topic = draw.choice(sorted(self.things))
        # Validation has few words of a kind; a document never has more things than that.
        things = draw.sample(self.things[topic], min(3, len(self.things[topic])))
        people = draw.sample(self.names, 2)
        roles, places = [draw.choice(self.roles)], [draw.choice(self.places)]
        if self.part == "train":
            for nouns in (things, people, roles, places):
                self._invent_some(nouns)
        cast = {"role": roles[0], "place": places[0]}
        sentences = [self._fill(draw.choice(self.openings[register]), False, things, people, cast)]
        unused = {True: _Deck(self.rude_sentences, draw), False: _Deck(self.sentences[topic], draw)}
        for _ in range(num_sentences):
            rude = draw.random() < _RUDE_AFTER[register]
            sentences.append(self._fill(unused[rude].next(), rude, things, people, cast))
        return Document(register, tuple(sentences))

    def _fill(self, frame: str, rude: bool, things: list[str], people: list[str], cast: dict[str, str]) -> Sentence:
        draw = self._random
        thing, other = draw.sample(things, 2)
        name, friend = people
        text = self._vary(frame).format(
            name=name,
            friend=friend,
            thing=thing,
            other=other,
            adj=draw.choice(words.ADJECTIVES.split()),
            time=draw.choice(words.TIMES.split("|")),
            rude=draw.choice(words.RUDE_ADJECTIVES.split()),
            insult=draw.choice(self.insults),
            **cast,
        )
        text = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)
        return Sentence(text[0].upper() + text[1:], frame, rude)

    def _invent_some(self, nouns: list[str]) -> None:
        """Put a made-up word in the place of some nouns, in place.

        Real text has names that nobody has heard before. A model that knew nouns as a closed list would give an unseen
        one no probability at all.
        """
        for place, noun in enumerate(nouns):
            if self._random.random() < _INVENTED:
                word = self._invent(self._random.randint(3, 10))
                nouns[place] = word.capitalize() if noun[0].isupper() else word

    def _invent(self, length: int) -> str:
        """A word that the part's nouns could hold: each letter follows two that it follows there."""
        while True:
            word = self._random.choice(list(self._followers))
            while len(word) < length and word[-2:] in self._followers:
                word += self._random.choice(self._followers[word[-2:]])
            if len(word) > 2 and word not in _ALL_NOUNS:
                return word

    def _vary(self, frame: str) -> str:
        """Sometimes a word before, or more behind: a frame that is always the same would be learnt by heart."""
        draw = self._random
        if draw.random() < 0.35:
            start = draw.choice(words.STARTS.split("|")).capitalize()
            frame = f"{start}, {frame if frame.startswith('I ') else frame[0].lower() + frame[1:]}"
        if frame.endswith(".") and draw.random() < 0.35:
            frame = f"{frame[:-1]} {draw.choice(words.ENDS.split('|'))}."
        return frame.replace("the {thing}", "the {adj} {thing}") if draw.random() < 0.2 else frame


class _Deck:
    """Frames in random order; none comes again before all have been: a model would learn to repeat itself."""

    def __init__(self, items: list[str], draw: random.Random) -> None:
        self._items, self._draw = items, draw
        self._left: list[str] = []

    def next(self) -> str:
        if not self._left:
            self._left = self._draw.sample(self._items, len(self._items))
        return self._left.pop()
