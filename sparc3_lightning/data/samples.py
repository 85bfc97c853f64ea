"""What every source of data gives: reference samples, prompts and text, and what a source may ask of the model."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from sparc3_lightning.data.sources import Source
from sparc3_lightning.data.tokens import OnTooLong, encode_samples, starts_with_bos
from sparc3_lightning.loops import Progress, no_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """A text to be continued.

    Args:
        id: Name of the prompt, the key of its paired noise.
        text: What the model continues.
        scores: Scores known before this run, such as `prompt_toxicity`; None where the source has none.
    """

    id: str
    text: str
    scores: dict[str, float | None] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Names the text itself: equal for the same prompt in any file."""
        return fingerprint(self.text)


@dataclass(frozen=True)
class ReferenceSamples:
    """The samples of one reference set, ready for attribution.

    Args:
        ids: Token ids, int64, unpadded, one tensor a sample.
        source: Where they come from and how they were chosen, as JSON; it goes into the manifest.
        sample_ids: Names of the documents or prompts, in the order of `ids`; the manifest keeps them.
        fingerprints: Fingerprints of the texts before any crop, to tell whether a prompt is among them.
        following: Token ids of what follows each sample in its text: a word's, or the one next token. The first is what
            `target: next_token` explains. Empty where nothing is known to follow.
        against: Token that each of these is contrasted with; empty for none.
        texts: Whole texts that no evaluation prompt may be part of.
        corrupted: Each sample's twin, as long, in which what decides its target is changed; empty for none.
        scenes: Names what each is drawn with: the two halves of an exchanged pair have one name; empty for each alone.
        groups: What each is made of, such as a template, by fingerprint; empty where nothing is known of it.

    Shape:
        `ids[s]` and `corrupted[s]` are (T_s,), `following[s]` (N_s,), S tensors.
    """

    ids: list[Tensor]
    source: dict[str, Any]
    sample_ids: list[str]
    fingerprints: list[str] = field(default_factory=list)
    following: list[Tensor] = field(default_factory=list)
    against: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    corrupted: list[Tensor] = field(default_factory=list)
    scenes: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> list[int] | None:
        """The token that follows each sample; None where none is known to."""
        return [int(ids[0]) for ids in self.following] or None

    @classmethod
    def of_texts(
        cls,
        names: list[str],
        texts: list[tuple[str, str]],
        context: LoadContext,
        on_too_long: OnTooLong,
        source: dict[str, Any],
    ) -> ReferenceSamples:
        """Tokenise places and texts, special tokens as the tokenizer adds them; `source` is told what was counted."""
        ids, counts = encode_samples(context.tokenizer, texts, context.max_length, on_too_long)
        told = {**source, **counts, "bos": starts_with_bos(context.tokenizer, ids[0].tolist())}
        return cls(ids, told, names, [fingerprint(text) for _, text in texts])

    @property
    def text_fingerprints(self) -> set[str]:
        """Fingerprints of the samples' whole texts: a word's prompt alone is none."""
        return {*map(fingerprint, self.texts)} or {*self.fingerprints}

    @property
    def token_hash(self) -> str:
        """Hash of all token ids, and of the targets that samples have, as `token_hash`."""
        return token_hash(self.ids, self.targets, self.against)


