"""One reader for hub data sets and local files; what a file is refused for is named by file and line."""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Row:
    """One row of a data set and where it stands.

    Args:
        values: Column name to value.
        index: Number of the row, from 0.
        place: Where it stands, for messages: "c4.jsonl, line 12".
    """

    values: Mapping[str, Any]
    index: int
    place: str

    def text(self, column: str, option: str, *, allow_blank: bool = False) -> str:
        """Give a column that must hold text.

        Args:
            column: Name of the column.
            option: The option that chooses the column, for the message.
            allow_blank: Let an empty or whitespace text pass.

        Raises:
            ValueError: No such column, not a text, or blank.
        """
        if column not in self.values:
            raise ValueError(
                f"{self.place}: there is no column `{column}`, only {sorted(self.values)}. Set `init_args.{option}`."
            )
        value = self.values[column]
        if not isinstance(value, str):
            raise ValueError(
                f"{self.place}: `{column}` must be a text, got {type(value).__name__}. "
                f"Correct the row or set `init_args.{option}`."
            )
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{self.place}: `{column}` holds half of a surrogate pair, which is no character.")
        if not allow_blank and not value.strip():
            raise ValueError(f"{self.place}: `{column}` is empty or only whitespace. Remove the row or fill it.")
        return value

    def score(self, column: str) -> float | None:
        """Give a column that holds a score in [0, 1], or None where it is missing, empty or not a number (NaN).

        Raises:
            ValueError: The value is something else.
        """
        value = self.values.get(column)
        if value is None or value == "":
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"{self.place}: `{column}` must be a number or empty, got {value!r}.") from None
        if math.isnan(number):
            return None
        if not 0.0 <= number <= 1.0:
            raise ValueError(
                f"{self.place}: `{column}` must be between 0 and 1 (or empty), got {value!r}. Scale the scores of the "
                "file, such as percentages by 1/100, or correct the row."
            )
        return number


def read_file(path: str, text_column: str = "text") -> Iterator[Row]:
    """Read a local jsonl, txt, csv (each plain or .gz) or parquet file row by row.

    Args:
        path: The file; its suffix tells the format. A .json file holds one object a line, as C4's do.
        text_column: Name given to the lines of a txt file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Unknown format, an empty file or a broken row, named by file and line.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"`path` must be an existing file, got {path!r}. Set `init_args.path`.")
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    reader = _READERS.get(suffix.lower())
    if reader is None:
        raise ValueError(f"`path` must end in one of {sorted(_READERS)} (or .gz), got {path!r}. Set `init_args.path`.")
    row = None
    for row in reader(file, text_column):
        yield row
    if row is None:
        raise ValueError(f"{file.name} has no rows. Set `init_args.path` to a file that holds some.")


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file) if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Give each line with its place. Read as bytes, so that only newlines split and a bad byte has a line."""
    number, place = 0, f"{file.name}, line 1"
    try:
        with _open(file) as stream:
            for number, line in enumerate(stream, start=1):
                place = f"{file.name}, line {number}"
                yield place, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not UTF-8 text ({error.reason}). Convert the file to UTF-8.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{file.name}, after line {number}: the gzip file is broken or cut ({error}).") from error


def _read_txt(file: Path, text_column: str) -> Iterator[Row]:
    for index, (place, line) in enumerate(_lines(file)):
        yield Row({text_column: line}, index, place)


def _read_jsonl(file: Path, text_column: str) -> Iterator[Row]:
    blank = None
    for index, (place, line) in enumerate(_lines(file)):
        if not line.strip():
            blank = blank or place
            continue
        if blank is not None:  # editors leave blank lines at the end; one before a row is a row that was lost
            raise ValueError(f"{blank}: each line must hold one JSON object, got a blank line. Remove it.")
        if index == 0 and line.lstrip().startswith("["):
            raise ValueError(
                f"{place}: each line must hold one JSON object, got a JSON array. Write one object a line (jsonl), "
                "without the array's brackets and commas."
            )
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{place}: not valid JSON ({error.msg} at column {error.colno}): each line must hold one whole object."
            ) from None
        if not isinstance(values, dict):
            raise ValueError(f"{place}: each line must hold one JSON object, got {type(values).__name__}.")
        yield Row(values, index, place)


def _read_csv(file: Path, text_column: str) -> Iterator[Row]:
    place = f"{file.name}, line 1"

    def lines() -> Iterator[str]:
        nonlocal place
        for here, line in _lines(file):
            place = here
            yield f"{line}\n"

    reader = csv.DictReader(lines(), strict=True)
    try:
        for index, values in enumerate(reader):
            if None in values or None in values.values():
                raise ValueError(
                    f"{place}: the row must have {len(reader.fieldnames or ())} fields, as the header has."
                )
            yield Row(values, index, place)
    except csv.Error as error:
        raise ValueError(f"{place}: {error}. Correct the file, or use jsonl or parquet for long texts.") from None


def _read_parquet(file: Path, text_column: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        batches = (values for batch in table.iter_batches(batch_size=1024) for values in batch.to_pylist())
        for index, values in enumerate(batches):
            yield Row(values, index, f"{file.name}, row {index + 1}")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file.name}: not a readable parquet file ({error}).") from error


_READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


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
        """Read the first row: that there is none to be had shows before any long work. Raises as `rows`."""
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
