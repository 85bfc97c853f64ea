"""C4: the general reference set, and text to train on."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

import torch

from sparc3_lightning.data.samples import (
    LoadContext,
    PromptSet,
    ReferenceSamples,
    ReferenceSet,
    TextSet,
    check_at_least,
    check_seed,
    fingerprint,
    lengths_of,
)
from sparc3_lightning.data.sources import Row, Source
from sparc3_lightning.data.tokens import count_control, encode, starts_with_bos, token_counts
from sparc3_lightning.distributed.ranks import from_rank_zero

T = TypeVar("T")


# Annotations stand as types here, not as text (`from __future__`): else the parser would take any value.
@dataclass(eq=False)
class C4(ReferenceSet, TextSet):
    """Crops of equal length from C4 documents that are longer than the crop; as text, whole documents.

    Seeds draw disjoint documents: of the distinct documents in reading order, seed s owns every `num_seeds`-th,
    starting with the s-th, and shuffles its own. From the hub only as much is streamed as is needed.

    Args:
        path: Local file; None for the hub.
        num_samples: How many documents.
        length: Tokens a sample, a beginning-of-text token included.
        seed: Which documents, and which crops: 0 to `num_seeds` - 1.
        num_seeds: How many disjoint seeds share the documents; the same in every set that must stay disjoint.
        crop: `head` takes a document's beginning (the document), `random` any part of it (Wanda).
        add_bos: Begin each sample with the beginning-of-text token. None: `head` does as the tokenizer does by itself,
            `random` never.
        length_like: Name of a reference set: there are as many samples, each as long as one of its, in place of
            `num_samples` of one `length`.
        min_tokens: The fewest tokens of its own a document must have; None for one more than `length`, with
            `length_like` for as many as the sample needs.
        skip_rows: Leave out the first rows of the file, such as those a model was trained on.
        text_column: Column that holds the document.
        shuffle_buffer: Documents held in memory to be shuffled; a seed's share beyond it is shuffled piece by piece.
        dataset: Hub id.
        subset: Its configuration.
        split: Its split.
        revision: Commit on the hub; None for the newest.

    Source:
        Wanda: github locuslab/wanda, lib/data.py (`random`).
    """

    described = (
        "num_samples",
        "length",
        "seed",
        "num_seeds",
        "crop",
        "min_tokens",
        "skip_rows",
        "shuffle_buffer",
        "length_like",
    )

    path: str | None = None
    num_samples: int = 128
    length: int = 2048
    seed: int = 0
    num_seeds: int = 3
    crop: Literal["head", "random"] = "head"
    add_bos: bool | None = None
    min_tokens: int | None = None
    skip_rows: int = 0
    text_column: str = "text"
    shuffle_buffer: int = 10_000
    dataset: str = "allenai/c4"
    subset: str | None = "en"
    split: str = "train"
    revision: str | None = None
    length_like: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        shortest = self.length if self.length_like is None else 1
        least = {"num_samples": 1, "length": 2, "num_seeds": 1, "min_tokens": shortest, "skip_rows": 0}
        for option, value in {**least, "shuffle_buffer": 1}.items():
            check_at_least(option, getattr(self, option), value)
        check_seed(self.seed, self.num_seeds, "documents")
        if self.length_like is None:
            self.min_tokens = self.min_tokens or self.length + 1
        self.source: Source = Source(
            self.path, self.dataset, self.subset, self.split, self.revision, True, self.text_column
        )

    def load(self, context: LoadContext) -> ReferenceSamples:
        """Draw the seed's documents and crop them, on rank 0 for all."""
        if self.length_like is None and self.length > context.max_length:
            raise ValueError(
                f"`length` must be at most the model's context of {context.max_length} tokens, got {self.length}. "
                "Set `init_args.length`."
            )
        # Every rank must ask: the other set may not be read yet.
        lengths = [self.length] * self.num_samples
        if self.length_like is not None:
            lengths = lengths_of(context, self.length_like)
            random.Random(self.seed).shuffle(lengths)
        return from_rank_zero(lambda: self._drawn(context, lengths))

    def _drawn(self, context: LoadContext, lengths: Sequence[int]) -> ReferenceSamples:
        bos = self._bos(context)
        samples, following, rows, counts = list[list[int]](), list[int](), list[Row](), token_counts()
        for row in shuffled(self._own_documents(), self.seed, self.shuffle_buffer):
            tokens = encode(context.tokenizer, self._text(row), special=False)
            begins = bool(bos) and tokens[:1] == bos
            size = lengths[len(samples)] - len(bos)
            # What is explained may be the token that follows the crop.
            if len(tokens) - begins >= max(self.min_tokens or 0, size + context.next_token):
                start = self._start(len(tokens) - begins - size - context.next_token, row.index) + begins
                samples.append(bos + tokens[start : start + size])
                following += tokens[start + size :][: context.next_token]
                rows.append(row)
                counts["num_doubled_bos"] += begins
            if len(samples) == len(lengths):
                break
        self._check_enough(len(samples), lengths)
        counts["num_control_tokens"] = count_control(context.tokenizer, samples)
        return ReferenceSamples(
            ids=[torch.tensor(ids, dtype=torch.int64) for ids in samples],
            source=self.describe() | counts | {"bos": bool(bos)},
            sample_ids=[f"row-{row.index}" for row in rows],
            fingerprints=[fingerprint(self._text(row)) for row in rows],
            following=[torch.tensor([token]) for token in following],
        )

    def documents(self, num: int) -> list[str]:
        """Give the first documents of the seed's draw, on rank 0 for all."""

        def drawn() -> list[str]:
            texts = map(self._text, shuffled(self._own_documents(), self.seed, self.shuffle_buffer))
            return list(islice(filter(str.strip, texts), num))

        return from_rank_zero(drawn)

    def load_rows(self) -> list[str]:
        """Give `num_samples` documents of the seed's draw, whole, on rank 0 for all."""
        rows = self.documents(self.num_samples)
        if len(rows) < self.num_samples:
            raise ValueError(
                f"`num_samples` is {self.num_samples}, but {self.source.name} has only {len(rows)} distinct documents "
                f"for seed {self.seed} of {self.num_seeds}, after {self.skip_rows} skipped rows. Lower "
                "`init_args.num_samples`, or give a longer file."
            )
        return rows

    def may_share(self, prompts: PromptSet) -> bool:
        """The hub's documents are no prompts, and an evaluation need not stream them; a local file may hold any."""
        return self.source.path is not None

    def _own_documents(self) -> Iterator[Row]:
        return islice(self._distinct_documents(), self.seed, None, self.num_seeds)

    def _distinct_documents(self) -> Iterator[Row]:
        seen: set[str] = set()
        for row in islice(self.source.rows(), self.skip_rows, None):
            name = fingerprint(self._text(row))
            if name not in seen:
                seen.add(name)
                yield row

    def _text(self, row: Row) -> str:
        return row.text(self.text_column, "text_column", allow_blank=True)

    def _bos(self, context: LoadContext) -> list[int]:
        """Give what a sample begins with: the beginning-of-text token, or nothing."""
        tokenizer = context.tokenizer
        if self.add_bos and tokenizer.bos_token_id is None:
            raise ValueError(
                "`add_bos: true` needs a tokenizer with a beginning-of-text token. Set `init_args.add_bos`."
            )
        by_itself = self.crop == "head" and starts_with_bos(tokenizer, encode(tokenizer, "a"))
        return [int(tokenizer.bos_token_id)] if (by_itself if self.add_bos is None else self.add_bos) else []

    def _start(self, room: int, index: int) -> int:
        # Seeded by the document, so that a sample's crop does not depend on which others were drawn before it.
        return 0 if self.crop == "head" else random.Random(f"{self.seed}:{index}").randint(0, room)

    def _check_enough(self, num_found: int, lengths: Sequence[int]) -> None:
        if num_found == len(lengths):
            return
        drawn = f"for seed {self.seed} of {self.num_seeds}, after {self.skip_rows} skipped rows"
        if self.length_like is not None:
            raise ValueError(
                f"`length_like` asks for {len(lengths)} samples, each as long as one of {self.length_like!r}, but "
                f"{self.source.name} has distinct documents for only {num_found} {drawn}, and none that gives the "
                f"next, of {lengths[num_found]} tokens (`min_tokens`: {self.min_tokens}). Give a longer file, name "
                f"another set in `init_args.length_like`, or lower the number of samples of {self.length_like!r}."
            )
        raise ValueError(
            f"`num_samples` is {len(lengths)}, but {self.source.name} has only {num_found} distinct documents of at "
            f"least {self.min_tokens} tokens {drawn}. Lower `init_args.num_samples` or `init_args.length`, or give a "
            "longer file."
        )


def shuffled(items: Iterable[T], seed: int, buffer_size: int) -> Iterator[T]:
    """Shuffle a stream through a buffer: a full shuffle where the stream fits, a local one beyond.

    Args:
        items: The stream; it is read one buffer ahead.
        seed: Seed of the order.
        buffer_size: Items held in memory.
    """
    generator = random.Random(seed)
    stream = iter(items)
    buffer = list(islice(stream, buffer_size))
    for item in stream:
        place = generator.randrange(buffer_size)
        yield buffer[place]
        buffer[place] = item
    generator.shuffle(buffer)
    yield from buffer
