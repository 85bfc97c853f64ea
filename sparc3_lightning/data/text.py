"""Any local text file, as reference set or running text; and WikiText-2, the text of perplexity."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from sparc3_lightning.data.samples import (
    LoadContext,
    ReferenceSamples,
    ReferenceSet,
    TextSet,
    check_at_least,
    fingerprint,
)
from sparc3_lightning.data.sources import Row, Source
from sparc3_lightning.data.tokens import OnTooLong, encode_samples, starts_with_bos
from sparc3_lightning.distributed.ranks import from_rank_zero


class TextFile(ReferenceSet, TextSet):
    """A local file as it stands: its rows in order.

    Args:
        path: jsonl, csv or parquet file with a text column, or a txt file, one sample a line.
        text_column: Column that holds the text.
        num_samples: Take the first rows only; None for all.
        skip_blank: Leave out empty and whitespace rows of a reference set instead of refusing them.
        on_too_long: Left-truncate a text that does not fit the context (with a warning that counts), or refuse it.
        skip_rows: Leave out the first rows of the file, such as those that another part of the config takes.
    """

    def __init__(
        self,
        path: str,
        text_column: str = "text",
        num_samples: int | None = None,
        skip_blank: bool = False,
        on_too_long: OnTooLong = "truncate",
        skip_rows: int = 0,
    ) -> None:
        check_at_least("num_samples", num_samples, 1)
        check_at_least("skip_rows", skip_rows, 0)
        self.source = Source(path, "", text_column=text_column)
        self.text_column = text_column
        self.num_samples = num_samples
        self.skip_rows = skip_rows
        self.skip_blank = skip_blank
        self.on_too_long = on_too_long

    def load(self, context: LoadContext) -> ReferenceSamples:
        """Tokenise the rows, special tokens as the tokenizer adds them but an end-of-text token. Every rank must call.

        Rank 0 reads for all.

        Raises:
            OSError: The file cannot be read.
            ValueError: A bad row, too few rows, or a text that is too long.
        """
        return from_rank_zero(lambda: self._encoded(context))

    def _encoded(self, context: LoadContext) -> ReferenceSamples:
        texts = self._texts()
        ids, counts = encode_samples(context.tokenizer, texts, context.max_length, self.on_too_long)
        bos = starts_with_bos(context.tokenizer, ids[0].tolist())
        return ReferenceSamples(
            ids=ids,
            source=self.describe() | counts | {"bos": bos},
            sample_ids=[place.rsplit(", ", 1)[-1].replace(" ", "-") for place, _ in texts],
            fingerprints=[fingerprint(text) for _, text in texts],
        )

    def load_rows(self) -> list[str]:
        """Give the rows in order, blank ones included; rank 0 reads for all. Every rank must call."""
        return from_rank_zero(
            lambda: [row.text(self.text_column, "text_column", allow_blank=True) for row in self._rows()]
        )

    def _rows(self) -> Iterator[Row]:
        return islice(self.source.rows(), self.skip_rows, None)

    def describe(self) -> dict[str, Any]:
        """Give the file and the options, as JSON."""
        options = ("num_samples", "skip_blank", "on_too_long", "skip_rows")
        return super().describe() | self.source.describe() | {option: getattr(self, option) for option in options}

    def _texts(self) -> list[tuple[str, str]]:
        """Give each sample's place and text."""
        texts: list[tuple[str, str]] = []
        for row in self._rows():
            text = row.text(self.text_column, "text_column", allow_blank=self.skip_blank)
            if text.strip():
                texts.append((row.place, text))
            if len(texts) == self.num_samples:
                break
        if len(texts) < (self.num_samples or 1):
            raise ValueError(
                f"`num_samples` is {self.num_samples or 'all'}, but {self.source.name} has only {len(texts)} texts. "
                "Lower `init_args.num_samples`."
            )
        return texts


class WikiText2(TextSet):
    """The raw rows of WikiText-2, from the hub or a local file.

    The hub's rows end in a newline each; the lines of a txt file don't. To get the published figures from a local
    copy, save the hub's rows as parquet or jsonl.

    Args:
        path: Local file; None for the hub.
        split: Split on the hub.
        text_column: Column that holds the text.
        dataset: Hub id.
        subset: Its configuration.
        revision: Commit on the hub; None for the newest.

    Source:
        Merity et al. 2016, Pointer Sentinel Mixture Models.
    """

    def __init__(
        self,
        path: str | None = None,
        split: str = "test",
        text_column: str = "text",
        dataset: str = "Salesforce/wikitext",
        subset: str | None = "wikitext-2-raw-v1",
        revision: str | None = None,
    ) -> None:
        self.source = Source(path, dataset, subset, split, revision, text_column=text_column)
        self.text_column = text_column

    def load_rows(self) -> list[str]:
        """Give all rows in order, blank ones included; rank 0 reads for all. Every rank must call.

        Raises:
            OSError: The source cannot be read.
            ValueError: A bad row.
        """
        return from_rank_zero(
            lambda: [row.text(self.text_column, "text_column", allow_blank=True) for row in self.source.rows()]
        )

    def describe(self) -> dict[str, Any]:
        """Give where the text comes from, as JSON."""
        return super().describe() | self.source.describe()
