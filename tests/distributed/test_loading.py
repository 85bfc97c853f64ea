"""Loading straight into shards: the model that one process loads, in no more memory than a rank's own part takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.models.identity import base_model, weight_hash
from sparc3_lightning.models.load import load_model
from sparc3_lightning.models.sharding import load_sharded_model, shard_model
from tests.distributed.memory import measured, peak_growth, save_wide_model
from tests.launch import run_distributed
from tests.tiny import tiny_llama, tiny_qwen2

CPU = torch.device("cpu")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def load(name: str, shard: Callable[[PreTrainedModel], None] | None = None, **options: Any) -> PreTrainedModel:
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    return load_sharded_model(name, shard or (lambda model: shard_model(model, mesh)), CPU, **options)


# The same model


def checkpoints(directory: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Directories and load options: one file, several, tied under either name or both, biases, other types."""

    def save(name: str, model: PreTrainedModel, **options: Any) -> Path:
        model.save_pretrained(directory / name, **options)
        return directory / name

    def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        weights = load_file(path / "model.safetensors")
        change(weights)
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        return path

    tied = {"tie_word_embeddings": True}
    half = save("half", tiny_llama(dtype=torch.bfloat16, intermediate_size=21))
    untyped = save("untyped", tiny_llama(dtype=torch.bfloat16))
    config = json.loads((untyped / "config.json").read_text())
    del config["dtype"]
    (untyped / "config.json").write_text(json.dumps(config))
    return [
        (save("one file", tiny_llama(intermediate_size=9)), {}),
        (save("many files", tiny_llama(), max_shard_size=4000), {}),
        (save("tied", tiny_llama(**tied)), {}),
        (rewrite(save("head", tiny_llama(**tied)), lambda w: w.update({HEAD: w.pop(EMBEDDING)})), {}),
        (rewrite(save("both", tiny_llama(**tied)), lambda w: w.update({HEAD: w[EMBEDDING].clone()})), {}),
        (save("biases", tiny_qwen2()), {}),
        (half, {}),
        (half, {"dtype": "float32"}),
        (half, {"dtype": "float64"}),
        (untyped, {}),
    ]


def same_as_one_process(cases: list[tuple[Path, dict[str, Any]]]) -> None:
    torch.distributed.init_process_group("gloo")
    for directory, options in cases:
        wanted, found = load_model(str(directory), **options), load(str(directory), **options)
        assert not found.training
        assert found.dtype == wanted.dtype, directory
        assert found.name_or_path == wanted.name_or_path == str(directory)
        assert found.generation_config.to_dict() == wanted.generation_config.to_dict()
        assert found.config.to_dict() == wanted.config.to_dict()
        assert found.get_output_embeddings().weight is not None
        assert (found.get_output_embeddings().weight is found.get_input_embeddings().weight) == (
            wanted.get_output_embeddings().weight is wanted.get_input_embeddings().weight
        )
        shards = dict(found.named_parameters())
        assert shards.keys() == dict(wanted.named_parameters()).keys()
        for name, value in wanted.named_parameters():
            shard = shards[name]
            assert isinstance(shard, DTensor)
            assert shard.dtype == value.dtype
            assert torch.equal(shard.full_tensor(), value), (directory, name)
        buffers = dict(found.named_buffers())
        for name, value in wanted.named_buffers():
            assert buffers[name].dtype == value.dtype
            assert torch.equal(buffers[name], value), (directory, name)
        assert base_model(found) == base_model(wanted)
        ids = torch.tensor([[3, 5, 7, 9]])
        with torch.no_grad():
            assert torch.equal(found(ids).logits, wanted(ids).logits), directory


@pytest.mark.parametrize("world", [2, 4])
def test_the_model_that_one_process_loads(world: int, tmp_path: Path) -> None:
    run_distributed(same_as_one_process, world, checkpoints(tmp_path))


# Refusals


def refused(cases: list[tuple[str, type[Exception], str]]) -> None:
    torch.distributed.init_process_group("gloo")
    for name, error, message in cases:
        with pytest.raises(error, match=message):
            load(name)


