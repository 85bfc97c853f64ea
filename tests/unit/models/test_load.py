"""Loading a model: all of its weights, or an error."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparc3_lightning.models.load import load_model
from tests.tiny import tiny_llama


@pytest.mark.parametrize("tied", [False, True])
def test_a_whole_checkpoint_loads(tied: bool, tmp_path: Path) -> None:
    model = tiny_llama(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert not loaded.training
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_missing_weights_are_not_made_up(name: str, tmp_path: Path) -> None:
    """transformers puts random ones in their place, and only logs it."""
    tiny_llama().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks 1, such as {name}"):
        load_model(str(tmp_path))


def test_a_cut_file_is_told(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut or damaged"):
        load_model(str(tmp_path))
