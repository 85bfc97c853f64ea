"""The hub: asked with the right arguments, and every failure says what to do."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from sparc3_lightning.data import C4, LoadContext, RealToxicityPrompts, WikiText2
from sparc3_lightning.data.sources import Source
from tests.launch import PATIENCE


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