def test_what_is_not_whole_is_refused_on_every_rank(tmp_path: Path) -> None:
    def broken(name: str, change: Callable[[dict[str, torch.Tensor]], object], **options: Any) -> str:
        tiny_llama(**options).save_pretrained(tmp_path / name)
        weights = load_file(tmp_path / name / "model.safetensors")
        change(weights)
        save_file(weights, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        return str(tmp_path / name)

    up = "model.layers.1.mlp.up_proj.weight"
    missing = broken("missing", lambda weights: weights.pop(up))
    other = broken("other", lambda weights: weights.update({up: weights[up][:-1].clone()}))
    # In the last row, which the last rank reads.
    differs = torch.eye(48, 16).flip(0)
    untied = broken("untied", lambda w: w.update({HEAD: w[EMBEDDING] + differs}), tie_word_embeddings=True)
    cut = Path(broken("cut", lambda weights: None)) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    tiny_llama().save_pretrained(tmp_path / "gap", max_shard_size=4000)
    gone = sorted((tmp_path / "gap").glob("model-*"))[1]
    gone.unlink()
    config = json.loads((Path(missing) / "config.json").read_text())
    (tmp_path / "quantised").mkdir()
    tiny_llama().save_pretrained(tmp_path / "quantised")
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (tmp_path / "quantised" / "config.json").write_text(json.dumps(config))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text((tmp_path / "cut" / "config.json").read_text())
    run_distributed(
        refused,
        2,
        [
            (missing, ValueError, rf"lacks 1, such as {up}"),
            (other, ValueError, rf"weight {up} of .* must have shape \[24, 16\] by its config, got \[23, 16\]"),
            (untied, ValueError, r"on rank 1: .*ties lm_head\.weight to model\.embed_tokens\.weight"),
            (str(cut.parent), ValueError, "cut or damaged"),
            (str(gone.parent), OSError, gone.name),
            (str(tmp_path / "quantised"), ValueError, "must not be quantised"),
            (str(tmp_path / "empty"), OSError, r"no model\.safetensors"),
            (str(tmp_path / "nowhere"), OSError, "no such directory"),
            ("someone/unknown", OSError, "HF_HOME"),
        ],
    )


# A hub's cache

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def from_the_cache(cache: str) -> None:
    torch.distributed.init_process_group("gloo")
    with mock.patch("huggingface_hub.constants.HF_HUB_CACHE", cache):
        for revision in (None, "main", COMMIT):
            model = load("someone/tiny", revision=revision)
            assert base_model(model)["revision"] == COMMIT
            assert base_model(model)["id"] == "someone/tiny"
            assert base_model(model) == base_model(load_model("someone/tiny", revision))
        with pytest.raises(OSError, match="HF_HOME"):
            load("someone/tiny", revision="v2")


def test_a_hub_id_in_the_cache(tmp_path: Path) -> None:
    """Offline, as on a cluster: the revision asked for, or the one that `main` was when it was fetched."""
    repository = tmp_path / "models--someone--tiny"
    tiny_llama().save_pretrained(repository / "snapshots" / COMMIT, max_shard_size=4000)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    run_distributed(from_the_cache, 2, str(tmp_path))


# Memory


def load_in_little_memory(wide: str, small: str, float32: bool) -> None:
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))

    def shard(model: PreTrainedModel) -> None:
        shard_model(model, mesh, float32)

    load(small, shard)  # what is imported and allocated once is not the model's
    with peak_growth() as loading:
        model = load(wide, shard)
    mine = sum(parameter.to_local().nbytes for parameter in model.parameters())
    assert mine > 50 * 2**20
    assert mine < loading.bytes < 1.3 * mine
    with peak_growth() as hashing:
        weight_hash(model)
    assert hashing.bytes < 0.25 * 2 * sum(parameter.numel() for parameter in model.parameters())


@measured
def test_no_rank_holds_more_than_its_part(tmp_path: Path) -> None:
    """A rank's resident memory, pages of the mapped file included, stays below 1.3 times its shards."""
    tiny_llama().save_pretrained(tmp_path / "small")
    save_wide_model(tmp_path / "wide")
    run_distributed(load_in_little_memory, 2, str(tmp_path / "wide"), str(tmp_path / "small"), False)
    run_distributed(load_in_little_memory, 4, str(tmp_path / "wide"), str(tmp_path / "small"), True)
