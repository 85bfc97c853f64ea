"""Qwen2 and Qwen2.5 (q, k and v carry biases)."""

from sparc3_lightning.models.family import Family

QWEN2 = Family(model_type="qwen2", norm_class="Qwen2RMSNorm")
