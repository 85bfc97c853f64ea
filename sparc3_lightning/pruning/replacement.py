"""Neurons' outputs replaced while a model runs: by zero, by a mean, or by what a corrupted twin gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparc3_lightning.lrp.patch import pre_hook
from sparc3_lightning.models.families import get_family

Ablation = Literal["zero", "mean", "corrupted"]
ABLATIONS: tuple[str, ...] = get_args(Ablation)
Values = Callable[[int, Tensor], Tensor]
"""Gives what takes the place of a layer's neurons, from its number and what they are; shapes (B, T, F)."""


def zeros(layer: int, outputs: Tensor) -> Tensor:
    """Nothing."""
    return torch.zeros_like(outputs)


def means_of(means: Mapping[int, Tensor]) -> Values:
    """Each neuron's mean at a token's place: the first token's at the first, at others the one as far from the end.

    Where a sample is longer than all that were averaged, its early inner tokens take the earliest inner mean.

    Args:
        means: By layer; see `mean_outputs`.
    """

    def values(layer: int, outputs: Tensor) -> Tensor:
        known, length = means[layer].to(outputs), outputs.shape[1]
        inner = min(1, len(known) - 1)  # samples of one token have nothing but their first
        places = torch.arange(len(known) - length, len(known), device=known.device).clamp(min=inner)
        places[0] = 0
        return known[places].expand_as(outputs)

    return values


def twins(layer: int, outputs: Tensor) -> Tensor:
    """What the other half of the rows gives: a pass holds samples, and after them their corrupted twins in order.

    The twins' own neurons stay as they are.
    """
    corrupted = outputs[len(outputs) // 2 :]
    return torch.cat([corrupted, corrupted])


@contextmanager
def replaced(model: PreTrainedModel, kept: Mapping[int, Tensor], values: Values = zeros) -> Iterator[None]:
    """Forward passes meanwhile find all neurons but those kept replaced, at every token.

    A neuron's output is what `down` reads. Weights are untouched. Passes must not be padded.

    Args:
        model: A causal language model of a known family; whole, or sharded (FSDP2).
        kept: By layer, which neurons stay as they are. Every layer must be there.
        values: What takes the others' place.

    Shape: each of `kept` (F,) bool.
    """

    def replace(layer: int, outputs: Tensor) -> Tensor:
        return torch.where(kept[layer].to(outputs.device), outputs, values(layer, outputs))

    with seen_outputs(model, replace):
        yield


@contextmanager
def seen_outputs(model: PreTrainedModel, see: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Ask `see` of the neurons' outputs in each layer of each forward pass; what it returns takes their place.

    Args:
        model: See `replaced`.
        see: Takes a layer's number and its outputs, (B, T, F); None leaves them.
    """
    family, shape = get_family(model.config.model_type), list[int]()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shape[:] = (args[0] if args else kwargs["input_ids"]).shape

    def hook(layer: int, module: nn.Module, args: tuple[Any, ...]) -> Any:
        # A family's block may put the tokens of all samples in one row.
        new = see(layer, args[0].reshape(*shape, -1))
        return None if new is None else (new.reshape(args[0].shape), *args[1:])

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(note, with_kwargs=True).remove)
        for layer, block in enumerate(family.block_modules(model)):
            stack.enter_context(pre_hook(block.get_submodule(family.down), partial(hook, layer)))
        yield


@torch.no_grad()
def mean_outputs(
    model: PreTrainedModel, batches: Sequence[Sequence[Tensor]], run: Callable[[Sequence[Tensor]], object]
) -> dict[int, Tensor]:
    """Mean output of each neuron over samples: of their first tokens, and at each other place counted from the end.

    The first token, whose outputs may be a thousand times those of others, is a place of its own in every sample.

    Args:
        model: See `replaced`.
        batches: Token ids of the samples of each pass, of one length.
        run: Makes a pass.

    Returns:
        By layer; row 0 is the first token's, row -1 the last one's, row -2 the one's before it. A place counts the
        samples that have it.

    Shape: each (T, F) float64, for the longest sample's T tokens.
    """
    length = max(len(ids) for batch in batches for ids in batch)
    sums: dict[int, Tensor] = {}
    counts = torch.zeros(length, 1, dtype=torch.float64)

    def add(layer: int, outputs: Tensor) -> None:
        total = outputs.double().sum(0).cpu()
        found = sums.setdefault(layer, torch.zeros(length, total.shape[1], dtype=torch.float64))
        found[0] += total[0]
        found[length - len(total) + 1 :] += total[1:]

    for batch in batches:
        counts[0] += len(batch)
        counts[length - len(batch[0]) + 1 :] += len(batch)
        with seen_outputs(model, add):
            run(batch)
    return {layer: total / counts for layer, total in sums.items()}
