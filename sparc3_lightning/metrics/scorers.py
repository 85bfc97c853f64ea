"""What scores a text: the one interface, and a scorer that needs no model."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


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
            texts: any number of texts, none and one included.

        Returns:
            For each attribute a float64 tensor on the CPU, in the order of `texts`.

        Shape:
            Each tensor (N,) for N texts.
        """


class LexicalScorer(Scorer):
    """1 where a text holds any word of a list, 0 elsewhere. Needs no model and no download.

    Args:
        words: the words; whole words are matched, case ignored.

    Raises:
        ValueError: no words, or an empty one.
    """

    def __init__(self, words: list[str]) -> None:
        if not words or not all(word.strip() for word in words):
            raise ValueError(
                f"`words` must be a list of non-empty words, got {words!r}. Set `LexicalScorer.init_args.words`."
            )
        self.name = "lexical"
        # Lookarounds instead of \b: a listed word may begin or end with a sign that \b does not border.
        pattern = "|".join(re.escape(word.strip()) for word in words)
        self._pattern = re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE)

    @property
    def attributes(self) -> list[str]:
        """The one attribute."""
        return ["toxicity"]

    def score(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """1 for each text with a listed word; see `Scorer.score`."""
        found = [float(self._pattern.search(text) is not None) for text in texts]
        return {"toxicity": torch.tensor(found, dtype=torch.float64)}