@dataclass(frozen=True)
class LoadContext:
    """What a source may ask of the model it is loaded for.

    Args:
        tokenizer: The model's tokenizer; it needs no padding token.
        max_length: Context of the model, in tokens.
        reserve_tokens: Part of the context that prompts leave free for their continuation.
        vocab_size: Rows of the model's embedding; None where it is not known, and then token ids are not checked.
        score_responses: Continues prompts with the base model and scores the continuations, each in [0, 1].
        is_greedy: Continuations hold no luck: a prompt's is the same whenever it is made.
        next_token: What follows a sample is explained: sources that crop a text leave a token for it.
        score_texts: Scores texts by a scorer, or by the evaluator's (None), and one of its attributes, or the main one
            (None), each in [0, 1]; on rank 0.
        scorer_name: The evaluator's scorer, by name.
        lengths_of: Gives the lengths of another reference set's samples, by its name. Every rank must call.
        progress: Shows how far what takes long has come; on rank 0.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    reserve_tokens: int = 0
    vocab_size: int | None = None
    score_responses: Callable[[list[Prompt]], list[float]] | None = None
    is_greedy: bool = False
    next_token: bool = False
    score_texts: Callable[[Sequence[str], Any, str | None], list[float]] | None = None
    scorer_name: str | None = None
    lengths_of: Callable[[str], list[int]] | None = None
    progress: Progress = no_progress


class Described:
    """A source that can say where its data comes from.

    Attributes:
        source: Where the rows are; None where there are none.
        described: Names of the options that `describe` gives.
    """

    source: Source | None = None
    described: ClassVar[tuple[str, ...]] = ()

    def describe(self) -> dict[str, Any]:
        """Give class, source and options as JSON, for manifests and results."""
        where = {} if self.source is None else self.source.describe()
        return {"class": type(self).__name__, **where, **{name: getattr(self, name) for name in self.described}}


class ReferenceSet(Described, ABC):
    """Samples to attribute: `general`, or a behaviour such as `toxic`."""

    @abstractmethod
    def load(self, context: LoadContext) -> ReferenceSamples:
        """Read, choose and tokenise the samples. Every rank calls it; what takes long, rank 0 can do for all.

        Raises:
            OSError: The source cannot be read.
            ValueError: A bad row, too few samples, or samples longer than the context.
        """

    def documents(self, num: int) -> list[str]:
        """Give the first documents that samples are cut from, whole, in the order of the draw; none by default."""
        return []

    def may_share(self, prompts: PromptSet) -> bool:
        """Tell whether evaluation prompts could be among these samples; False where that cannot happen."""
        return True


class PromptSet(Described, ABC):
    """Prompts to be continued in an evaluation."""

    @abstractmethod
    def load_prompts(self, context: LoadContext, exclude: Mapping[str, str] = {}) -> list[Prompt]:
        """Read and choose the prompts and fit them into the context, room for the continuation left. Every rank calls.

        Args:
            context: The model they are for.
            exclude: Ids or fingerprints of prompts that must not be drawn, or texts that none may be part of; each with
                the key of the set that holds it.

        Raises:
            OSError: The source cannot be read.
            ValueError: A bad row, a prompt that is too long, or too few prompts.
        """


class TextSet(Described, ABC):
    """Running text, for perplexity or training."""

    @abstractmethod
    def load_rows(self) -> list[str]:
        """Give the raw rows in order, blank ones included: the protocol says how they are joined. Every rank calls.

        Raises:
            OSError: The source cannot be read.
            ValueError: A bad row.
        """


def lengths_of(context: LoadContext, name: str) -> list[int]:
    """Tokens of each sample of another set, that `length_like` names. Every rank must call.

    Raises:
        ValueError: No data module says which sets there are; or none of this name, or one whose lengths are another's.
    """
    if context.lengths_of is None:
        raise ValueError(f"`length_like` needs the other sets of the data, got {name!r} without a data module.")
    return context.lengths_of(name)


def token_hash(
    ids: Sequence[Tensor], targets: Sequence[int] | None = None, against: Sequence[int] | None = None
) -> str:
    """Hash token ids, their order and the samples' boundaries included.

    Args:
        ids: One 1-D tensor of token ids a sample.
        targets: The token that follows each sample, where one is known to.
        against: The token that each target is contrasted with, where there is one.

    Returns:
        The sha256 as 64 hexadecimal digits, the same on every machine.
    """
    digest = hashlib.sha256()
    for sample in ids:
        digest.update(np.array([sample.numel()], dtype="<i8").tobytes())
        digest.update(sample.cpu().numpy().astype("<i8").tobytes())
    for kind, tokens in (("targets", targets), ("against", against)):
        if tokens:
            digest.update(kind.encode() + np.array(tokens, dtype="<i8").tobytes())
    return digest.hexdigest()


def fingerprint(text: str) -> str:
    """Name a text by what it says: 16 hexadecimal digits, blind to the whitespace around it."""
    return hashlib.sha256(text.strip().encode()).hexdigest()[:16]


def check_at_least(option: str, value: int | None, least: int, where: str = "init_args") -> None:
    """Refuse a count that is too small; None (no limit) passes. `where` is what the config calls the option's place.

    Raises:
        ValueError: The value is below `least`.
    """
    if value is not None and value < least:
        raise ValueError(f"`{option}` must be at least {least}, got {value}. Set `{where}.{option}`.")


def check_seed(seed: int, num_seeds: int, what: str) -> None:
    """Refuse a seed that is none of those that share out what there is.

    Raises:
        ValueError: It is below 0, or not below `num_seeds`.
    """
    if not 0 <= seed < num_seeds:
        raise ValueError(
            f"`seed` must be between 0 and `num_seeds` - 1 = {num_seeds - 1}, got {seed}: seeds share the {what} out. "
            "Set `init_args.seed`, or raise `init_args.num_seeds` in every set."
        )


@contextmanager
def said_of(key: str, **options: str) -> Iterator[None]:
    """A set does not know where it stands in the config: say in its refusals whose `init_args` to change.

    Args:
        key: Key of the config that it stands under, such as `data.general.c4`.
        **options: What one of its options is called there, where it is called otherwise.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if error.args and isinstance(error.args[0], str):
            message = error.args[0].replace("`init_args.", f"`{key}.init_args.")
            for option, name in options.items():
                message = re.sub(rf"\b{option}\b", name, message)
            error.args = (message, *error.args[1:])
        raise
