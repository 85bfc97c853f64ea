"""Each method's masks against an independent re-implementation: relevance from the equations, Wanda from its paper."""

from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import PADDING, Batch, pad_right, plan_batches
from sparc3_lightning.pruning.masks import Pattern, mask_of
from sparc3_lightning.pruning.weight_scores import (
    COMPRESSION_METHODS,
    WeightScores,
    check_scored,
    compression_keys,
    joined,
)
from sparc3_lightning.scoring.loop import see
from sparc3_lightning.scoring.plain import attribute
from sparc3_lightning.scoring.sequential import SequentialPass
from tests.reference.compression import relevance_group_mask, relevance_row_mask
from tests.reference.llama import Reference
from tests.reference.wanda import sequential_masks
from tests.tiny import tiny_llama, tiny_samples

SETS = {"general0": tiny_samples((7, 3, 12), seed=0), "general1": tiny_samples((5, 9), seed=1)}
SAMPLES = [sample for samples in SETS.values() for sample in samples]
HALF = Pattern(2, 4)


@pytest.fixture(autouse=True)
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' norms compute in float32 even in a float64 model; the reference does not."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon))

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


def batches() -> Iterable[Batch]:
    return joined([
        ([pad_right(ids, part) for part in plan_batches([len(sample) for sample in ids], 2)], len(ids))
        for ids in SETS.values()
    ])  # fmt: skip


def scores(model: PreTrainedModel, *signs: str, **options: Any) -> WeightScores:
    found = {
        "lrp" + "_signed" * (sign == "signed"): [
            attribute(model, samples, granularity="weight", modules="all", sign=sign) for samples in SETS.values()
        ]
        for sign in signs
    }
    return WeightScores(model, found, batches, len(SAMPLES), **options)


def relevances(model: PreTrainedModel) -> dict[str, list[list[Tensor]]]:
    """By layer, of every set's every sample: from the equations, sample by sample."""
    found: dict[str, list[list[Tensor]]] = {}
    for number, samples in enumerate(SETS.values()):
        for sample in samples:
            reference = Reference(model.config, model.state_dict())
            reference.run(sample)
            for name, relevance in reference.relevance.items():
                found.setdefault(name, [[] for _ in SETS])[number].append(relevance)
    return found


def set_means(of_sets: list[list[Tensor]], sign: str) -> list[Tensor]:
    """Each set's mean: the general score is their mean, whatever their sizes."""
    return [torch.stack([r.abs() if sign == "abs" else r for r in one]).mean(0) for one in of_sets]


def test_relevance_s_masks_are_the_paper_s() -> None:
    model = tiny_llama(dtype=torch.float64)
    ours, wanted = scores(model, "signed", "abs"), relevances(model)
    differing = 0
    for sign, key in (("signed", "lrp_signed"), ("abs", "lrp")):
        for amount in (0.1, 0.5, 0.7, HALF):
            masks = dict(ours.masks(key, amount))
            assert len(masks) == 14
            for name, mask in masks.items():
                means = set_means(wanted[name], sign)
                is_pattern = isinstance(amount, Pattern)
                expected = relevance_group_mask(means, 2, 4) if is_pattern else relevance_row_mask(means, amount)
                differing += int((mask != torch.tensor(expected)).sum())
    # The scores are kept in float32: two that float64 tells apart may change places. None does here.
    assert differing == 0
    signed, absolute = (dict(ours.masks(key, 0.5)) for key in ("lrp_signed", "lrp"))
    assert any(not torch.equal(signed[name], absolute[name]) for name in signed), "the signs are told apart"


