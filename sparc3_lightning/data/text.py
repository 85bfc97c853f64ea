"""Any local text file, as reference set or running text; and WikiText-2, the text of perplexity."""

from dataclasses import dataclass
from itertools import islice

from sparc3_lightning.data.samples import LoadContext, ReferenceSamples, ReferenceSet, TextSet, check_at_least
from sparc3_lightning.data.sources import Source
from sparc3_lightning.data.tokens import OnTooLong
from sparc3_lightning.distributed.ranks import from_rank_zero


# Annotations stand as types here, not as text (`from __future__`): else the parser would take any value.
@dataclass(eq=False)
class TextFile(ReferenceSet, TextSet):
    """A local file as it stands: its rows in order.

    Args:
        path: Jsonl, csv or parquet file with a text column, or a txt file, one sample a line.
        text_column: Column that holds the text.
        num_samples: Take the first rows only; None for all.
        skip_blank: Leave out empty and whitespace rows of a reference set instead of refusing them.
        on_too_long: Left-truncate a text that does not fit the context (with a warning that counts), or refuse it.
        skip_rows: Leave out the first rows of the file, such as those that another part of the config takes.
    """

    described = ("num_samples", "skip_blank", "on_too_long", "skip_rows")

    path: str
    text_column: str = "text"
    num_samples: int | None = None
    skip_blank: bool = False
    on_too_long: OnTooLong = "truncate"
    skip_rows: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        check_at_least("num_samples", self.num_samples, 1)
        check_at_least("skip_rows", self.skip_rows, 0)
        self.source: Source = Source(self.path, "", text_column=self.text_column)

    def load(self, context: LoadContext) -> ReferenceSamples:
        """Tokenise the rows, special tokens as the tokenizer adds them but an end-of-text one; rank 0 reads for all."""
        return from_rank_zero(lambda: self._encoded(context))

    def _encoded(self, context: LoadContext) -> ReferenceSamples:
        texts = self._texts()
        names = [place.rsplit(", ", 1)[-1].replace(" ", "-") for place, _ in texts]
        return ReferenceSamples.of_texts(names, texts, context, self.on_too_long, self.describe())

    def load_rows(self) -> list[str]:
        """Give the rows in order; rank 0 reads for all."""
        return _rows(self.source, self.skip_rows)

    def _texts(self) -> list[tuple[str, str]]:
        """Give each sample's place and text."""
        texts: list[tuple[str, str]] = []
        for row in islice(self.source.rows(), self.skip_rows, None):
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


@dataclass(eq=False)
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
        num_rows: Take the first rows only, for a cheaper perplexity that no published figure compares with; None for
            all.

    Source:
        Merity et al. 2016, Pointer Sentinel Mixture Models.
    """

    described = ("num_rows",)

    path: str | None = None
    split: str = "test"
    text_column: str = "text"
    dataset: str = "Salesforce/wikitext"
    subset: str | None = "wikitext-2-raw-v1"
    revision: str | None = None
    num_rows: int | None = None

    def __post_init__(self) -> None:
        """Say where the rows are."""
        check_at_least("num_rows", self.num_rows, 1)
        self.source: Source = Source(
            self.path, self.dataset, self.subset, self.split, self.revision, text_column=self.text_column
        )

    def load_rows(self) -> list[str]:
        """Give the rows in order; rank 0 reads for all."""
        return _rows(self.source, num_rows=self.num_rows)


def _rows(source: Source, skip_rows: int = 0, num_rows: int | None = None) -> list[str]:
    def read() -> list[str]:
        rows = islice(source.rows(), skip_rows, None if num_rows is None else skip_rows + num_rows)
        return [row.text(source.text_column, "text_column", allow_blank=True) for row in rows]

    return from_rank_zero(read)
