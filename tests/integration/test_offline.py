"""A cold cache without a network: the one line that says which is missing, before the model is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.module import SparC3Module
from tests.runs import QUIET, ROOT, TINY
from tests.shown import Type, refused

pytestmark = QUIET

LLAMA = "configs/llama3_8b/suppress.yaml"
OFFLINE = "configs/llama3_8b/local_files.yaml"
C4 = {"class_path": "sparc3_lightning.data.C4", "init_args": {"path": None, "num_samples": 2, "length": 8}}
PROMPTS = {"class_path": "sparc3_lightning.data.RealToxicityPrompts", "init_args": {"path": None}}
WIKITEXT = {"class_path": "sparc3_lightning.data.WikiText2", "init_args": {"path": None}}
DETOXIFY = {"class_path": "sparc3_lightning.metrics.DetoxifyScorer", "init_args": {}}
HUB = "Without network, set `data.{}.init_args.path`"


@pytest.fixture(autouse=True)
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was fetched, nothing can be; and a model is not loaded to find that out."""

    def load(*_: Any) -> None:
        raise AssertionError("the model is loaded before anyone looks")

    for name in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{name}.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(SparC3Module, "_load", load)


def replaced(key: str, value: dict[str, Any]) -> str:
    return f"--{key}={json.dumps(value)}"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            replaced("data.general", {"general_seed0": C4}),
            ["`allenai/c4` (en, split train)", HUB.format("general.general_seed0")],
        ),
        (
            replaced("data.evaluation_prompts", PROMPTS),
            ["`allenai/real-toxicity-prompts` (default, split train)", HUB.format("evaluation_prompts")],
        ),
        (
            replaced("data.evaluation_text", WIKITEXT),
            ["`Salesforce/wikitext` (wikitext-2-raw-v1, split test)", HUB.format("evaluation_text")],
        ),
        (
            replaced("model.evaluator.init_args.scorer", DETOXIFY),
            ["Detoxify's `original` is not at ", "toxic_original-c1212f89.ckpt", "DetoxifyScorer.init_args.checkpoint"],
        ),
        ("--model.tokenizer=someone/something", ["the tokenizer 'someone/something'", "HF_HOME"]),
    ],
    ids=["c4", "prompts", "text", "scorer", "model"],
)
def test_what_is_missing_is_named(option: str, said: list[str], type_in: Type) -> None:
    refused(type_in("predict", "--config", TINY, option), 1, "sparc3: error: ", *said)


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [
        ("test", replaced("data.evaluation_prompts", PROMPTS), "`allenai/real-toxicity-prompts`"),
        ("test", replaced("model.evaluator.init_args.scorer", DETOXIFY), "Detoxify's `original`"),
        ("validate", replaced("data.evaluation_text", WIKITEXT), "`Salesforce/wikitext`"),
        ("fit", replaced("data.train_text", WIKITEXT), "`Salesforce/wikitext`"),
    ],
)
def test_other_commands(command: str, option: str, said: str, type_in: Type) -> None:
    refused(type_in(command, "--config", TINY, option), 1, "sparc3: error: ", said)


def test_a_scorer_that_chooses_what_is_attributed_is_looked_for_too(type_in: Type) -> None:
    listed = json.dumps([{"class_path": f"callbacks.{name}"} for name in ("RelevanceCallback", "ScoreWriter")])
    options = {"path": "configs/tiny/prompts.jsonl", "select_by": "response", "num_prompts": 2}
    sets = {"toxic": {**PROMPTS, "init_args": options}}
    scorer = replaced("model.evaluator.init_args.scorer", DETOXIFY)
    chosen = replaced("data.behaviours", sets)
    shown = type_in("predict", "--config", TINY, chosen, scorer, f"--trainer.callbacks={listed}")
    refused(shown, 1, "sparc3: error: ", "Detoxify's `original`")


def test_what_a_command_does_not_read_may_be_missing(type_in: Type) -> None:
    """Only attribution: nobody reads the evaluation's text."""
    listed = json.dumps([{"class_path": f"callbacks.{name}"} for name in ("RelevanceCallback", "ScoreWriter")])
    with pytest.raises(AssertionError, match="the model is loaded"):
        type_in(
            "predict", "--config", TINY, replaced("data.evaluation_text", WIKITEXT), f"--trainer.callbacks={listed}"
        )


def test_the_commands_of_the_readme_name_files_of_their_own(type_in: Type) -> None:
    """Neither data nor scorer is asked of the hub: the first that is not there is a file."""
    assert f"--config {LLAMA} --config {OFFLINE}" in (ROOT / "README.md").read_text()
    tokenizer = f"--model.tokenizer={ROOT / 'configs' / 'tiny' / 'tokenizer'}"
    shown = type_in(
        "predict", "--config", LLAMA, "--config", OFFLINE, "--config", "configs/trainer/cpu.yaml", tokenizer
    )
    refused(shown, 1, "local/c4/en/c4-train.00000-of-01024.json.gz", "`data.general.general_seed0.init_args.path`")
