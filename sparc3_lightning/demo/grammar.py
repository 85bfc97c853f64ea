"""Documents from frames and words: one grammar a part, and no noun or frame of one part is in another."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from sparc3_lightning.demo import vocabulary as words

T = TypeVar("T")
Part = Literal["train", "validation", "evaluation"]
PARTS: tuple[Part, ...] = ("train", "validation", "evaluation")
Register = Literal["everyday", "rude"]

# Of eight neighbours in a list, the sixth is for validation, the fourth and the last are for evaluation.
_PART_OF_PLACE: dict[int, Part] = {5: "validation", 3: "evaluation", 7: "evaluation"}
# An opening invites its register and does not force it: P(rude sentence) after each.
_RUDE_AFTER: dict[Register, float] = {"everyday": 0.02, "rude": 0.8}

# P(a sentence is about the document's other thing, or its other person, first).
_SWAPPED = 0.3


@dataclass(frozen=True)
class Sentence:
    """A sentence and what it was made from.

    Attributes:
        text: The sentence.
        frames: Its frame, and that of the clause behind it where there is one.
        rude: Whether its frame insults.
    """

    text: str
    frames: tuple[str, ...]
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


def compose(rows: Sequence[str], columns: Mapping[int, Mapping[str, str]], part: Part) -> list[list[str]]:
    """The frames of a part: row i filled with column j belongs to the part of place i + j.

    Every part so has every row, with columns that the others do not have it with: no frame is shared, and each half of
    a frame is known to training from other frames.

    Args:
        rows: Sentences with blanks.
        columns: What fills blanks, by place.
        part: Whose frames.

    Returns:
        The part's frames of each row that has some.
    """
    of_rows = [
        [
            _fill_known(row, filling)
            for j, filling in columns.items()
            if _PART_OF_PLACE.get((i + j) % 8, "train") == part
        ]
        for i, row in enumerate(rows)
    ]
    return [frames for frames in of_rows if frames]


def _fill_known(row: str, filling: Mapping[str, str]) -> str:
    """Fill the blanks that are known; the others, which `format` would ask for, are for a document's nouns."""
    return re.sub(r"\{(\w+)\}", lambda blank: filling.get(blank[1], blank[0]), row)


def _rests(clauses: Sequence[str]) -> dict[int, dict[str, str]]:
    return {place: {"rest": clause} for place, clause in enumerate(clauses)}


def _forms(verb: str) -> dict[str, str]:
    """A verb's base form, past and participle: as listed, or regular."""
    v, *others = verb.replace("+", "_").split()
    stem = v[:-1] + "i" if re.search(r"[^aeiou]y$", v) else v
    past, done = others or [stem + ("d" if stem.endswith("e") else "ed")] * 2
    return {name: form.replace("_", " ") for name, form in (("v", v), ("past", past), ("done", done))}


# A verb of several topics has one place, or its frames would be in several parts.
_PLACE_OF_VERB = {
    verb: place for place, verb in enumerate(dict.fromkeys("|".join(words.VERBS.values()).replace("\n", "").split("|")))
}
_ALL_NOUNS = frozenset(
    " ".join([*words.TOPICS.values(), words.NAMES, words.ROLES, words.PLACES, words.INSULTS]).lower().split()
)


