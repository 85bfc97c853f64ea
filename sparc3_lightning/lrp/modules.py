"""Which linear layers are attributed."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from transformers import PreTrainedModel

from sparc3_lightning.families import get_family

LM_HEAD = "lm_head"


def linear_modules(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Every linear layer by name, a tied lm_head included."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def tied_modules(model: PreTrainedModel) -> list[str]:
    """Linear layers whose weight is also the input embedding's: its gradient would hold the input side too."""
    embedding = model.get_input_embeddings().weight
    return [name for name, module in linear_modules(model).items() if module.weight is embedding]


def select_modules(model: PreTrainedModel, modules: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the layers to attribute, in the model's order, and of those left out because they are tied.

    Args:
        model: A causal language model of a known family.
        modules: "neurons" (the family's neuron modules), "all" (every linear layer), or name patterns: shell wildcards
            such as "model.layers.0.*", or regular expressions after "re:".

    Raises:
        ValueError: A pattern matches nothing, or only a tied layer; or a layer has no weight to differentiate.
    """
    tied = tied_modules(model)
    if modules == "neurons":
        chosen = get_family(model.config.model_type).neuron_modules(model)
    elif modules == "all":
        chosen = list(linear_modules(model))
    else:
        chosen = _match(list(linear_modules(model)), [modules] if isinstance(modules, str) else modules)
    names = [name for name in chosen if name not in tied]
    if not names:
        raise ValueError(f"`modules` must name a layer that is not tied to the embedding, got {modules!r}. "
                         "Set `model.modules`.")  # fmt: skip
    _check_plain(model, names)
    return names, [name for name in chosen if name in tied]


def _match(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    matched: set[str] = set()
    for pattern in patterns:
        is_regex = pattern.startswith("re:")
        hits = [n for n in names if (re.fullmatch(pattern[3:], n) if is_regex else fnmatchcase(n, pattern))]
        if not hits:
            raise ValueError(
                f"`modules` must be 'neurons', 'all' or patterns that match linear layers, got {pattern!r}, which "
                f"matches none of {len(names)} layers such as {names[0]!r}. Set `model.modules`."
            )
        matched.update(hits)
    return [name for name in names if name in matched]


def _check_plain(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Quantised and off-loaded layers have no weight gradient: refuse them rather than score them zero (trap 14)."""
    for name in names:
        module = model.get_submodule(name)
        assert isinstance(module, nn.Linear)
        if not module.weight.dtype.is_floating_point or module.weight.device.type == "meta":
            raise ValueError(
                f"layer {name} must hold a floating-point weight on a device, got {module.weight.dtype} on "
                f"{module.weight.device}: quantised or off-loaded layers cannot be attributed. Load the model without "
                "quantisation and device_map (`model.dtype`)."
            )
