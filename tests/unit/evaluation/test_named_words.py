"""The log-probability of named words is the model's own, word by word, whatever the batch."""

import json
from pathlib import Path

import pytest
import torch

from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.named_words import NamedWords
from sparc3_lightning.metrics.measure import Material
from tests.tiny import tiny_llama
from tests.tiny_files import tiny_tokenizer

ROWS = [("w3 w4", "w5"), ("w6 w7 w8 w9", "w3"), ("w4", "w4")]


def material(max_tokens: int = 64) -> Material:
    return Material(
        model=tiny_llama(dtype=torch.float64), tokenizer=tiny_tokenizer(), prompts=[], completions=[], perplexity={},
        setting={}, batch_size=8, max_tokens=max_tokens, progress=lambda items, total, description: items,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "words.jsonl"
    lines = [json.dumps({"id": str(n), "prefix": prefix, "word": word}) for n, (prefix, word) in enumerate(ROWS)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("max_tokens", [5, 64])
def test_each_word_after_its_prefix(max_tokens: int, path: Path) -> None:
    given = material(max_tokens)
    (column,) = NamedWords(str(path), num_words=3, name="rude").columns(given)
    assert (column.name, column.unit, column.rows, column.better) == ("rude/log_probability", "nats", "word", "lower")
    for name, value in zip(column.ids, column.values.tolist(), strict=True):
        prefix, word = ROWS[int(name)]
        ids = torch.tensor([given.tokenizer(f"{prefix} {word}")["input_ids"]])
        with torch.no_grad():
            expected = given.model(input_ids=ids).logits[0, -2].log_softmax(-1)[ids[0, -1]]
        assert value == pytest.approx(float(expected), abs=1e-6)


def test_what_it_depends_on_is_said(path: Path) -> None:
    setting = NamedWords(str(path), num_words=3).setting()
    assert (setting["path"], setting["num_words"], setting["role"]) == (str(path), 3, "beside")
    path.write_text(path.read_text().replace("w5", "w6"))
    assert NamedWords(str(path), num_words=3).setting() != setting, "kept figures are of other words"
    with pytest.raises(
        ValueError, match=r"`num_words` is 4, but .* only 3 words .* Lower `NamedWords\.init_args\.num_words`"
    ):
        list(NamedWords(str(path), num_words=4).columns(material()))


def test_each_word_after_one_prefix_counts(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    path.write_text("".join(json.dumps({"prefix": "w3 w4", "word": f"w{n}"}) + "\n" for n in (5, 6, 7)))
    (column,) = NamedWords(str(path), num_words=3).columns(material())
    assert len({*column.ids}) == len({*column.values.tolist()}) == 3


def test_a_row_that_names_no_word_is_refused(path: Path) -> None:
    for row, missing in (({"text": "w3 w4"}, r"\['prefix', 'word'\]"), ({"prefix": "w3 w4"}, r"\['word'\]")):
        path.write_text(path.read_text().splitlines()[0] + "\n" + json.dumps(row) + "\n")
        said = rf"words\.jsonl, line 2: .*none of {missing}.* set `NamedWords\.init_args\.path`"
        with pytest.raises(ValueError, match=said):
            NamedWords(str(path), num_words=1).check(material().model, material().tokenizer)


def test_a_file_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    given = material()
    missing = Evaluator(measures=[NamedWords(str(tmp_path / "nowhere.jsonl"), num_words=3)])
    with pytest.raises((OSError, ValueError), match=r"nowhere\.jsonl"):
        missing.check(given.model, given.tokenizer, None, None)
