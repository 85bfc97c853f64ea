"""Granite, dense: as LLaMA, with factors for embeddings, attention, each branch before its sum, and logits."""

from sparc3_lightning.models.family import Family

GRANITE = Family(model_type="granite", norm_class="GraniteRMSNorm")
