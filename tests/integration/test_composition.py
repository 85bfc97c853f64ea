"""How configs compose: what docs/configuration.md says of later files and the command line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sparc3_lightning.cli import SparC3CLI
from sparc3_lightning.main import main
from tests.runs import QUIET, ROOT, TINY

pytestmark = QUIET


@pytest.fixture(autouse=True)
def _unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SparC3CLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(SparC3CLI, "_run_subcommand", lambda self, subcommand: None)


def composed(tmp_path: Path, content: object, *options: str) -> dict[str, Any]:
    fragment = tmp_path / "fragment.yaml"
    fragment.write_text(yaml.safe_dump(content))
    words = ["predict", "--config", str(ROOT / TINY), "--config", str(fragment), *options]
    return main(words).config.predict.as_dict()


def test_a_later_file_replaces_all_sets_of_a_role(tmp_path: Path) -> None:
    """A set of the same name keeps what the new class knows, too; the other roles stay."""
    later = {"class_path": "sparc3_lightning.data.PromptFile", "init_args": {"path": "mine.jsonl"}}
    data = composed(tmp_path, {"data": {"behaviours": {"toxic": later}}})["data"]
    assert data["behaviours"]["toxic"]["init_args"]["path"] == "mine.jsonl"
    assert data["behaviours"]["toxic"]["init_args"]["part"] == "attribution"
    assert list(data["general"]) == ["general_seed0", "general_seed1", "general_seed2"]
    assert list(composed(tmp_path, {"data": {"behaviours": {"mine": later}}})["data"]["behaviours"]) == ["mine"]


def test_a_later_file_need_not_name_the_class_again(tmp_path: Path) -> None:
    sets = composed(tmp_path, {"data": {"behaviours": {"toxic": {"init_args": {"part": "all"}}}}})["data"]["behaviours"]
    assert sets["toxic"]["class_path"] == "sparc3_lightning.data.RealToxicityPrompts"
    assert sets["toxic"]["init_args"]["path"] == "configs/tiny/prompts.jsonl"
    assert sets["toxic"]["init_args"]["part"] == "all"


def test_the_command_line_changes_one_key_of_one_set(tmp_path: Path) -> None:
    option = "--data.behaviours.toxic.init_args.threshold=0.5"
    sets = composed(tmp_path, {"seed_everything": 1}, option)["data"]["behaviours"]
    assert sets["toxic"]["init_args"]["threshold"] == 0.5
    assert sets["toxic"]["init_args"]["path"] == "configs/tiny/prompts.jsonl"


def test_a_later_file_changes_one_key_of_the_evaluator_and_replaces_lists(tmp_path: Path) -> None:
    later = {
        "model": {"evaluator": {"init_args": {"decoding": {"num_completions": 1}}}},
        "trainer": {"callbacks": [{"class_path": "callbacks.RelevanceCallback"}]},
    }
    found = composed(tmp_path, later)
    assert found["model"]["evaluator"]["init_args"]["decoding"]["max_new_tokens"] == 12
    assert len(found["trainer"]["callbacks"]) == 1


def test_a_callback_s_options_cannot_be_reached_from_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        composed(tmp_path, {"seed_everything": 1}, "--trainer.callbacks.num_neurons=4")
