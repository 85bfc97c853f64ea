"""Gemma 2: norms by 1 + weight before and after each branch; GELU (tanh); attention and logits soft-capped; windows."""

from typing import Any

from sparc3_lightning.models.family import Family


def refuses_bidirectional(config: Any) -> str | None:
    """Attention that sees later tokens: padding would reach earlier ones, and the target itself."""
    is_bidirectional = getattr(config, "use_bidirectional_attention", False)
    return "attention in both directions (`use_bidirectional_attention`)" if is_bidirectional else None


GEMMA2 = Family(
    model_type="gemma2",
    norm_class="Gemma2RMSNorm",
    norm_eps="eps",
    norm_offset=1.0,
    after_down="post_feedforward_layernorm",
    norms_per_block=4,
    caps_logits=True,
    refuses=refuses_bidirectional,
)
