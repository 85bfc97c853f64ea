"""Supported architectures: one small table each, and the registry that finds them by `model_type`."""

from sparc3_lightning.models.families.gemma2 import GEMMA2
from sparc3_lightning.models.families.gemma3 import GEMMA3
from sparc3_lightning.models.families.gpt2 import GPT2
from sparc3_lightning.models.families.gpt_neox import GPT_NEOX
from sparc3_lightning.models.families.granite import GRANITE
from sparc3_lightning.models.families.llama import LLAMA
from sparc3_lightning.models.families.mistral import MISTRAL
from sparc3_lightning.models.families.opt import OPT
from sparc3_lightning.models.families.phi3 import PHI3
from sparc3_lightning.models.families.qwen2 import QWEN2
from sparc3_lightning.models.families.qwen3 import QWEN3
from sparc3_lightning.models.family import Family

__all__ = ["FAMILIES", "Family", "get_family"]

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GEMMA2,
        GEMMA3,
        GPT2,
        GPT_NEOX,
        OPT,
        PHI3,
        GRANITE,
    )
}


def get_family(model_type: str) -> Family:
    """The family of a `model_type`.

    Raises:
        ValueError: No family is known for it. Unknown architectures are never attributed by plain gradients.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"`model_type` must be one of {sorted(FAMILIES)}, got {model_type!r}. "
            "Set `model.model` (or `model.config.model_type`) to another model, or add the family: one file in "
            "sparc3_lightning/models/families/."
        )
    return FAMILIES[model_type]
