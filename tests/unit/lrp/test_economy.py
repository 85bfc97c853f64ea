"""What attribution does not do: wait for the device, keep attention weights, compute what nobody needs."""

import warnings
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from sparc3_lightning import attribute
from sparc3_lightning.lrp import linear as linear_room
from sparc3_lightning.lrp.attention import warn_of_eager_attention
from sparc3_lightning.lrp.attribution import Attribution
from tests.tiny import LAYERS, PARTS, TINY, VOCAB, tiny_llama, tiny_samples

SAMPLES = tiny_samples()
IDS, LENGTHS = pad_sequence(SAMPLES, batch_first=True), torch.tensor([len(sample) for sample in SAMPLES])


class Reads(TorchDispatchMode):
    """Notes, at every read of a number from the device, how many matrix products were under way before it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_products = 0
        self.at: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.num_products += name in ("mm", "addmm", "bmm", "matmul")
        if name in ("_local_scalar_dense", "nonzero"):
            self.at.append(self.num_products)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
def test_the_device_is_read_once_a_batch(granularity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Invariant 6, trap 25: only the finite check waits for a batch to be done. (transformers looks at the positions
    # before the first layer, when nothing is under way.)
    with Attribution(tiny_llama(), modules="all", granularity=granularity) as attribution:
        monkeypatch.setattr(Tensor, "tolist", lambda tensor: pytest.fail("a copy to the host"))
        with Reads() as reads:
            attribution.step(IDS, LENGTHS)
    assert reads.num_products > 15 * 2
    assert [at for at in reads.at if at > 0] == [reads.num_products]
    assert len(reads.at) <= 2


@pytest.mark.parametrize("family", sorted(TINY))
def test_attention_is_causal_without_a_mask(family: str) -> None:
    """A mask would rule out the flash kernel. (There is one where a sliding window cuts.)"""
    model = TINY[family]()
    if not model._supports_sdpa:
        pytest.skip("its attention is eager: a soft cap")
    if getattr(model.config, "sliding_window", None) is not None:
        model = TINY[family](sliding_window=32)
    assert model.config._attn_implementation == "sdpa"
    with mock.patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as attention:
        attribute(model, SAMPLES)
    assert attention.call_count == LAYERS
    for call in attention.call_args_list:
        assert call.kwargs["attn_mask"] is None
        assert call.kwargs["is_causal"] is True
        assert call.kwargs["dropout_p"] == 0.0


def test_eager_attention_on_a_gpu_is_told() -> None:
    eager, sdpa = tiny_llama(attn_implementation="eager"), tiny_llama()
    with pytest.warns(UserWarning, match=r"'eager' on a GPU.*`model\.attn_implementation: sdpa`"):
        warn_of_eager_attention(eager, torch.device("cuda"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_eager_attention(sdpa, torch.device("cuda"))
        warn_of_eager_attention(eager, torch.device("cpu"))


def test_what_one_token_is_enough_for_sees_one_token() -> None:
    """lm_head's logits, and the last block's parts after attention; its queries have one token with a gradient."""
    seen: dict[tuple[int, ...], list[int]] = {}

    def spy(out: Tensor, x: Tensor, d: Tensor, weight: Tensor, sign: str) -> None:
        seen.setdefault(tuple(weight.shape), []).append(d.shape[1])

    model = tiny_llama()
    with mock.patch.object(linear_room, "add_relevance_", spy), Attribution(model, modules="all") as attribution:
        attribution.step(IDS, LENGTHS)
    longest, width, neurons = IDS.shape[1], model.config.hidden_size, model.config.intermediate_size
    # backward: lm_head, then down, up and gate, o, q, k and v of the last block, then of the first
    assert seen[(VOCAB, width)] == [1]
    assert seen[(width, neurons)] == [1, longest]
    assert sorted(seen[(neurons, width)]) == [1, 1, longest, longest]
    assert sorted(seen[(width, width)]) == [1, 1, longest, longest]  # q and o
    assert seen[(width // 2, width)] == [longest] * 4  # k and v


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
@pytest.mark.parametrize("family", sorted(TINY))
def test_activation_checkpointing_changes_no_score(family: str, granularity: str) -> None:
    model = TINY[family]()
    options: dict[str, Any] = {"granularity": granularity, "modules": "all", "batch_size": 3}
    plain = attribute(model, SAMPLES, **options)
    blocks, act = model.get_submodule(PARTS[family].blocks), PARTS[family].act
    act_fn = blocks[0].get_submodule(act)
    with mock.patch.object(act_fn, "forward", wraps=act_fn.forward) as calls:
        checkpointed = attribute(model, SAMPLES, activation_checkpointing=True, **options)
    assert calls.call_count == 2 * 3, "each of three batches runs a block again in the backward pass"
    assert all(torch.equal(score, plain.scores[name]) for name, score in checkpointed.scores.items())
    assert all("forward" not in vars(block) for block in blocks)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activation_checkpointing_keeps_only_the_blocks_inputs(checkpointing: bool) -> None:
    model, sample = tiny_llama(num_hidden_layers=6), tiny_samples((30,))[0]
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    attribution = Attribution(model, modules="all", activation_checkpointing=checkpointing)
    # In the forward pass only: what the backward pass computes again, it keeps for one block at a time.
    saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with mock.patch.object(Tensor, "backward"), saved, attribution:
        attribution.step(sample[None], torch.tensor([30]))
    per_token = sum(kept) / 30 / model.config.hidden_size
    assert per_token < 30 if checkpointing else per_token > 100
