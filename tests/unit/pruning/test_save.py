"""A saved model reloads without its neurons, whole or not at all, and the model in hand is as it was."""

import copy
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from lightning.pytorch import Trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sparc3_lightning.lrp.rules import attnlrp
from sparc3_lightning.models.hf_directory import free_path, save_hf_directory
from sparc3_lightning.models.load import load_model
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.card import model_card
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.save import save_pruned_model
from tests.tiny import PARTS, TINY, neuron_rows, rows_of, tiny_llama, tiny_samples
from tests.tiny_files import NEURONS, recipe_of, same_weights, tiny_tokenizer


def load(directory: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(directory).eval()


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(input_ids=tiny_samples([9])[0][None], use_cache=False).logits


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("tied", [False, True])
def test_reloads_without_the_neurons_and_nothing_else_changes(family: str, tied: bool, tmp_path: Path) -> None:
    model = TINY[family](tie_word_embeddings=tied)
    before = copy.deepcopy(model)
    save_pruned_model(model, tiny_tokenizer(), recipe_of(model), tmp_path / "pruned")
    assert same_weights(model, before)
    reloaded = load(tmp_path / "pruned")
    for layer, index in NEURONS:
        block, parts = reloaded.get_submodule(PARTS[family].blocks)[layer], PARTS[family]
        for part in parts.rows:
            assert not rows_of(family, part, block.get_submodule(part).weight)[neuron_rows(family, index)].any()
        assert not rows_of(family, parts.column, block.get_submodule(parts.column).weight)[:, index].any()
    with apply_recipe(before, recipe_of(before)):
        assert same_weights(reloaded, before)
        assert torch.equal(logits(reloaded), logits(before))
        assert same_weights(load_model(str(tmp_path / "pruned")), before)
    assert not torch.equal(logits(reloaded), logits(before))


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_a_dampened_model_reloads_with_its_factors(family: str, tmp_path: Path) -> None:
    model = TINY[family]()
    recipe = replace(recipe_of(model), factors=[0.25 * (1 + place % 3) for place in range(len(NEURONS))])
    save_pruned_model(model, tiny_tokenizer(), recipe, tmp_path / "dampened")
    assert Recipe.load(tmp_path / "dampened") == recipe
    with apply_recipe(model, recipe):
        assert same_weights(load(tmp_path / "dampened"), model)
    card = ModelCard.load(tmp_path / "dampened" / "README.md").content
    assert f"{len(NEURONS)} neurons dampened" in card
    assert "column in the layer that reads it is multiplied by the neuron's factor" in card
    assert "is zeroed" not in card


def test_directory_holds_what_hugging_face_users_expect(tmp_path: Path) -> None:
    model, directory = tiny_llama(), tmp_path / "pruned"
    save_pruned_model(model, tiny_tokenizer(), recipe_of(model), directory)
    expected = {"config.json", "generation_config.json", "model.safetensors", "pruned_neurons.json", "README.md"}
    assert expected | {"tokenizer.json", "tokenizer_config.json"} == {file.name for file in directory.iterdir()}
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o644}
    assert AutoTokenizer.from_pretrained(directory)("w0 w1")["input_ids"] == [3, 4]
    assert Recipe.load(directory) == recipe_of(model)


def test_recipe_beside_the_saved_model_changes_nothing_more(tmp_path: Path) -> None:
    model = tiny_llama()
    save_pruned_model(model, tiny_tokenizer(), recipe_of(model), tmp_path / "pruned")
    reloaded = load(tmp_path / "pruned")
    again = copy.deepcopy(reloaded)
    apply_recipe(again, Recipe.load(tmp_path / "pruned"))
    assert same_weights(again, reloaded)


