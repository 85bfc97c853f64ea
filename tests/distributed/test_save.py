"""Saving a model that FSDP2 has sharded over ranks: all call and write files, nobody waits for a failure."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM

from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.text import TextFile
from sparc3_lightning.models import sharding
from sparc3_lightning.models.hf_directory import save_hf_directory
from sparc3_lightning.models.sharding import load_sharded_model, shard_model
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.save import save_pruned_model
from tests.distributed.memory import measured, peak_growth, save_wide_model
from tests.launch import run_distributed
from tests.tiny import tiny_llama
from tests.tiny_files import recipe_of, same_weights, save_tiny_model, tiny_tokenizer


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


def save_many_files(directory: str) -> None:
    """A bfloat16 model in float32 shards, as weight granularity keeps it."""
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    model = tiny_llama(dtype=torch.bfloat16, intermediate_size=25)
    recipe = recipe_of(model)
    shard_model(model, mesh, float32_shards=True)
    before = model.config.to_dict()
    with mock.patch.object(sharding, "MAX_SHARD_SIZE", 2000):
        save_pruned_model(model, tiny_tokenizer(), recipe, f"{directory}/many", dtype=torch.bfloat16)
        assert model.config.to_dict() == before
        # The last rank's disk is full.
        full = mock.patch.object(sharding, "save_file", side_effect=OSError("disk full"))
        with full if mesh.get_rank() else nullcontext(), pytest.raises(OSError, match="on rank 1: disk full"):
            save_pruned_model(model, tiny_tokenizer(), recipe, f"{directory}/none", dtype=torch.bfloat16)


def save_in_little_memory(wide: str, directory: str) -> None:
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    model = load_sharded_model(wide, partial(shard_model, mesh=mesh, float32_shards=True), torch.device("cpu"))
    whole = 2 * model.num_parameters()
    with mock.patch.object(sharding, "MAX_SHARD_SIZE", whole // 8), peak_growth() as saving:
        save_hf_directory(model, tiny_tokenizer(), f"{directory}/{mesh.size()}")
    assert saving.bytes < 0.6 * whole


def fit_and_save(model: str, text: str, directory: str) -> None:
    module = SparC3Module(model=model)
    data = SparC3DataModule(train_text=TextFile(path=text), block_length=8, batch_size=1)
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_steps=2,
        limit_val_batches=0,
        default_root_dir=directory,
        **quiet,
    )
    trainer.fit(module, datamodule=data)
    module.save_trained()


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


def test_ranks_write_files_in_the_type_of_the_run(tmp_path: Path) -> None:
    run_distributed(save_many_files, 2, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["many"]
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 4
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "many").eval()
    assert reloaded.dtype == torch.bfloat16
    model = tiny_llama(dtype=torch.bfloat16, intermediate_size=25)
    apply_recipe(model, recipe_of(model))
    assert same_weights(reloaded, model)
    model.save_pretrained(tmp_path / "transformers", max_shard_size=2000)
    save_hf_directory(model, tiny_tokenizer(), tmp_path / "one process")
    for name, by in (("config.json", "one process"), ("model.safetensors.index.json", "transformers")):
        assert (tmp_path / "many" / name).read_bytes() == (tmp_path / by / name).read_bytes()


@measured
def test_no_rank_holds_the_whole_model(tmp_path: Path) -> None:
    save_wide_model(tmp_path / "wide")
    run_distributed(save_in_little_memory, 4, str(tmp_path / "wide"), str(tmp_path))


def test_fit_on_two_ranks_leaves_one_whole_model(tmp_path: Path) -> None:
    """As the command line does, after Lightning has put the trainer away."""
    dense = save_tiny_model(tmp_path / "base")
    (tmp_path / "text.txt").write_text("".join(f"w{number % 7} w3 w{number % 5}\n" for number in range(64)))
    run_distributed(fit_and_save, 2, str(tmp_path / "base"), str(tmp_path / "text.txt"), str(tmp_path / "run"))
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["model"]
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    assert trained.state_dict().keys() == dense.state_dict().keys()
    assert not same_weights(trained, dense)


def test_every_rank_learns_that_rank_zero_could_not_write(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("precious")
    run_distributed(refuse_existing, 2, str(tmp_path / "taken"))
    assert [file.name for file in tmp_path.rglob("*")] == ["taken", "mine.txt"]
