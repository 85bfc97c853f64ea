"""Mistral."""

from sparc3_lightning.families.family import Family

MISTRAL = Family(model_type="mistral", norm_class="MistralRMSNorm")