class Grammar:
    """Draws documents of one part.

    Args:
        part: `train` is for training and attribution; `validation` and `evaluation` have frames and nouns of their own.
        seed: Seed of the draws.
        invented: Share of made-up words among the nouns of a training document; other parts have none.
    """

    def __init__(self, part: Part, seed: int, invented: float = 0.0) -> None:
        self._invented = invented if part == "train" else 0.0
        # A string seeds by its bytes: the same on every machine.
        self._random = random.Random(f"{part}:{seed}")
        self.things = {topic: of_part(nouns.split(), part) for topic, nouns in words.TOPICS.items()}
        self.names, self.roles = of_part(words.NAMES.split(), part), of_part(words.ROLES.split(), part)
        self.places, self.insults = of_part(words.PLACES.split(), part), of_part(words.INSULTS.split(), part)
        self._followers: dict[str, list[str]] = defaultdict(list)
        nouns = sorted(noun.lower() for noun in self.nouns)
        self._beginnings, self._endings = [noun[:2] for noun in nouns], {noun[-2:] for noun in nouns}
        for noun in nouns:
            for at in range(len(noun) - 2):
                self._followers[noun[at : at + 2]].append(noun[at + 2])
        everyday = [
            *compose(words.STATES, _rests(words.COMPLEMENTS), part),
            *compose(words.PEOPLE, _rests(words.DOINGS), part),
            *compose(words.SPEECHES, _rests(words.TAGS), part),
        ]
        rude = compose(words.INSULTING, _rests(words.COMPLAINTS), part)
        verbs = {
            topic: {_PLACE_OF_VERB[verb]: _forms(verb) for verb in listed.split("|")}
            for topic, listed in words.VERBS.items()
        }
        # By topic, the frames of each row: a document takes no row twice.
        self.sentences = {topic: compose(words.CLAUSES, forms, part) + everyday for topic, forms in verbs.items()}
        self.rude_sentences = {topic: compose(words.RUDE_CLAUSES, forms, part) + rude for topic, forms in verbs.items()}
        self.tails = _flat(compose(words.TAILS, _rests(words.TAIL_CLAUSES), part))
        self.openings: dict[Register, list[str]] = {
            "everyday": _flat(compose(words.OPENINGS, _rests(words.OPENING_ENDS), part)),
            "rude": _flat(compose(words.RUDE_OPENINGS, _rests(words.RUDE_OPENING_ENDS), part)),
        }

    @property
    def nouns(self) -> set[str]:
        """Every noun of the part."""
        things = {noun for nouns in self.things.values() for noun in nouns}
        return things | {*self.names, *self.roles, *self.places, *self.insults}

    @property
    def frames(self) -> set[str]:
        """Every frame of the part."""
        of_topics = [
            row for of_topic in (self.sentences, self.rude_sentences) for rows in of_topic.values() for row in rows
        ]
        return {*_flat(of_topics), *self.tails, *self.openings["everyday"], *self.openings["rude"]}

    def document(self, register: Register, num_sentences: int) -> Document:
        """Draw a document: a topic, two people and two things, an opening, and what follows it.

        Args:
            register: What the opening invites.
            num_sentences: Sentences after the opening.
        """
        draw = self._random
        topic = draw.choice(sorted(self.things))
        things, people = draw.sample(self.things[topic], 2), draw.sample(self.names, 2)
        roles, places = [draw.choice(self.roles)], [draw.choice(self.places)]
        for nouns in (things, people, roles, places):
            self._invent_some(nouns)
        cast = {"role": roles[0], "place": places[0]}
        sentences = [self._fill((draw.choice(self.openings[register]),), False, things, people, cast)]
        rows = {
            True: draw.sample(self.rude_sentences[topic], num_sentences),
            False: draw.sample(self.sentences[topic], num_sentences),
        }
        for _ in range(num_sentences):
            rude = draw.random() < _RUDE_AFTER[register]
            frame = draw.choice(rows[rude].pop())
            # Speech, and what has two clauses already, bears no third.
            tail = (draw.choice(self.tails),) if "," not in frame and not rude and draw.random() < 0.25 else ()
            sentences.append(self._fill((frame, *tail), rude, things, people, cast))
        return Document(register, tuple(sentences))

    def _fill(
        self, of_sentence: tuple[str, ...], rude: bool, things: list[str], people: list[str], cast: dict[str, str]
    ) -> Sentence:
        draw = self._random
        thing, other = things[::-1] if draw.random() < _SWAPPED else things
        name, friend = people[::-1] if draw.random() < _SWAPPED else people
        text = self._vary("".join(of_sentence), rude)
        blanks = {"name": name, "friend": friend, "thing": thing, "other": other, **cast}
        shared = {
            "adj": words.ADJECTIVES.split(),
            "time": words.TIMES.split("|"),
            "rude": words.RUDE_ADJECTIVES.split(),
            "insult": self.insults,
        }
        # Drawn anew for each blank: "a red kettle, but the pan was far too red" says nothing.
        text = re.sub(r"\{(\w+)\}", lambda blank: blanks.get(blank[1]) or draw.choice(shared[blank[1]]), text)
        text = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)
        return Sentence(text[0].upper() + text[1:], of_sentence, rude)

    def _invent_some(self, nouns: list[str]) -> None:
        """Put a made-up word in the place of some nouns, in place.

        Real text has names that nobody has heard before. A model that knew nouns as a closed list would give an unseen
        one no probability at all.
        """
        for place, noun in enumerate(nouns):
            if self._random.random() < self._invented:
                word = self._invent(self._random.randint(4, 9))
                nouns[place] = word.capitalize() if noun[0].isupper() else word

    def _invent(self, length: int) -> str:
        """A word that the part's nouns could hold: it begins and ends as one of them, each letter follows two there."""
        while True:
            word = self._random.choice(self._beginnings)
            while len(word) < 12 and word[-2:] in self._followers:
                word += self._random.choice(self._followers[word[-2:]])
                if len(word) >= length and word[-2:] in self._endings:
                    break
            if len(word) > 3 and word[-2:] in self._endings and word not in _ALL_NOUNS:
                return word

    def _vary(self, text: str, rude: bool) -> str:
        """Put an end, and sometimes a time before it: a frame that is always the same would be learnt by heart."""
        draw = self._random
        if text.endswith((".", ":", "?")):
            return text
        if not rude and ", " not in text:
            where = draw.random()
            if where < 0.15:
                text = f"{draw.choice(words.STARTS.split('|'))}, {text}"
            elif where < 0.3:
                text = f"{{time}}, {text}"
        return f"{text}."


def _flat(lists: Iterable[Iterable[T]]) -> list[T]:
    return [item for items in lists for item in items]


def known_words() -> frozenset[str]:
    """Every word, in lower case, that a document of any part can have but made-up nouns."""
    grammars = [Grammar(part, 0) for part in PARTS]
    texts = [text for grammar in grammars for text in (*grammar.nouns, *grammar.frames)]
    shared = [words.ADJECTIVES, words.RUDE_ADJECTIVES, words.TIMES, words.STARTS, "an"]
    return frozenset(re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", " ".join([*texts, *shared]).lower())))
