"""A whole model on the GPU: the same scores as on the CPU, with the kernel and without; flash attention; no waiting."""

import warnings
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from sparc3_lightning import attribute
from sparc3_lightning.lrp.attribution import Attribution
from tests.tiny import TINY, tiny_llama, tiny_samples

SAMPLES = tiny_samples()
# Large enough for the flash kernel: heads of 16.
WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96}


def difference(model: PreTrainedModel, other: PreTrainedModel, **options: Any) -> float:
    """The largest difference of two models' scores, relative by a layer's norm."""
    shared = {name: options.pop(name) for name in ("granularity", "sign") if name in options}
    scores = attribute(model, SAMPLES, modules="all", target=7, batch_size=4, **shared, **options).scores
    reference = attribute(other, SAMPLES, modules="all", target=7, kernel="eager", **shared).scores
    return max(float((scores[n].cpu() - s.cpu()).norm() / s.norm().cpu()) for n, s in reference.items())


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
@pytest.mark.parametrize("kernel", ["eager", "triton"])
@pytest.mark.parametrize("family", sorted(TINY))
def test_float32_as_on_the_cpu(family: str, kernel: str, granularity: str) -> None:
    for sign in ("abs", "signed"):
        options = {"kernel": kernel, "granularity": granularity, "sign": sign}
        assert difference(TINY[family]().cuda(), TINY[family](), **options) < 1e-4


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
def test_bfloat16_kernel_and_eager(granularity: str) -> None:
    model = tiny_llama(dtype=torch.bfloat16, **WIDE).cuda()
    assert difference(model, model, granularity=granularity) < 2e-2


def test_checkpointing_changes_nothing() -> None:
    model = tiny_llama(dtype=torch.bfloat16, **WIDE).cuda()
    plain, checkpointed = (
        attribute(model, SAMPLES, modules="all", activation_checkpointing=checkpointing).scores
        for checkpointing in (False, True)
    )
    for name, score in plain.items():
        assert float((checkpointed[name] - score).norm() / score.norm()) < 1e-3


def test_flash_attention_takes_it() -> None:
    """torch raises where the one backend that is allowed cannot run."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        attribute(tiny_llama(dtype=torch.bfloat16, **WIDE).cuda(), SAMPLES, modules="all")


def test_nothing_but_the_finite_check_waits() -> None:
    ids = pad_sequence(SAMPLES, batch_first=True).cuda()
    lengths = torch.tensor([len(sample) for sample in SAMPLES], device="cuda")
    with Attribution(tiny_llama(dtype=torch.bfloat16, **WIDE).cuda(), modules="all") as attribution:
        attribution.step(ids, lengths)  # tuning waits
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as waits:
                warnings.simplefilter("always")
                attribution.step(ids, lengths)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    told = [str(wait.message) for wait in waits if "synchronizing" in str(wait.message)]
    # and transformers' look at the positions, before the first layer
    assert 1 <= len(told) <= 2, told
