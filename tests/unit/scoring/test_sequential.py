"""Sequential Wanda keeps hidden states: the masks of full forward passes, for two passes of each block in all."""

from collections import Counter
from functools import partial

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import Batch, pad_right, plan_batches
from sparc3_lightning.models.families import get_family
from sparc3_lightning.scoring.activations import ForwardStatistics, wanda_scores
from sparc3_lightning.scoring.loop import see
from sparc3_lightning.scoring.sequential import SequentialPass
from sparc3_lightning.scoring.weights import lowest_per_row
from tests.tiny import PARTS, TINY, rows_of, tiny_samples

SAMPLES = tiny_samples()
BATCHES: list[Batch] = [pad_right(SAMPLES, part) for part in plan_batches([len(ids) for ids in SAMPLES], 2)]
HALF = partial(lowest_per_row, sparsity=0.5)
Found = list[tuple[str, Tensor, Tensor]]


@torch.no_grad()
def by_full_passes(model: PreTrainedModel) -> Found:
    """A pass through the whole model for each block, pruned as far as it is by then; the model stays pruned."""
    found: Found = []
    family = model.config.model_type
    for number, block in enumerate(get_family(family).block_modules(model)):
        linears = {name: rows_of(family, name, block.get_submodule(name).weight) for name in PARTS[family].linears}
        prefix = f"{PARTS[family].blocks}.{number}."
        norms = see(ForwardStatistics(model, [prefix + name for name in linears]), BATCHES, len(SAMPLES)).squared_norms
        for name, weight in linears.items():
            scores = wanda_scores(weight, norms[prefix + name], by_neuron=False)
            found.append((prefix + name, scores, HALF(scores)))
            weight.masked_fill_(HALF(scores), 0.0)
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", TINY)
def test_masks_are_those_of_full_passes_for_two_of_each_block(family: str, attention: str) -> None:
    """Qwen2's blocks do not share a mask: the second has a sliding window."""
    if attention == "sdpa" and family == "gemma2":
        pytest.skip("its attention is eager: a soft cap")
    options = {"dtype": torch.float64, "attn_implementation": attention, "num_hidden_layers": 3}
    wanted, model = by_full_passes(TINY[family](**options)), TINY[family](**options)
    calls: Counter[int] = Counter()
    blocks = get_family(family).block_modules(model)
    for number, block in enumerate(blocks):
        # Blocks that do nothing make no call of what is in them.
        block.get_submodule(PARTS[family].attention).register_forward_hook(lambda *_, n=number: calls.update([n]))
    found = list(see(SequentialPass(model, HALF), BATCHES, len(SAMPLES)))
    assert [name for name, _, _ in found] == [name for name, _, _ in wanted]
    for (name, scores, mask), (_, full_scores, full_mask) in zip(found, wanted, strict=True):
        assert torch.equal(scores, full_scores), name
        assert torch.equal(mask, full_mask), name
    # What the last block makes of the states is nobody's input.
    assert calls == {0: 2 * len(BATCHES), 1: 2 * len(BATCHES), 2: len(BATCHES)}
    fresh = TINY[family](**options).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(block) for block in blocks)
