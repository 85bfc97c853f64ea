"""What is replaced on one module is put back: the small tools every patch of this room is made of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward of this one instance; other instances and the class are untouched."""
    missing = object()
    previous = module.__dict__.get("forward", missing)
    module.forward = forward
    try:
        yield
    finally:
        if previous is missing:
            del module.forward
        else:
            module.forward = previous


def recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward that keeps its inputs only, and runs again in the backward pass (activation checkpointing)."""
    return partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def pre_hook(module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...]], Any]) -> Iterator[None]:
    """Register a forward pre-hook and remove it again."""
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, so that nothing is dropped out, and every module back in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(model: nn.Module, but: Callable[[nn.Parameter], bool] = lambda parameter: False) -> Iterator[None]:
    """Put the model in eval mode and let no parameter ask for a gradient, except those for which `but` is true."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in wanted:
        parameter.requires_grad_(but(parameter))
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
