"""A table of trials comes back from its file as it was, or not at all."""

from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.trials.table import against_of, read_table, write_table

ROWS: list[dict[str, Any]] = [
    {"label": "baseline", "price": 10.0, "num": 0},
    {"label": 'a, "b"\nc', "price": 1 / 3, "num": 4, "is_plain": True, "pattern": "2:4", "error": None},
    {"label": "d", "price": 1e300, "num": 16, "is_plain": False},
]


def test_rows_come_back(tmp_path: Path) -> None:
    write_table(ROWS, tmp_path)
    names = {name for row in ROWS for name in row}
    assert read_table(tmp_path / "table.csv") == [{name: row.get(name) for name in names} for row in ROWS]


def test_a_table_without_rows_has_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n", encoding="utf-8")
    assert read_table(tmp_path / "t.csv") == []


@pytest.mark.parametrize("content", [b"a,b\n1\n", b"a,b\n1,2,3\n", b"a\n\xff\n", b'a,b\n1,"2\n'])
def test_a_damaged_table_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.csv is no (whole|readable) table"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match=r"no table at .*other\.csv: the run that writes it has not come to"):
        read_table(tmp_path / "other.csv")


def test_what_the_others_are_compared_with_shows_in_the_rows() -> None:
    def row(method: str, sparsity: float, price: float | None, against: float | None) -> dict[str, Any]:
        return {"method": method, "sparsity": sparsity, "pattern": None, "p": price, "p_against": against}

    # At 0.2 the reference has failed, so that nothing is compared there; and one of the others has failed at 0.5.
    rows = [{"method": "baseline", "p": 1.0}, row("a", 0.2, 2.0, None), row("ref", 0.2, None, None)]
    assert against_of(rows, "p") == ""
    rows += [row("b", 0.5, None, None), row("a", 0.5, 2.0, 0.5), row("ref", 0.5, 1.5, None)]
    assert against_of(rows, "p") == "ref"
