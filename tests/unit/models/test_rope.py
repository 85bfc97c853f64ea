"""Rotary embeddings that depend on the longest text of a batch: scores and completions do not."""

from typing import Any

import pytest
import torch

from sparc3_lightning.evaluation.generation import Decoding, generate
from sparc3_lightning.models.checkpoint import older_fields, rope_types
from sparc3_lightning.models.load import context_length
from sparc3_lightning.plan.sizes import Sizes, model_config
from sparc3_lightning.scoring.plain import attribute
from tests.tiny import SHAPE, tiny_llama, tiny_samples
from tests.tiny_files import tiny_tokenizer
from tests.unit.evaluation.tiny import TextPrompt

CONTEXT, ORIGINAL = 32, 16
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.0], "long_factor": [4.0, 8.0],
    "original_max_position_embeddings": ORIGINAL,
}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "longrope": (LONG, ORIGINAL),
    # Beyond the context alone, to which every text is held.
    "dynamic": ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}, CONTEXT),
    "yarn": (
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": ORIGINAL}, CONTEXT
    ),
}  # fmt: skip


def model_of(kind: str) -> Any:
    return tiny_llama(dtype=torch.float64, rope_parameters=dict(KINDS[kind][0]))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_do_not_depend_on_what_stands_beside_a_sample(kind: str) -> None:
    longest = KINDS[kind][1]
    samples = tiny_samples([5, longest, 3, longest - 1, 9])
    alone, together = (attribute(model_of(kind), samples, batch_size=size).scores for size in (1, 5))
    for name, score in alone.items():
        assert torch.allclose(together[name], score, rtol=0, atol=1e-9 * float(score.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_longer_texts_are_refused(kind: str) -> None:
    longest = KINDS[kind][1]
    model = model_of(kind)
    assert context_length(model) == longest
    with pytest.raises(ValueError, match=rf"`samples\[1\]` must hold 1 to {longest} tokens .*got {longest + 1}"):
        attribute(model, tiny_samples([4, longest + 1]))


def test_beyond_it_a_batch_does_change_its_samples() -> None:
    """What the limit is for."""
    short, long = tiny_samples([8, ORIGINAL + 1])
    batch = torch.zeros(2, ORIGINAL + 1, dtype=torch.int64)
    batch[0, :8], batch[1] = short, long
    model = model_of("longrope")
    with torch.no_grad():
        beside = model(batch).logits[0, 7]
        assert (model(short[None]).logits[0, 7] - beside).abs().max() > 0.1 * beside.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_completions_do_not_depend_on_the_batch(kind: str) -> None:
    texts = ["w1 w2", " ".join(f"w{number}" for number in range(40)), "w5 w6 w7 w8 w9"]
    prompts = [TextPrompt(f"{place}", text) for place, text in enumerate(texts)]
    decoding = Decoding(max_new_tokens=6, num_completions=2, temperature=1.0)
    alone, together = (
        generate(model_of(kind), tiny_tokenizer(), prompts, decoding, batch_size=size) for size in (1, 6)
    )
    assert alone == together
    assert alone.num_truncated == 1


def test_a_plan_counts_no_longer_samples() -> None:
    fields = {**SHAPE, "model_type": "llama"}
    older = {key: value for key, value in LONG.items() if key not in ("rope_theta", "original_max_position_embeddings")}

    def context(**options: Any) -> int:
        return Sizes(model_config({**fields, **options})).context

    assert context(rope_parameters=LONG) == ORIGINAL
    assert context(rope_scaling=older, original_max_position_embeddings=ORIGINAL) == ORIGINAL
    assert context() == CONTEXT


def test_kinds_of_layers_with_their_own_embedding() -> None:
    """As in Gemma 3: the older convention has no words for them."""
    parts = {"full_attention": {"rope_type": "linear"}, "sliding_attention": {"rope_type": "default"}}
    assert rope_types({"rope_parameters": parts}) == ["linear", "default"]
    assert older_fields({"rope_parameters": parts}) == {}
