"""The attention rules, through transformers' own attention interface.

A function under a new name is registered together with the mask function of the implementation it wraps: without the
second, transformers drops the mask without a word (method.md, trap 24).
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sparc3_lightning.lrp.lxt_rules import divide_gradient, stop_gradient

# The attention modules now under the rules. Two models may share one config object and with it the name of the
# attention function: the function asks here, so that the other model keeps plain attention.
_UNDER_RULES: WeakSet[nn.Module] = WeakSet()


def _attnlrp_inputs(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform rule for both matrix products: a quarter for q and k, a half for v (AttnLRP, Eq. 7, applied twice)."""
    return divide_gradient(query, 4), divide_gradient(key, 4), divide_gradient(value, 2)


def _cp_lrp_inputs(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """CP-LRP: nothing flows through the softmax."""
    return stop_gradient(query), stop_gradient(key), value


INPUT_RULES = {"attnlrp": _attnlrp_inputs, "cp_lrp": _cp_lrp_inputs}


def _native(module: nn.Module, implementation: str) -> Callable[..., Any]:
    """The attention function that `module` would call by itself."""
    eager = sys.modules[type(module).__module__].__dict__["eager_attention_forward"]
    function: Callable[..., Any] = AttentionInterface().get_interface(implementation, eager)
    return function


def _register(variant: str, implementation: str) -> str:
    """Register the rule of `variant` around `implementation`; returns the name to set on the model."""
    rule = INPUT_RULES[variant]

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        native = _native(module, implementation)
        if module not in _UNDER_RULES:
            return native(module, query, key, value, *args, **kwargs)
        kwargs["dropout"] = 0.0
        return native(module, *rule(query, key, value), *args, **kwargs)

    name = f"sparc3_{variant}_{implementation}"
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, AttentionMaskInterface()[implementation])
    return name


@contextmanager
def attention_rules(model: PreTrainedModel, modules: Iterable[nn.Module], variant: str) -> Iterator[None]:
    """Put the attention `modules` of one model under the rules of `variant`, and take them out again."""
    native = model.config._attn_implementation
    modules = list(modules)
    model.set_attn_implementation(_register(variant, native))
    _UNDER_RULES.update(modules)
    try:
        yield
    finally:
        _UNDER_RULES.difference_update(modules)
        model.set_attn_implementation(native)
