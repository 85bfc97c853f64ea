"""The fingerprint of an attribution says which code computed it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparc3_lightning.runs import resume
from sparc3_lightning.scoring.gradient import LRP, RelevancePass
from sparc3_lightning.scoring.method import Scoring
from tests.tiny import tiny_llama
from tests.tiny_files import tiny_tokenizer


def module_of(**options: Any) -> Any:
    """What a fingerprint reads of a module in a predict run."""
    model = tiny_llama()
    trainer = SimpleNamespace(world_size=1, strategy=object(), precision="32-true")
    data = SimpleNamespace(batch_size=2, max_tokens=None, bucket=True, reference_samples={})
    return SimpleNamespace(
        attribution=RelevancePass(LRP(Scoring(model=model, **options))), attribution_options=options,
        data=data, trainer=trainer, tokenizer=tiny_tokenizer(),
        run=SimpleNamespace(base_model={"weight_hash": "0"}), modules_to_attribute="neurons",
        weights_dtype=model.dtype, device=torch.device("cpu"), attn_implementation="sdpa",
    )  # fmt: skip


def test_the_kernel_is_the_one_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    auto, eager = (resume.fingerprint(module_of(kernel=kernel)) for kernel in ("auto", "eager"))
    assert auto == eager, "on a CPU"
    # A GPU on which Triton did not compile, and then did: other figures, in the last bits.
    monkeypatch.setattr(resume, "uses_triton", lambda *_: True)
    fused = resume.fingerprint(module_of(kernel="auto"))
    assert (fused["kernel"], auto["kernel"]) == ("triton", "eager")
    assert {key: value for key, value in fused.items() if auto[key] != value} == {"kernel": "triton"}
