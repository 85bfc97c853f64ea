"""Mistral."""

from sparc3_lightning.models.family import Family

MISTRAL = Family(model_type="mistral", norm_class="MistralRMSNorm")
