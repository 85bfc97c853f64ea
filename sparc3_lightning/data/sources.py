"""One reader for hub data sets and local files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sparc3_lightning.data.files import Row, read_file


@dataclass(frozen=True)
class Source:
    """A local file, or else a data set on the hub.

    Args:
        path: Local jsonl, txt, csv or parquet file; where given, the hub is not asked.
        dataset: Hub id of the data set.
        subset: Its configuration, such as `en`.
        split: Its split.
        revision: Commit, tag or branch on the hub; None for the newest.
        streaming: Read over the network as far as needed instead of downloading (and caching) all of it.
        text_column: Name given to the lines of a local txt file.
    """

    path: str | None
    dataset: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = False
    text_column: str = "text"

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or self.dataset

    def rows(self) -> Iterator[Row]:
        """Read the rows in order, lazily.

        Raises:
            OSError: The file is missing, or the hub cannot be reached or refuses.
            ValueError: The file is empty or a row is broken.
        """
        return read_file(self.path, self.text_column) if self.path is not None else self._hub_rows()

    def check(self) -> None:
        """Read the first row: that there is none to be had shows before any long work.

        Raises:
            OSError: As `rows`.
            ValueError: As `rows`.
        """
        next(self.rows(), None)

    def describe(self) -> dict[str, Any]:
        """Give what identifies the data, as JSON."""
        if self.path is not None:
            return {"path": self.path}
        return {key: value for key, value in asdict(self).items() if key not in ("path", "streaming", "text_column")}

    def _hub_rows(self) -> Iterator[Row]:
        values, index = self._load_dataset(), 0
        while True:
            try:
                row = Row(next(values), index, f"{self.dataset}, row {index + 1}")
            except StopIteration:
                return
            # The hub's clients raise unrelated types (OSError, httpx, aiohttp, datasets), at the start or midway.
            except Exception as error:
                raise OSError(self._hub_message(error)) from error
            yield row
            index += 1

    def _load_dataset(self) -> Iterator[dict[str, Any]]:
        from datasets import load_dataset

        yield from load_dataset(
            self.dataset, self.subset, split=self.split, revision=self.revision, streaming=self.streaming
        )

    def _hub_message(self, error: Exception) -> str:
        return (
            f"The data set `{self.dataset}` ({self.subset or 'default'}, split {self.split}) cannot be read from the "
            f"hub: {type(error).__name__}: {error}. If it is gated, accept its licence on its page and set HF_TOKEN. "
            "Without network, set `init_args.path` to a local jsonl, parquet, csv or txt copy, or set HF_HOME to a "
            "cache that was filled on a connected machine (with HF_HUB_OFFLINE=1)."
        )
