"""Wanda's masks on a pretrained model, against the paper's algorithm written again."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparc3_lightning.scoring.plain import score_baselines
from sparc3_lightning.scoring.weights import lowest_per_row
from tests.reference.wanda import PARTS, sequential_masks


@pytest.fixture(autouse=True)
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' norms compute in float32 even in a float64 model; the reference does not."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


def test_masks_of_stories260k_are_the_paper_s(fixtures: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(fixtures / "stories260K", dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(fixtures / "stories260K")
    stories = [json.loads(line)["text"] for line in (fixtures / "tinystories/stories.jsonl").open()]
    # Of different lengths, so that batches are padded.
    samples = [tokenizer(story, return_tensors="pt").input_ids[0, : 20 + 9 * n] for n, story in enumerate(stories[:5])]
    wanted = sequential_masks(
        model.config, {name: value.clone() for name, value in model.state_dict().items()}, samples, 0.5
    )
    found = score_baselines(model, {"general": samples}, ["wanda_sequential", "wanda"], batch_size=2,
                            granularity="weight", modules="all", sparsity=0.5)  # fmt: skip
    scores = found["wanda_sequential"].sets["general"].scores
    assert set(scores) == set(wanted)
    assert len(scores) == 5 * len(PARTS)
    one_shot = found["wanda"].sets["general"].scores
    for name, mask in wanted.items():
        assert torch.equal(lowest_per_row(scores[name], 0.5), mask), name
        assert mask.sum(1).unique().tolist() == [mask.shape[1] // 2]
    first, later = "model.layers.0.mlp.up_proj", "model.layers.3.mlp.up_proj"
    # The first block has none before it. In later ones the order of pruning shows.
    assert torch.equal(lowest_per_row(one_shot[first], 0.5), wanted[first])
    assert not torch.equal(lowest_per_row(one_shot[later], 0.5), wanted[later])
