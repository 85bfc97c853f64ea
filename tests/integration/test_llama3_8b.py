"""The document's experiment on LLaMA-3-8B's exact shape: 225 layers, 458,752 neurons."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sparc3_lightning.lrp.modules import select_modules
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.runs import ROOT, read

MODULES = read(ROOT / "configs" / "llama3_8b" / "suppress.yaml")["model"]["modules"]


@pytest.fixture(scope="module")
def llama3_8b() -> LlamaForCausalLM:
    """LLaMA-3-8B's exact shape, without its 16 GB."""
    shape = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        return LlamaForCausalLM(shape)


@pytest.fixture
def _may_be_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights without values are refused, as they should; here only the names count."""
    monkeypatch.setattr("sparc3_lightning.lrp.modules._check_plain", lambda model, names: None)


@pytest.mark.usefixtures("_may_be_meta")
def test_document_attributes_llama3_8b(llama3_8b: LlamaForCausalLM) -> None:
    everything, left_out = select_modules(llama3_8b, "all")
    weights = sum(llama3_8b.get_submodule(name).weight.numel() for name in everything)
    total = sum(parameter.numel() for parameter in llama3_8b.parameters())
    assert (len(everything), left_out) == (225, [])
    assert weights == pytest.approx(7.50e9, rel=1e-3)
    assert weights / total == pytest.approx(0.934, abs=1e-3)
    neurons, _ = select_modules(llama3_8b, MODULES)
    assert neurons == [f"model.layers.{layer}.mlp.up_proj" for layer in range(32)]
    assert sum(llama3_8b.get_submodule(name).out_features for name in neurons) == 458_752


@pytest.mark.usefixtures("_may_be_meta")
def test_neuron_scores_of_llama3_8b_take_less_than_4_megabytes(llama3_8b: LlamaForCausalLM, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    names, _ = select_modules(llama3_8b, MODULES)
    shapes = {name: llama3_8b.get_submodule(name).out_features for name in names}
    scores = ScoreSet({name: torch.rand(rows, generator=generator) for name, rows in shapes.items()})
    scores.manifest["data"] = {"num_samples": 128, "target_ids": list(range(128)), "source": {"path": "x" * 1000}}
    directory = scores.save(tmp_path / "scores")
    size = sum(file.stat().st_size for file in directory.iterdir())
    assert 458_752 * 4 <= size < 4e6
    assert sum(score.numel() for score in ScoreSet.load(directory).scores.values()) == 458_752