@pytest.mark.parametrize("sparsity", [0.3, 0.5])
def test_sequential_wanda_s_masks_are_the_paper_s(sparsity: float) -> None:
    model = tiny_llama(dtype=torch.float64)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = sequential_masks(model.config, state, SAMPLES, sparsity)
    ours = scores(model)
    masks, one_shot = (dict(ours.masks(key, sparsity)) for key in ("wanda_sequential", "wanda"))
    assert masks.keys() == wanted.keys() == one_shot.keys()
    assert [name for name in wanted if not torch.equal(masks[name], wanted[name])] == []
    same = [torch.equal(one_shot[name], wanted[name]) for name in wanted]
    assert all(same[:7])
    assert not all(same[7:])
    again = tiny_llama(dtype=torch.float64).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("key", ["wanda", "wanda_sequential"])
def test_the_model_is_passed_in_the_precision_that_is_given(key: str) -> None:
    model, mixed = tiny_llama(), partial(torch.autocast, "cpu", torch.bfloat16)
    exact, found = (dict(scores(model, **options).masks(key, 0.5)) for options in ({}, {"precision": mixed}))
    with mixed():
        wanted = dict(scores(model).masks(key, 0.5))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any(not torch.equal(found[name], exact[name]) for name in exact)


def test_an_end_before_the_end_restores_too() -> None:
    model = tiny_llama()
    found = see(SequentialPass(model, lambda weights: mask_of(weights, 0.5)), batches(), len(SAMPLES))
    assert len(list(islice(found, 9))) == 9
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, tiny_llama().model.layers[0].mlp.up_proj.weight)
    found.close()
    again = tiny_llama().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_magnitude_and_random() -> None:
    model = tiny_llama()
    first, other = scores(model, seed=0), scores(model, seed=1)
    for name, mask in first.masks("magnitude", 0.5):
        weight = model.get_submodule(name).weight.abs()
        assert (weight.masked_fill(~mask, 0).amax(1) <= weight.masked_fill(mask, torch.inf).amin(1)).all()
    drawn = [dict(found.masks("random", 0.5)) for found in (first, first, other)]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert all(not torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])
    # No two layers of one shape share a draw.
    q = [mask for name, mask in drawn[0].items() if name.endswith("q_proj")]
    assert not torch.equal(q[0], q[1])
    assert first.options("random") == {"method": "random", "seed": 0}
    assert first.options("wanda") == {"method": "wanda"}
    assert scores(model, "signed").options("lrp_signed")["sign"] == "signed"


def test_joined_sets_are_one() -> None:
    indices = torch.cat([batch["indices"] for batch in batches()])
    assert sorted(indices[indices != PADDING].tolist()) == list(range(len(SAMPLES)))


def test_methods_that_give_weights_no_order_are_refused() -> None:
    assert compression_keys(["lrp", "wanda"], ["signed", "abs"]) == ["lrp_signed", "lrp", "wanda"]
    assert "wanda_mean" not in COMPRESSION_METHODS  # within a row it is wanda
    for methods in (["auroc"], ["activation"], ["wanda_mean"], ["lrp_signed"], []):
        with pytest.raises(ValueError, match=r"`methods` must be of .*Set `CompressionCallback.init_args.methods`"):
            compression_keys(methods, ["signed"])
    with pytest.raises(ValueError, match=r"`signs` must be of .*Set `CompressionCallback.init_args.signs`"):
        compression_keys(["lrp"], ["both"])


def test_scores_that_the_run_will_not_have() -> None:
    layers = ["a", "b"]
    check_scored([], [], "neuron", layers, [])
    check_scored(["lrp"], ["lrp", "gradient"], "weight", layers, ["a", "b", "lm_head"])
    with pytest.raises(ValueError, match=r"needs scores of \['lrp_signed'\], got those of \['lrp'\]. Set `model.sign`"):
        check_scored(["lrp_signed"], ["lrp"], "weight", layers, layers)
    with pytest.raises(ValueError, match=r"got granularity 'neuron' of modules. Set `model.granularity: weight`"):
        check_scored(["lrp"], ["lrp"], "neuron", layers, layers)
    with pytest.raises(ValueError, match=r"modules that leave out b. Set .* `model.modules: all`"):
        check_scored(["lrp"], ["lrp"], "weight", layers, ["a"])
