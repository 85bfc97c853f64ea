"""AttnLRP and CP-LRP for one model, inside a `with` block."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any, Literal

from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.lrp.attention import attention_rules
from sparc3_lightning.lrp.functional import IdentityRule, LayerNormRule, RMSNormRule, SoftCapRule, activation_ratio
from sparc3_lightning.lrp.lxt_rules import divide_gradient, stop_gradient
from sparc3_lightning.lrp.patch import evaluating, pre_hook, replaced_forward
from sparc3_lightning.models.families import Family, get_family

Variant = Literal["attnlrp", "cp_lrp", "gradient"]
VARIANTS: tuple[str, ...] = ("attnlrp", "cp_lrp", "gradient")
_ACTIVE = "_sparc3_rules_active"


def _norm_forward(family: Family, norm: nn.Module) -> Callable[[Tensor], Tensor]:
    native, eps = norm.forward, getattr(norm, family.norm_eps)
    if family.norm == "layer_norm":
        return lambda x: LayerNormRule.apply(x, norm.weight, norm.bias, eps, native)
    return lambda x: RMSNormRule.apply(x, norm.weight, eps, native, family.norm_offset)


def _activation_forward(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    native, ratio = activation.forward, activation_ratio(activation)
    return lambda x: IdentityRule.apply(x, native, ratio)


def _detached_forward(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    native = activation.forward
    return lambda x: stop_gradient(native(x))


def _capping_forward(model: PreTrainedModel) -> Callable[..., Any]:
    native = model.forward

    @wraps(native)  # `generate` reads its signature
    def forward(*args: Any, **kwargs: Any) -> Any:
        with SoftCapRule():
            return native(*args, **kwargs)

    return forward


def _halve_product(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Uniform rule for act(gate) * up: the product is the input of `down` (AttnLRP, Eq. 7)."""
    return (divide_gradient(args[0], 2), *args[1:])


def _enter_mlp_rules(stack: ExitStack, family: Family, block: nn.Module, variant: str) -> None:
    activation, gated = block.get_submodule(family.activation), family.gate is not None
    if variant == "cp_lrp" and gated:
        stack.enter_context(replaced_forward(activation, _detached_forward(activation)))
        return
    stack.enter_context(replaced_forward(activation, _activation_forward(activation)))
    if gated:
        stack.enter_context(pre_hook(block.get_submodule(family.down), _halve_product))


def _check_not_active(model: PreTrainedModel) -> None:
    if getattr(model, _ACTIVE, False):
        raise RuntimeError("`attnlrp` is already active on this model: the rules must not be applied twice.")


def _check_layers(model: PreTrainedModel, family: Family, blocks: list[nn.Module]) -> None:
    expected = family.num_layers(model.config)
    if len(blocks) != expected:
        raise ValueError(
            f"`model` must hold {expected} decoder blocks (its config says so) in {family.blocks}, "
            f"got {len(blocks)}: the rules would not cover it."
        )


@contextmanager
def attnlrp(model: PreTrainedModel, variant: Variant = "attnlrp") -> Iterator[PreTrainedModel]:
    """Make gradients of `model` relevance-carrying, for this model only, until the block ends.

    Inside the model is in eval mode, and its outputs are bit-identical to those outside; a backward pass from a logit
    yields, in `W.grad * W`, the relevance of each weight. Everything is undone when the block ends, whatever happens
    inside.

    Args:
        model: A causal language model of a known family.
        variant: "attnlrp"; "cp_lrp" (q and k detached, the gate branch detached; it conserves relevance); or
            "gradient", no rule at all: the baseline |W * plain gradient|, which is to be asked for by name.

    Yields:
        The same model.

    Raises:
        ValueError: Unknown variant or `model_type`, or the model's modules are not what its family's table says.
        RuntimeError: The rules are already active on this model.

    Source: Achtibat et al., ICML 2024 (AttnLRP); Ali et al., ICML 2022 (CP-LRP); rules of LXT, `lxt.efficient.rules`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"`variant` must be one of {VARIANTS}, got {variant!r}. Set `model.variant`.")
    _check_not_active(model)
    family = get_family(model.config.model_type)
    family.check_config(model.config)
    blocks = family.block_modules(model)
    _check_layers(model, family, blocks)
    norms = family.norms(model)
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        if variant != "gradient":
            for norm in norms:
                stack.enter_context(replaced_forward(norm, _norm_forward(family, norm)))
            for block in blocks:
                _enter_mlp_rules(stack, family, block, variant)
            if family.caps_logits:
                stack.enter_context(replaced_forward(model, _capping_forward(model)))
            attention = [block.get_submodule(family.attention) for block in blocks]
            stack.enter_context(attention_rules(model, attention, variant))
        stack.callback(partial(delattr, model, _ACTIVE))
        setattr(model, _ACTIVE, True)
        yield model
