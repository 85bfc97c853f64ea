"""LLaMA 1 to 3.2, TinyLlama, SmolLM2 and other checkpoints with model type llama."""

from sparc3_lightning.families.family import Family

LLAMA = Family(model_type="llama", norm_class="LlamaRMSNorm")
