"""Saving a model that FSDP2 has sharded over two ranks: every rank calls, rank 0 writes, nobody waits for a failure."""

from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM

from sparc3_lightning.distributed.fsdp import shard_model
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.save import save_pruned_model
from tests.launch import run_distributed
from tests.tiny import tiny_llama
from tests.tiny_files import recipe_of, same_weights, tiny_tokenizer


def save_sharded(directory: str, tied: bool, *, expect: type[Exception] | None = None) -> None:
    torch.distributed.init_process_group("gloo")
    model = tiny_llama(tie_word_embeddings=tied)
    recipe = recipe_of(model)
    shard_model(model, init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
    before = {name: parameter.to_local().clone() for name, parameter in model.named_parameters()}
    if expect is None:
        save_pruned_model(model, tiny_tokenizer(), recipe, directory)
    else:
        with pytest.raises(expect):
            save_pruned_model(model, tiny_tokenizer(), recipe, directory)
    assert all(torch.equal(parameter.to_local(), before[name]) for name, parameter in model.named_parameters())


def refuse_existing(directory: str) -> None:
    save_sharded(directory, False, expect=FileExistsError)


@pytest.mark.parametrize("tied", [False, True])
def test_sharded_model_saves_what_one_process_saves(tied: bool, tmp_path: Path) -> None:
    run_distributed(save_sharded, 2, str(tmp_path / "sharded"), tied)
    model = tiny_llama(tie_word_embeddings=tied)
    save_pruned_model(model, tiny_tokenizer(), recipe_of(model), tmp_path / "whole")
    whole, sharded = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("whole", "sharded")
    )
    assert whole.keys() == sharded.keys()
    assert [name for name in whole if whole[name] != sharded[name]] == []
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "sharded").eval()
    apply_recipe(model, recipe_of(model))
    assert same_weights(reloaded, model)


def test_every_rank_learns_that_rank_zero_could_not_write(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("precious")
    run_distributed(refuse_existing, 2, str(tmp_path / "taken"))
    assert [file.name for file in tmp_path.rglob("*")] == ["taken", "mine.txt"]
