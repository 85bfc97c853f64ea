"""Local files: equal rows in every format, faults named by file and line. The hub: failures say what to do."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparc3_lightning.data import C4, LoadContext, RealToxicityPrompts, WikiText2
from sparc3_lightning.data.sources import Row, Source, read_file
from tests.launch import PATIENCE

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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def load_dataset(*args: Any, **options: Any) -> datasets.IterableDataset:
        calls.append((args, options))
        rows = [{"text": f"document {number}"} for number in range(3)]
        return datasets.Dataset.from_list(rows).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, load_dataset: Callable[..., Any]) -> None:
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_c4_streams_its_revision(asked: list[Any]) -> None:
    rows = list(C4(revision="abc").source.rows())
    assert asked == [(("allenai/c4", "en"), {"split": "train", "revision": "abc", "streaming": True})]
    assert [row.values["text"] for row in rows] == ["document 0", "document 1", "document 2"]
    assert rows[2].place == "allenai/c4, row 3"


def test_small_data_sets_are_downloaded_so_that_the_cache_serves_offline_runs(asked: list[Any]) -> None:
    list(RealToxicityPrompts(revision="r1").source.rows())
    WikiText2().load_rows()
    assert asked == [
        (("allenai/real-toxicity-prompts", None), {"split": "train", "revision": "r1", "streaming": False}),
        (("Salesforce/wikitext", "wikitext-2-raw-v1"), {"split": "test", "revision": None, "streaming": False}),
    ]


def test_the_hub_is_asked_lazily(asked: list[Any]) -> None:
    rows = Source(None, "some/set", streaming=True).rows()
    assert asked == []
    next(rows)
    assert len(asked) == 1


def test_a_local_file_never_asks_the_hub(asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x\n")
    assert [row.values for row in Source(str(tmp_path / "a.txt"), "").rows()] == [{"text": "x"}]
    assert asked == []


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("Dataset 'allenai/c4' is a gated dataset on the Hub."),
        ConnectionError("Couldn't reach 'allenai/c4' on the Hub"),
        ValueError("BuilderConfig 'en' not found. Available: ['de']"),
    ],
)
def test_a_refusal_says_what_to_do(monkeypatch: pytest.MonkeyPatch, context: LoadContext, error: Exception) -> None:
    def load_dataset(*args: Any, **options: Any) -> Any:
        raise error

    failing(monkeypatch, load_dataset)
    with pytest.raises(OSError, match=r"allenai/c4.*licence.*HF_TOKEN.*init_args\.path.*HF_HOME") as raised:
        C4(num_samples=1, length=8).load(context)
    assert str(error) in str(raised.value)
    assert raised.value.__cause__ is error


def test_a_connection_lost_midway_is_an_error_and_not_a_short_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **options: Any) -> Iterator[dict[str, str]]:
        yield {"text": "one"}
        raise TimeoutError("timed out")

    failing(monkeypatch, load_dataset)
    with pytest.raises(OSError, match=r"Salesforce/wikitext.*TimeoutError: timed out"):
        WikiText2().load_rows()


def test_an_error_of_the_reader_of_the_rows_is_not_blamed_on_the_hub(asked: list[Any]) -> None:
    rows = Source(None, "some/set").rows()
    next(rows)
    with pytest.raises(KeyError):
        rows.throw(KeyError("mine"))  # type: ignore[attr-defined]


OFFLINE = """
from sparc3_lightning.data import C4
next(C4().source.rows())
"""


def test_offline_for_real() -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    assert "OSError: The data set `allenai/c4` (en, split train) cannot be read from the hub" in done.stderr
    assert "HF_TOKEN" in done.stderr


def test_source_is_described_by_what_identifies_it() -> None:
    assert Source("a.txt", "some/set").describe() == {"path": "a.txt"}
    hub = {"dataset": "some/set", "subset": "en", "split": "train", "revision": "abc"}
    assert Source(None, "some/set", "en", revision="abc", streaming=True).describe() == hub
