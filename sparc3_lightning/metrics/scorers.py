"""What scores a text: the one interface, a scorer that needs no model, and several scorers as one."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparc3_lightning.files import json_sha256

# Characters of scripts without spaces between words (Thai to Khmer, kana, ideographs), words, and other signs.
_UNITS = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|\w+|[^\w\s]")
_PLAIN = (str, int, float, bool, type(None))


class Scorer(ABC):
    """Gives every text a score between 0 and 1 for each of its attributes.

    A scorer is built without reading anything, so that a config can be checked offline; what is heavy is loaded when
    first used. The first attribute is the one that summaries and selections use.
    """

    name: str
    num_truncated: int = 0
    """How many of the texts scored so far were cut to the scorer's length limit."""

    @property
    @abstractmethod
    def attributes(self) -> list[str]:
        """Names of the scores, the main one first."""

    @abstractmethod
    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Score texts.

        Args:
            texts: Any number of texts, none and one included.

        Returns:
            For each attribute a float64 tensor on the CPU, in the order of `texts`.

        Shape:
            Each tensor (N,) for N texts.
        """


class LexicalScorer(Scorer):
    """1 where a text holds any word of a list, 0 elsewhere. Needs no model and no download.

    Args:
        words: The words; whole words are matched, case ignored.
        attribute: What they show, such as `insult`: the name of its score in tables, figures and files.

    Raises:
        ValueError: No words, or an empty one.
    """

    def __init__(self, words: list[str], attribute: str = "toxicity") -> None:
        if not words or not all(word.strip() for word in words):
            raise ValueError(
                f"`words` must be a list of non-empty words, got {words!r}. Set `LexicalScorer.init_args.words`."
            )
        self.name, self._attributes = "lexical", [attribute]
        # Lookarounds instead of \b: a listed word may begin or end with a sign that \b does not border.
        pattern = "|".join(re.escape(word.strip()) for word in words)
        self._pattern = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE)

    @property
    def attributes(self) -> list[str]:
        """The one attribute."""
        return self._attributes

    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """1 for each text with a listed word; see `Scorer.score`."""
        found = [float(self._pattern.search(text) is not None) for text in texts]
        return {self._attributes[0]: torch.tensor(found, dtype=torch.float64)}


class RepetitionScorer(Scorer):
    """How much of a text repeats itself: 1 - different / all words and signs, case ignored.

    A sign is anything but letters, digits and spaces; of scripts that put no spaces between words each character
    counts. An empty text repeats nothing, and scores 0: look at the length beside it.

    Source: SparC3 (arXiv 2506.13727), Sec. 4, whose response uniqueness counts tokens.
    """

    def __init__(self) -> None:
        self.name = "repetition"

    @property
    def attributes(self) -> list[str]:
        """The one attribute."""
        return ["repetition"]

    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The share of each text's words that it holds already; see `Scorer.score`."""
        words = [_UNITS.findall(text.lower()) for text in texts]
        found = [1 - len(set(one)) / len(one) if one else 0.0 for one in words]
        return {"repetition": torch.tensor(found, dtype=torch.float64)}


class JointScorer(Scorer):
    """Several scorers' opinions of the same texts: a finding that holds for one scorer only is that scorer's.

    The first scorer's attributes keep their names and its main one stays the main one; of every other scorer the main
    attribute is added, as `NAME/ATTRIBUTE`.

    Args:
        scorers: Two or more, with different names.

    Raises:
        ValueError: Fewer than two scorers, or two with one name.
    """

    def __init__(self, scorers: list[Scorer]) -> None:
        names = [scorer.name for scorer in scorers]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                f"`scorers` must be two or more with different names, got {names}. Set "
                "`JointScorer.init_args.scorers`; a checkpoint's directory gives its scorer's name."
            )
        self.scorers = scorers
        self.name = " + ".join(names)

    @property
    def num_truncated(self) -> int:  # type: ignore[override] # counted by the scorers
        """Texts cut so far by the scorer that cut most."""
        return max(scorer.num_truncated for scorer in self.scorers)

    @property
    def attributes(self) -> list[str]:
        """The first scorer's attributes, then the others' main ones."""
        return [*self.scorers[0].attributes, *(_full_name(scorer) for scorer in self.scorers[1:])]

    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Every scorer's scores; see `Scorer.score`."""
        scores = dict(self.scorers[0].score(texts))
        for scorer in self.scorers[1:]:
            scores[_full_name(scorer)] = scorer.score(texts)[scorer.attributes[0]]
        return scores


def _full_name(scorer: Scorer) -> str:
    return f"{scorer.name}/{scorer.attributes[0]}"


def attribute_scores(scorer: Scorer, texts: Sequence[str], attribute: str | None = None) -> list[float]:
    """Scores of texts by one attribute.

    Args:
        scorer: Whose.
        texts: Any number of texts.
        attribute: Its name; None for the scorer's main one.

    Raises:
        ValueError: The scorer has no such attribute.
    """
    if attribute is not None and attribute not in scorer.attributes:
        raise ValueError(
            f"`attribute` must be one that scorer `{scorer.name}` gives, {scorer.attributes}, got {attribute!r}. Set "
            "`init_args.attribute`."
        )
    scores: list[float] = scorer.score(texts)[attribute or scorer.attributes[0]].tolist()
    return scores


def scorer_setting(scorer: Scorer, texts: Sequence[str]) -> dict[str, Any]:
    """Which scorer this is, as JSON: what figures made by it depend on.

    Args:
        scorer: Its class and options count, and what it says of `texts`: another checkpoint says something else.
        texts: Some texts; what it would say of others, its options decide too.
    """
    # Rounded: where it computes may change the last digits.
    said = {name: [round(value, 4) for value in values.tolist()] for name, values in scorer.score(texts).items()}
    return {**_options(scorer), "scores": json_sha256(said)}


def _options(scorer: Scorer) -> dict[str, Any]:
    options = {
        name: value.pattern if isinstance(value, re.Pattern) else value
        for name, value in vars(scorer).items()
        if isinstance(value, (*_PLAIN, re.Pattern)) and name != "num_truncated"
    }
    joined = scorer.scorers if isinstance(scorer, JointScorer) else []
    return {"class": type(scorer).__name__, "options": options, "joined": [_options(one) for one in joined]}
