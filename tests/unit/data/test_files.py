"""Local files: every format gives the same rows, and whatever is wrong is named by file and line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparc3_lightning.data.files import Row, read_file

TEXTS = ["one, two", 'with "quotes"\nand a line', "caf\u00e9 \u2028 still the same line"]


def as_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def as_csv(texts: list[str]) -> bytes:
    return ("id,text\n" + "".join('{},"{}"\n'.format(*row) for row in enumerate(quoted(texts)))).encode()


def quoted(texts: list[str]) -> list[str]:
    return [text.replace('"', '""') for text in texts]


def as_parquet(texts: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": texts}), sink)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("a.jsonl", as_jsonl),
        ("a.json", as_jsonl),
        ("a.jsonl.gz", lambda texts: gzip.compress(as_jsonl(texts))),
        ("a.csv", as_csv),
        ("a.parquet", as_parquet),
    ],
)
def test_formats_give_the_same_texts(tmp_path: Path, name: str, encode: Callable[[list[str]], bytes]) -> None:
    (tmp_path / name).write_bytes(encode(TEXTS))
    rows = list(read_file(str(tmp_path / name)))
    assert [row.text("text", "text_column") for row in rows] == TEXTS
    assert [row.index for row in rows] == [0, 1, 2]
    assert rows[0].place.startswith(name)


def test_txt_splits_at_newlines_only_and_keeps_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\ntwo\u2028still two\x0cand\n".encode())
    rows = list(read_file(str(tmp_path / "a.txt"), text_column="prompt"))
    assert [row.values for row in rows] == [{"prompt": "one"}, {"prompt": ""}, {"prompt": "two\u2028still two\x0cand"}]
    assert rows[2].place == "a.txt, line 3"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n\n \n{"text": "y"}\n', r"a\.jsonl, line 2: .* got a blank line"),
        ("a.jsonl", b'\n{"text": "x"}\n', r"a\.jsonl, line 1: .* got a blank line"),
        ("a.jsonl", b"\n\n", r"a\.jsonl has no rows"),
        ("a.jsonl", b'["x"]\n', r"a\.jsonl, line 1: each line must hold one JSON object, got a JSON array"),
        ("a.json", b'[\n  {\n    "text": "x"\n  }\n]\n', r"a\.json, line 1: .* JSON array\. Write one object a line"),
        ("a.jsonl", b'{"text": "x"}\n["y"]\n', r"a\.jsonl, line 2: each line must hold one JSON object, got list"),
        ("a.json", b'{\n  "text": "x"\n}\n', r"a\.json, line 1: not valid .*: each line must hold one whole object"),
        ("a.jsonl", b"", r"a\.jsonl has no rows"),
        ("a.txt", b"", r"a\.txt has no rows"),
        ("a.csv", b"id,text\n", r"a\.csv has no rows"),
        ("a.csv", b"id,text\n1,x\n2\n", r"a\.csv, line 3: the row must have 2 fields"),
        ("a.csv", b"id,text\n1,x,y\n", r"a\.csv, line 2: the row must have 2 fields"),
        ("a.csv", b'id,text\n1,"open\n2,x\n', r"a\.csv, line 3: unexpected end of data"),
        ("a.csv", b"text\n" + b"x" * 200_000 + b"\n", r"a\.csv, line 2: field larger than field limit"),
        ("a.txt", b"fine\n\xff\xfe\n", r"a\.txt, line 2: not UTF-8"),
        ("a.parquet", b"PAR1 but no more", r"a\.parquet: not a readable parquet file"),
        ("a.jsonl.gz", b"not gzip", r"a\.jsonl\.gz, after line 0: the gzip file is broken"),
        ("a.jsonl.gz", gzip.compress(as_jsonl(TEXTS))[:-9], r"a\.jsonl\.gz, after line \d: the gzip file is broken"),
        ("a.xlsx", b"x", r"`path` must end in one of .*\.csv.*a\.xlsx"),
    ],
)
def test_bad_files_are_named_by_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_file(str(tmp_path / name)))


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n", b"\r\n \r\n\n"])
def test_blank_lines_at_the_end_are_an_editor_s(end: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}\n{"text": "y"}' + end)
    rows = list(read_file(str(tmp_path / "a.jsonl")))
    assert [(row.values["text"], row.index) for row in rows] == [("x", 0), ("y", 1)]


def test_empty_parquet_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(as_parquet([]))
    with pytest.raises(ValueError, match=r"a\.parquet has no rows"):
        list(read_file(str(tmp_path / "a.parquet")))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "."])
def test_missing_file_and_directory_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"`path` must be an existing file, got .*init_args\.path"):
        list(read_file(str(tmp_path / name)))


def test_rows_before_a_broken_line_are_read_lazily(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\nbroken\n')
    assert next(read_file(str(tmp_path / "a.jsonl"))).values == {"text": "x"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"body": "x"}, r"a\.csv, line 7: there is no column `text`, only \['body'\].*init_args\.text_column"),
        ({"text": None}, r"line 7: `text` must be a text, got NoneType"),
        ({"text": 3}, r"line 7: `text` must be a text, got int"),
        ({"text": ""}, r"line 7: `text` is empty or only whitespace"),
        ({"text": " \n\t\u00a0"}, r"line 7: `text` is empty or only whitespace"),
        ({"text": "a\ud800"}, r"line 7: `text` holds half of a surrogate pair"),
    ],
)
def test_text_refuses_what_is_no_text(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Row(values, 6, "a.csv, line 7").text("text", "text_column")


@pytest.mark.parametrize(
    ("value", "score"),
    [(0.5, 0.5), ("0.25", 0.25), (1, 1.0), (None, None), ("", None), (float("nan"), None), ("nan", None)],
)
def test_score_knows_the_forms_of_a_missing_number(value: Any, score: float | None) -> None:
    assert Row({"s": value}, 0, "").score("s") == score
    assert Row({}, 0, "").score("s") is None


def test_score_refuses_words() -> None:
    with pytest.raises(ValueError, match="line 3: `s` must be a number or empty, got 'high'"):
        Row({"s": "high"}, 2, "a.csv, line 3").score("s")


@pytest.mark.parametrize("value", [87.5, -0.01, 1.01, "95", float("inf")])
def test_score_refuses_what_is_no_share(value: Any) -> None:
    """Of a file in percent nearly every row would pass "at least 0.9"."""
    message = f"a\\.csv, line 3: `toxicity` must be between 0 and 1 \\(or empty\\), got {value!r}"
    with pytest.raises(ValueError, match=message):
        Row({"toxicity": value}, 2, "a.csv, line 3").score("toxicity")
