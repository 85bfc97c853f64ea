"""A table of trials: a row a model, the baseline first; what its columns are, its file written and read. No torch."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparc3_lightning.files import write_bytes, write_text

TABLE_FILE = "table.csv"
AT_PRICE_FILE = "at_price.csv"
_WORDS = {"True": True, "False": False, "": None}
Row = Mapping[str, Any]


def prices_of(rows: Sequence[Row]) -> list[str]:
    """Columns of a table of trials that hold a price, in its order: intervals of their changes are relative."""
    derived = {name for row in rows for name in row}
    return [name for name in rows[0] if not {f"{name}_relative_low", f"{name}_against"}.isdisjoint(derived)]


def short_names(prices: Sequence[str]) -> dict[str, str]:
    """What tells prices from each other: of those of one measure what follows its name, such as `sliding`."""
    parts = {price: price.partition("_") for price in prices}
    is_one = len({kind for kind, _, _ in parts.values()}) == 1 and all(which for _, _, which in parts.values())
    return {price: which if is_one else price for price, (_, _, which) in parts.items()}


def behaviour_of(rows: Iterable[Row]) -> str:
    """Column of a sweep's table that says what became of the behaviour; empty where none was measured."""
    return next((str(row["behaviour"]) for row in rows if row.get("behaviour")), "")


def against_of(rows: Sequence[Row], price: str) -> str:
    """The method that a compression's others are compared with: the one without a comparison beside some that have one.

    Empty where nothing is compared.
    """
    done, name = [row for row in rows[1:] if row.get(price) is not None], f"{price}_against"
    amounts = {(row["sparsity"], row["pattern"]) for row in done if row.get(name) is not None}
    beside = (row for row in done if row.get(name) is None and (row["sparsity"], row["pattern"]) in amounts)
    return next((str(row["method"]) for row in beside), "")


def write_table(rows: Sequence[Row], directory: Path) -> None:
    """Write `table.csv` and `table.parquet`, each whole or not at all."""
    import pandas as pd  # what only reads does without

    # Whole numbers stay whole where the baseline has none.
    table = pd.DataFrame(rows).convert_dtypes()
    write_text(directory / TABLE_FILE, table.to_csv(index=False))
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(directory / "table.parquet", buffer.getvalue())


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file as they were before they were written; what is missing is None.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no table: not UTF-8, or a row has other cells than the head.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}: the run that writes it has not come to its end.")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no readable table ({error}).") from error
    # A row that is too long has its surplus under None, and one that is too short has None for what it lacks.
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path} is no whole table: it has a row with other cells than its head.")
    return [{name: _value(text) for name, text in row.items()} for row in rows]


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
