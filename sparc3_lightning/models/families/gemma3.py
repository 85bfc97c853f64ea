"""Gemma 3, text models: as Gemma 2, with norms of queries and keys where that has soft caps in attention."""

from dataclasses import replace

from sparc3_lightning.models.families.gemma2 import GEMMA2

GEMMA3 = replace(GEMMA2, model_type="gemma3_text", norm_class="Gemma3RMSNorm", norms_per_block=6)
