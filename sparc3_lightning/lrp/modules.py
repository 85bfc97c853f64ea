"""Which linear layers are attributed."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.families.layers import is_linear
from sparc3_lightning.models.families.patterns import matching_names


def tied_modules(model: PreTrainedModel) -> list[str]:
    """Linear layers whose weight is also the input embedding's: its gradient would hold the input side too."""
    embedding, family = model.get_input_embeddings().weight, get_family(model.config.model_type)
    return [name for name, module in family.linear_modules(model).items() if module.weight is embedding]


def select_modules(model: PreTrainedModel, modules: str | Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the layers to attribute, in the model's order, and of those left out because they are tied.

    Args:
        model: A causal language model of a known family.
        modules: "neurons" (the family's neuron modules), "all" (every linear layer), or name patterns: shell wildcards
            such as "model.layers.0.*", or regular expressions after "re:".

    Raises:
        ValueError: A pattern matches nothing, or only a tied layer; or a layer has no weight to differentiate, or is
            no linear layer at all where the family has one (quantised).
    """
    tied, family = tied_modules(model), get_family(model.config.model_type)
    if modules == "neurons":
        chosen = family.neuron_modules(model)
    elif modules == "all":
        family.check_linears(model)
        chosen = list(family.linear_modules(model))
    else:
        chosen = matching_names(list(family.linear_modules(model)), [modules] if isinstance(modules, str) else modules)
    names = [name for name in chosen if name not in tied]
    if not names:
        raise ValueError(f"`modules` must name a layer that is not tied to the embedding, got {modules!r}. "
                         "Set `model.modules`.")  # fmt: skip
    _check_plain(model, names)
    return names, [name for name in chosen if name in tied]


def _check_plain(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Quantised and off-loaded layers have no weight gradient: refuse them rather than score them zero (trap 14)."""
    if all(parameter.is_meta or isinstance(parameter, FakeTensor) for parameter in model.parameters()):
        return  # sizes alone, as a plan counts them: nothing can be scored
    for name in names:
        module = model.get_submodule(name)
        weight = getattr(module, "weight", None)
        if not is_linear(module) or not _is_plain(weight):
            raise ValueError(
                f"layer {name} must be a linear layer with a floating-point weight on a device, got "
                f"{type(module).__name__} with {_describe(weight)}: quantised or off-loaded layers cannot be "
                "attributed. Load the model without quantisation and device_map (`model.dtype`)."
            )


def _is_plain(weight: object) -> bool:
    # Quantisation libraries also put subclasses of Tensor here, which call themselves bfloat16.
    if not isinstance(weight, Tensor) or type(weight) not in (Tensor, nn.Parameter, DTensor):
        return False
    return weight.dtype.is_floating_point and weight.device.type != "meta"


def _describe(weight: object) -> str:
    return f"{weight.dtype} on {weight.device}" if isinstance(weight, Tensor) else "no weight"