def test_saved_under_the_rules_it_does_not_name_our_attention(tmp_path: Path) -> None:
    model = tiny_llama()
    with attnlrp(model):
        assert "sparc3" in model.config._attn_implementation
        save_hf_directory(model, tiny_tokenizer(), tmp_path / "model")
    assert "sparc3" not in (tmp_path / "model" / "config.json").read_text()
    assert load(tmp_path / "model").config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("fields", "kept"),
    [({"temperature": 0.6, "top_p": 0.9}, {"temperature": 0.6, "do_sample": True}), ({"max_new_tokens": -1}, {})],
)
def test_invalid_generation_config_does_not_lose_the_run(
    fields: dict[str, Any], kept: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_llama()
    vars(model.generation_config).update(fields)
    with pytest.raises(ValueError, match=r"GenerationConfig is invalid|max_new_tokens"):
        model.save_pretrained(tmp_path / "as transformers does")
    with pytest.warns(UserWarning, match="generation config is not valid"):
        save_hf_directory(model, tiny_tokenizer(), tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert kept.items() <= saved.items()
    assert "max_new_tokens" not in saved
    assert saved["eos_token_id"] == 2
    assert fields.items() <= vars(model.generation_config).items()
    assert model.generation_config.do_sample is not True


def test_valid_generation_config_is_kept_as_it_is(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model = tiny_llama()
    vars(model.generation_config).update(do_sample=True, temperature=0.6)
    save_hf_directory(model, tiny_tokenizer(), tmp_path / "model")
    assert load(tmp_path / "model").generation_config.temperature == 0.6
    assert not [warning for warning in recwarn if "generation config" in str(warning.message)]


def test_existing_directory_is_refused_and_the_model_restored(tmp_path: Path) -> None:
    model = tiny_llama()
    before = copy.deepcopy(model)
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="exists already"):
        save_pruned_model(model, tiny_tokenizer(), recipe_of(model), tmp_path / "pruned")
    assert [file.name for file in tmp_path.rglob("*")] == ["pruned", "mine.txt"]
    assert same_weights(model, before)


def test_error_in_the_middle_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    before = copy.deepcopy(model)

    def full(directory: Path) -> None:
        assert (Path(directory) / "model.safetensors").is_file()
        raise OSError("no space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="no space left"):
        save_pruned_model(model, tokenizer, recipe_of(model), tmp_path / "pruned")
    assert list(tmp_path.iterdir()) == []
    assert same_weights(model, before)


def test_another_base_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weight hash"):
        save_pruned_model(tiny_llama(seed=1), tiny_tokenizer(), recipe_of(tiny_llama()), tmp_path / "pruned")
    assert list(tmp_path.iterdir()) == []
    save_pruned_model(
        tiny_llama(seed=1), tiny_tokenizer(), recipe_of(tiny_llama()), tmp_path / "pruned", check_base=False
    )
    assert (tmp_path / "pruned" / "config.json").is_file()


def test_card_says_what_was_removed_from_what() -> None:
    card = model_card(recipe_of(tiny_llama()), "float32")
    assert card.data.base_model == "someone/tiny"
    assert card.data.license == "other"
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    for said in (
        "3 feed-forward",
        "revision `abc`",
        "behaviour: toxic (7 samples)",
        "Shapes are unchanged",
        "## Limits",
        "stored as float32",
        "Every other weight is the base",
    ):
        assert said in card.text
    assert "sparc3 apply --recipe pruned_neurons.json --model someone/tiny" in card.text


def test_card_of_a_recipe_without_a_hash_says_that_nothing_was_checked(tmp_path: Path) -> None:
    model = tiny_llama()
    recipe = replace(recipe_of(model), base_model={"id": "someone/tiny"})
    save_pruned_model(model.bfloat16(), tiny_tokenizer(), recipe, tmp_path / "pruned")
    card = (tmp_path / "pruned" / "README.md").read_text()
    assert "was not checked" in card
    assert "Every other weight is" not in card
    assert "stored as bfloat16" in card


def test_a_model_that_was_pruned_already_is_refused(tmp_path: Path) -> None:
    """Its other weights may be anything: the card would say that they are the base model's."""
    model = tiny_llama()
    recipe = recipe_of(model)
    apply_recipe(model, recipe)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    with pytest.raises(ValueError, match=r"weight hash .* lacks these neurons already"):
        save_pruned_model(model, tiny_tokenizer(), recipe, tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists()


def test_card_does_not_tell_where_a_local_base_model_lies() -> None:
    card = str(model_card(recipe_of(tiny_llama(), name="/secret/place/my_model", revision=None), "float32"))
    assert "my_model" in card
    assert "secret" not in card
    assert "base_model:" not in card
    assert "revision" not in card


def test_trained_model_is_saved_as_it_is(tmp_path: Path) -> None:
    model = tiny_llama()
    save_hf_directory(model, tiny_tokenizer(), tmp_path / "model")
    assert same_weights(load(tmp_path / "model"), model)
    assert not (tmp_path / "model" / "README.md").exists()


def test_free_path(tmp_path: Path) -> None:
    for expected in ("model", "model_1", "model_2"):
        assert free_path(tmp_path / "model") == tmp_path / expected
        (tmp_path / expected).mkdir()


def trained_module(tmp_path: Path, **options: Any) -> SparC3Module:
    module = SparC3Module(model="someone/tiny")
    module.model, module.tokenizer = tiny_llama(), tiny_tokenizer()
    module.trainer = Trainer(
        accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False, **options
    )
    module.log_dir = tmp_path  # what `setup` asks the trainer for
    return module


def test_fit_saves_a_second_model_beside_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = trained_module(tmp_path)
    module.save_trained()
    module.save_trained()
    assert same_weights(load(tmp_path / "model"), module.lm)
    assert same_weights(load(tmp_path / "model_1"), module.lm)
    assert f"trained model: {tmp_path / 'model_1'}" in capsys.readouterr().out


def test_trial_run_saves_nothing(tmp_path: Path) -> None:
    trained_module(tmp_path, fast_dev_run=True).save_trained()
    assert not (tmp_path / "model").exists()
