"""WikiText-2, the text of perplexity."""

from __future__ import annotations

from typing import Any

from sparc3_lightning.data.samples import TextSet
from sparc3_lightning.data.sources import Source
from sparc3_lightning.distributed.ranks import from_rank_zero


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
