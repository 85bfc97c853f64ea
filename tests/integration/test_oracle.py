"""The project's scores against LXT's own monkey patch and a loop over single samples (architecture.md, invariant 2).

The oracle patches its whole process, so it runs in one of its own.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sparc3_lightning import attribute
from tests.tiny import LAYERS, PARTS, TINY, rows_of, tiny_samples

Scores = dict[str, Tensor]
TEXT = {"stories260K": ("tinystories/stories.jsonl", "text"), "realtext_lm": ("c4_sample/c4.jsonl", "text")}
# Ragged on purpose; realtext_lm's longest is its whole context.
LENGTHS = {"stories260K": (24, 3, 200, 1, 40, 96, 8, 64, 17), "realtext_lm": (20, 2, 128, 1, 64, 33, 9, 90, 13, 5)}
BATCH_SIZES = [1, 3, 8]


def real_samples(fixtures: Path, name: str) -> list[Tensor]:
    file, column = TEXT[name]
    rows = (fixtures / file).read_text().splitlines()[-len(LENGTHS[name]) :]
    tokenizer = AutoTokenizer.from_pretrained(fixtures / name)
    samples = [
        torch.tensor(tokenizer(json.loads(row)[column])["input_ids"][:length])
        for row, length in zip(rows, LENGTHS[name], strict=True)
    ]
    assert [len(sample) for sample in samples] == list(LENGTHS[name])
    return samples


def load(fixtures: Path, name: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(fixtures / name, dtype=torch.float32)


def oracle(fixtures: Path, name: str, samples: list[Tensor], directory: Path) -> Scores:
    script = fixtures.parent / "reference" / "naive_lxt.py"
    if not script.is_file():
        pytest.skip(f"the oracle is not at {script}")
    ids, scores = directory / "ids.pt", directory / "scores.pt"
    torch.save(samples, ids)
    command = [sys.executable, str(script), str(fixtures / name), str(ids), str(scores)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return torch.load(scores, weights_only=True)


@pytest.fixture(scope="module", params=sorted(TEXT))
def case(
    request: pytest.FixtureRequest, fixtures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, list[Tensor], Scores]:
    samples = real_samples(fixtures, request.param)
    expected = oracle(fixtures, request.param, samples, tmp_path_factory.mktemp("oracle"))
    model = load(fixtures, request.param)
    if model.config.tie_word_embeddings:
        del expected["lm_head"]  # a tied head's gradient also holds the input side (trap 13)
    return model, samples, expected


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_weight_scores(case: tuple[PreTrainedModel, list[Tensor], Scores], batch_size: int) -> None:
    model, samples, expected = case
    ours = attribute(model, samples, granularity="weight", modules="all", batch_size=batch_size)
    assert ours.scores.keys() == expected.keys()
    assert len(expected) == 7 * model.config.num_hidden_layers + (not model.config.tie_word_embeddings)
    assert ours.manifest["left_out"] == (["lm_head"] if model.config.tie_word_embeddings else [])
    for name, score in ours.scores.items():
        assert score.shape == expected[name].shape
        assert (score - expected[name]).abs().max() <= 1e-5 * expected[name].max(), name


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_neuron_scores_are_the_oracles_row_sums(
    case: tuple[PreTrainedModel, list[Tensor], Scores], batch_size: int
) -> None:
    model, samples, expected = case
    ours = attribute(model, samples, modules="all", batch_size=batch_size)
    for name, score in ours.scores.items():
        rows = expected[name].double().sum(1)
        assert (score - rows).abs().max() <= 1e-5 * rows.max(), name


def test_plain_gradients_are_another_thing(case: tuple[PreTrainedModel, list[Tensor], Scores]) -> None:
    # Trap 10: the tolerance above tells the rules from plain gradients times weights.
    model, samples, expected = case
    plain = {name: torch.zeros_like(score) for name, score in expected.items()}
    for sample in samples:
        model.zero_grad()
        model(input_ids=sample[None], use_cache=False).logits[0, -1].max().backward()
        for name, score in plain.items():
            weight = model.get_submodule(name).weight
            score += (weight.detach() * weight.grad).abs() / len(samples)
    model.zero_grad()
    for name, score in plain.items():
        if name != "lm_head":
            assert (score - expected[name]).abs().max() > 1e-2 * expected[name].max(), name


def test_absolute_value_after_averaging_is_another_thing(case: tuple[PreTrainedModel, list[Tensor], Scores]) -> None:
    # Trap 1, as method.md measured it: the selected sets overlap only in part.
    model, samples, expected = case
    name = "model.layers.2.mlp.up_proj"
    late = attribute(model, samples, granularity="weight", sign="signed").scores[name].abs().sum(1)
    right = expected[name].sum(1)
    top = right.numel() // 10
    overlap = set(late.topk(top).indices.tolist()) & set(right.topk(top).indices.tolist())
    assert len(overlap) < 0.9 * top


@pytest.mark.parametrize("variant", ["attnlrp", "cp_lrp"])
def test_families_that_lxt_has(variant: str, tmp_path: Path) -> None:
    """LXT knows no soft caps. Its identity rule divides by x + 1e-10."""
    builders: dict[str, Any] = {**TINY, "gemma3_text": partial(TINY["gemma3_text"], final_logit_softcapping=None)}
    families, samples = ("llama", "qwen2", "gpt2", "qwen3", "gemma3_text"), tiny_samples()
    models = {family: builders[family](dtype=torch.float64) for family in families}
    for family, model in models.items():
        model.save_pretrained(tmp_path / family)
    torch.save(samples, tmp_path / "ids.pt")
    script = Path(__file__).parents[1] / "reference" / "lxt_models.py"
    command = [sys.executable, str(script), str(tmp_path), variant]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for family, model in models.items():
        expected = torch.load(tmp_path / family / f"scores_{variant}.pt", weights_only=True)
        ours = attribute(model, samples, granularity="weight", modules="all", variant=variant).scores
        assert len(ours) == len(PARTS[family].linears) * LAYERS + 1
        for name, score in ours.items():
            if f"{name}.weight" not in expected:  # no gradient reached it
                assert not score.any(), name
                continue
            wanted = rows_of(family, name, expected[f"{name}.weight"])
            assert (score - wanted).abs().max() <= 1e-6 * wanted.max(), name
