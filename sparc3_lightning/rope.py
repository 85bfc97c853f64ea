"""Rotary embeddings in a config: in `rope_parameters`, or as before in `rope_theta` and `rope_scaling`."""

from collections.abc import Iterator, Mapping
from typing import Any

# What the older convention keeps beside `rope_scaling`, not in it.
_BESIDE = ("rope_theta", "partial_rotary_factor")


def rope_types(fields: Mapping[str, Any]) -> list[str]:
    """Type of the rotary embedding, or of those of each kind of layer.

    Args:
        fields: Of a Hugging Face config.
    """
    return [str(part.get("rope_type") or part.get("type") or "default") for part in _parts(fields)]


def _parts(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    parameters = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    yield from nested or [parameters]


def constant_context(fields: Mapping[str, Any]) -> int | None:
    """Longest text whose tokens are embedded alike whatever stands beside it in a batch.

    It is the model's context, but for `longrope`: there the longest text of a batch decides on the frequencies of all,
    which are the same only up to `original_max_position_embeddings`. (`dynamic` scales beyond the context only.)

    Args:
        fields: Of a Hugging Face config.

    Returns:
        Tokens; None where the config does not say.
    """
    context: int | None = fields.get("max_position_embeddings")
    for part, kind in zip(_parts(fields), rope_types(fields), strict=True):
        original = fields.get("original_max_position_embeddings") or part.get("original_max_position_embeddings")
        if kind == "longrope" and original is not None:
            context = original if context is None else min(context, original)
    return context


def older_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` for readers that know no `rope_parameters`: they would take 10,000 and none.

    Args:
        fields: Of a config with `rope_parameters`.

    Returns:
        What to add; nothing where each kind of layer has parameters of its own, which the older convention cannot say.
    """
    parameters = fields.get("rope_parameters") or {}
    if not parameters or any(isinstance(value, Mapping) for value in parameters.values()):
        return {}
    scaling = {name: value for name, value in parameters.items() if name not in _BESIDE}
    if "type" in scaling:  # the oldest readers count the keys
        scaling.pop("rope_type", None)
    beside = {name: parameters[name] for name in _BESIDE if name in parameters}
    return {**beside, "rope_scaling": None if rope_types(fields) == ["default"] else scaling}
