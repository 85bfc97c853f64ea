"""Any text file and WikiText-2: rows in order, as they stand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer

from sparc3_lightning.data import LoadContext, TextFile, WikiText2


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "a.txt").write_text("first\n\n second line\n")
    return str(tmp_path / "a.txt")


def test_rows_keep_blank_lines_and_spaces(path: str) -> None:
    assert TextFile(path).load_rows() == ["first", "", " second line"]
    assert WikiText2(path).load_rows() == ["first", "", " second line"]


def test_a_blank_sample_is_refused_or_left_out(path: str, context: LoadContext) -> None:
    with pytest.raises(ValueError, match=r"a\.txt, line 2: `text` is empty or only whitespace"):
        TextFile(path).load(context)
    samples = TextFile(path, skip_blank=True).load(context)
    assert samples.sample_ids == ["line-1", "line-3"]
    assert [context.tokenizer.decode(ids, skip_special_tokens=True) for ids in samples.ids] == ["first", " second line"]
    assert samples.source["bos"] is True


def test_the_first_samples_only(path: str, context: LoadContext) -> None:
    assert TextFile(path, num_samples=1).load(context).sample_ids == ["line-1"]
    with pytest.raises(ValueError, match=r"`num_samples` is 3, but .*a\.txt has only 2 texts"):
        TextFile(path, num_samples=3, skip_blank=True).load(context)


def test_long_samples_are_truncated_or_refused(path: str, context: LoadContext) -> None:
    short = LoadContext(context.tokenizer, 8)
    with pytest.warns(UserWarning, match="1 of 2 texts were left-truncated to 8 tokens"):
        samples = TextFile(path, skip_blank=True).load(short)
    assert context.tokenizer.decode(samples.ids[1], skip_special_tokens=True) == "nd line"
    assert samples.source["num_truncated"] == 1
    with pytest.raises(ValueError, match=r"a\.txt, line 3: the text has 13 tokens"):
        TextFile(path, skip_blank=True, on_too_long="refuse").load(short)


def test_other_columns(write_jsonl: Callable[..., str]) -> None:
    path = write_jsonl([{"body": "x"}, {"body": ""}])
    assert TextFile(path, text_column="body").load_rows() == ["x", ""]
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: there is no column `text`, only \['body'\]"):
        WikiText2(path).load_rows()


def test_hub_rows_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": ""}, {"text": " = Title = \n"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: datasets.Dataset.from_list(rows))
    assert WikiText2().load_rows() == ["", " = Title = \n"]
    assert WikiText2().describe() == {
        "class": "WikiText2",
        "dataset": "Salesforce/wikitext",
        "subset": "wikitext-2-raw-v1",
        "split": "test",
        "revision": None,
        "num_rows": None,
    }


def test_first_rows_only(write_jsonl: Callable[..., str]) -> None:
    path = write_jsonl([{"text": name} for name in "abc"])
    assert WikiText2(path, num_rows=2).load_rows() == ["a", "b"]
    with pytest.raises(ValueError, match="`num_rows` must be at least 1, got 0"):
        WikiText2(path, num_rows=0)


@pytest.mark.parametrize("name", ["test.txt", "heldout.txt"])
def test_the_real_text_has_all_its_lines(fixtures: Path, name: str) -> None:
    rows = WikiText2(str(fixtures / "wikitext2" / name)).load_rows()
    assert len(rows) == {"test.txt": 4358, "heldout.txt": 737}[name]


def test_the_heldout_text_has_the_published_number_of_tokens(fixtures: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(fixtures / "realtext_lm")
    rows = WikiText2(str(fixtures / "wikitext2" / "heldout.txt")).load_rows()
    assert len(tokenizer("\n\n".join(rows), verbose=False)["input_ids"]) == 120_497
