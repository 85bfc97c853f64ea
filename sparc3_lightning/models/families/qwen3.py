"""Qwen3: norms of the queries and keys of each head."""

from sparc3_lightning.models.family import Family

QWEN3 = Family(model_type="qwen3", norm_class="Qwen3RMSNorm", norms_per_block=4)
