"""How likely a model finds words that a file names, such as a behaviour's: no completion is needed."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.data.samples import LoadContext, ReferenceSamples, said_of
from sparc3_lightning.data.sources import Source
from sparc3_lightning.data.words import WordsThatMatter, missing_of_word
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.files import file_sha256
from sparc3_lightning.metrics.measure import Column, Material, Measure, Role
from sparc3_lightning.models.load import context_length
from sparc3_lightning.pruning.passages import Passage, Passages


class NamedWords(Measure):
    """The log-probability of words, each after its own prefix: all tokens of a word together.

    Args:
        path: Local file whose rows name `prefix` and `word`.
        num_words: How many of its rows.
        name: The column's, before `/log_probability`.
        role: What the column is evidence of.

    Units: nats.
    """

    def __init__(self, path: str, num_words: int, name: str = "words", role: Role = "beside") -> None:
        self.path, self.num_words, self.name, self.role = path, num_words, name, role

    def setting(self) -> dict[str, Any]:
        """Its arguments, and what the file holds: other words in the same place are another measure."""
        return {**super().setting(), "sha256": file_sha256(Path(self.path))}

    def check(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read the words."""
        self._words(model, tokenizer)

    def fingerprints(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Collection[str]:
        """Of prefixes, and of prefixes with their words."""
        return self._words(model, tokenizer).fingerprints

    def _words(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ReferenceSamples:
        context = LoadContext(tokenizer, context_length(model), vocab_size=model.config.vocab_size)
        with said_of("NamedWords", num_samples="num_words"):
            words = WordsThatMatter(self.path, num_samples=self.num_words)
            from_rank_zero(lambda: _check_named(words.source))
            return words.load(context)

    def columns(self, material: Material) -> Iterator[Column]:
        """One column, a row a word."""
        words = self._words(material.model, material.tokenizer)
        passages = [
            Passage(torch.cat([prefix, word]), len(prefix))
            for prefix, word in zip(words.ids, words.following, strict=True)
        ]
        found = Passages(material.model, passages, material.max_tokens).base
        yield Column(
            f"{self.name}/log_probability", "nats", "lower", "word", "mean", words.sample_ids, found, role=self.role,
            setting={"words": words.token_hash},
        )  # fmt: skip


def _check_named(source: Source) -> None:
    """Refuse a row that names no word: nothing is there to choose one by."""
    for row in source.rows():
        if missing := missing_of_word(row):
            raise ValueError(
                f"{row.place}: the row must name `prefix` and `word`, got none of {missing}. Correct the row, or set "
                "`init_args.path`."
            )
