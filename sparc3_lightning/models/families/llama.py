"""LLaMA 1 to 3.2, TinyLlama, SmolLM2 and other checkpoints with model type llama."""

from typing import Any

from sparc3_lightning.models.family import Family

LLAMA = Family(model_type="llama", norm_class="LlamaRMSNorm")

LLAMA_3_8B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "tie_word_embeddings": False,
}  # fmt: skip
"""Fields of its config: the shape that benchmarks/gpu.py measures."""
