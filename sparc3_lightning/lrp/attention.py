"""The attention rules, through transformers' own attention interface.

A function under a new name is registered together with the mask function of the implementation it wraps: without the
second, transformers drops the mask without a word (method.md, trap 24).
"""

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from sparc3_lightning.lrp.functional import SoftCapRule
from sparc3_lightning.lrp.lxt_rules import divide_gradient, stop_gradient


def _attnlrp_inputs(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform rule for both matrix products: a quarter for q and k, a half for v (AttnLRP, Eq. 7, applied twice)."""
    return divide_gradient(query, 4), divide_gradient(key, 4), divide_gradient(value, 2)


def _cp_lrp_inputs(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """CP-LRP: nothing flows through the softmax."""
    return stop_gradient(query), stop_gradient(key), value


InputRule = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
INPUT_RULES: dict[str, InputRule] = {"attnlrp": _attnlrp_inputs, "cp_lrp": _cp_lrp_inputs}

# The rule of each attention module now under one. Two models may share one config object and with it the name of the
# attention function: the function asks here, so that the other model keeps its own rule, or plain attention.
_RULE_OF: WeakKeyDictionary[nn.Module, InputRule] = WeakKeyDictionary()
# What the rules see into: transformers' two, and what this package registers (`plan` counts with one of its own).
_SEEN_INTO = re.compile(r"sdpa|eager|sparc3_\w+")
_PREFIX = "sparc3_lrp_"


def _native(module: nn.Module, implementation: str) -> Callable[..., Any]:
    """The attention function that `module` would call by itself."""
    eager = sys.modules[type(module).__module__].__dict__["eager_attention_forward"]
    function: Callable[..., Any] = AttentionInterface().get_interface(implementation, eager)
    return function


def _register(implementation: str) -> str:
    """Register the rules around `implementation`; returns the name to set on the model."""

    def attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        native = _native(module, implementation)
        rule = _RULE_OF.get(module)
        if rule is None:
            return native(module, query, key, value, *args, **kwargs)
        kwargs["dropout"] = 0.0
        with SoftCapRule():
            return native(module, *rule(query, key, value), *args, **kwargs)

    name = f"{_PREFIX}{implementation}"
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, AttentionMaskInterface()[implementation])
    return name


def warn_of_eager_attention(model: PreTrainedModel, device: torch.device) -> None:
    """Say so where attention is about to keep all T x T weights of every head on a GPU."""
    implementation = model.config._attn_implementation
    # Some have no other (Gemma 2: a soft cap).
    if device.type == "cuda" and implementation == "eager" and model._supports_sdpa:
        warnings.warn(
            f"attention runs as {implementation!r} on a GPU, which is slow and needs memory for T x T numbers a head. "
            "Set `model.attn_implementation: sdpa`.",
            stacklevel=2,
        )


@contextmanager
def attention_rules(model: PreTrainedModel, modules: Iterable[nn.Module], variant: str) -> Iterator[None]:
    """Put the attention `modules` of one model under the rules of `variant`, and take them out again.

    Raises:
        ValueError: The model's attention implementation cannot be wrapped.
    """
    # Another model with this config object may be under the rules already: wrap what lies below them, not them.
    native = model.config._attn_implementation.removeprefix(_PREFIX)
    if not _SEEN_INTO.fullmatch(native):
        raise ValueError(
            f"the attention implementation must be 'sdpa' or 'eager' under the rules, got {native!r}, whose "
            "inside the rules do not see. Set `model.attn_implementation`."
        )
    modules = list(modules)
    try:
        _set_implementation(model, modules, _register(native))
        _RULE_OF.update(dict.fromkeys(modules, INPUT_RULES[variant]))
        yield
    finally:
        for module in modules:
            _RULE_OF.pop(module, None)
        if not any(_config(module) is model.config for module in _RULE_OF):
            model.set_attn_implementation(native)


def _config(module: nn.Module) -> Any:
    return module.config


def _set_implementation(model: PreTrainedModel, modules: Sequence[nn.Module], name: str) -> None:
    model.set_attn_implementation(name)
    # transformers only warns where a model's attention cannot be set.
    missed = [module for module in modules if _config(module)._attn_implementation != name]
    if missed:
        raise ValueError(
            f"{len(missed)} of {len(modules)} attention modules of `model` do not go through transformers' attention "
            "interface: the rules would not cover them."
        )
