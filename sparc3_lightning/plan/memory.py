"""Bytes on each GPU, on each node's host and on the disk, in closed form."""

from collections.abc import Sequence
from math import prod

from sparc3_lightning.plan.activations import checkpointed_bytes, saved_bytes, temporary_bytes
from sparc3_lightning.plan.settings import Settings
from sparc3_lightning.plan.shape import Linear, Shape

CONTEXT_BYTES = 1.0e9
"""What CUDA, its libraries and the allocator take beside tensors: an assumption."""

# Blocks gathered at once under FSDP2: the one that computes, and the next one on its way.
_GATHERED_BLOCKS = 2
_FLOAT32 = 4


def shard_numel(parameter: tuple[int, ...], num_ranks: int) -> int:
    """Numbers of one rank's shard of a parameter: rows are shared out, the last ranks' shards are padded."""
    return -(-parameter[0] // num_ranks) * prod(parameter[1:])


def stored_itemsize(settings: Settings) -> int:
    """Bytes a parameter as it is kept; shards in which relevance is summed are float32 (method.md, section 5)."""
    return max(settings.itemsize, _FLOAT32) if settings.reduced_by_fsdp else settings.itemsize


def sum_itemsize(settings: Settings) -> int:
    """Bytes a number of relevance: float32, or float64 where the model is."""
    return max(settings.itemsize, _FLOAT32)


def num_scores(attributed: Sequence[Linear], granularity: str) -> int:
    """How many scores a reference set has."""
    return sum(linear.numel if granularity == "weight" else linear.num_out for linear in attributed)


def gpu_bytes(settings: Settings, shape: Shape, attributed: Sequence[Linear], batch_tokens: int) -> dict[str, float]:
    """What lies on each GPU at the peak of an attribution, by what it is for.

    Args:
        settings: The run.
        shape: Its model.
        attributed: The layers attributed.
        batch_tokens: Tokens of the largest batch on one rank, padding included.
    """
    kept = checkpointed_bytes if settings.checkpoints_activations else saved_bytes
    found = {
        "parameters": _parameter_bytes(settings, shape),
        "accumulators": _accumulator_bytes(settings, attributed),
        "activations": kept(shape, batch_tokens, attributed, settings.itemsize),
        "temporaries": temporary_bytes(shape, batch_tokens, settings.itemsize),
    }
    if settings.is_sharded:
        found["gathered parameters"] = _gathered_bytes(settings, shape)
    if settings.reduced_by_fsdp:
        found["gradients on their way"] = _gradient_bytes(settings, attributed)
    return {**{name: float(value) for name, value in found.items()}, "CUDA context": CONTEXT_BYTES}


def _all_parameters(shape: Shape) -> list[tuple[int, ...]]:
    return shape.block_parameters * shape.layers + shape.root_parameters


def _parameter_bytes(settings: Settings, shape: Shape) -> int:
    numel = sum(shard_numel(parameter, settings.num_shards) for parameter in _all_parameters(shape))
    return numel * stored_itemsize(settings)


def _accumulator_bytes(settings: Settings, attributed: Sequence[Linear]) -> int:
    num_shards = settings.num_shards if settings.reduced_by_fsdp else 1
    numel = sum(shard_numel(_sum_shape(settings, linear), num_shards) for linear in attributed)
    return numel * sum_itemsize(settings)


def _sum_shape(settings: Settings, linear: Linear) -> tuple[int, ...]:
    return (linear.num_out, linear.num_in) if settings.granularity == "weight" else (linear.num_out,)


def _gathered_bytes(settings: Settings, shape: Shape) -> int:
    """The blocks in use, and what lies outside the blocks, which FSDP2 keeps from the forward to the backward pass."""
    blocks = min(_GATHERED_BLOCKS, shape.layers) * sum(map(prod, shape.block_parameters))
    return (blocks + sum(map(prod, shape.root_parameters))) * settings.itemsize


def _gradient_bytes(settings: Settings, attributed: Sequence[Linear]) -> int:
    """The gathered gradient of lm_head all the time; of one block, the gradient and its float32 copy to be reduced."""
    of_group: dict[int, int] = {}
    for linear in attributed:
        of_group[linear.place[0]] = of_group.get(linear.place[0], 0) + linear.numel
    root = of_group.pop(settings.num_layers, 0)
    block = max(of_group.values(), default=0)
    return root * settings.itemsize + max(root, block) * (settings.itemsize + _FLOAT32)


def evaluation_bytes(settings: Settings, shape: Shape, window: int, batch_size: int) -> float:
    """What lies on each GPU at the peak of a perplexity: the parameters, a batch's logits, and a copy of them."""
    logits = batch_size * window * shape.vocab * settings.itemsize
    gathered = _gathered_bytes(settings, shape) if settings.is_sharded else 0
    return _parameter_bytes(settings, shape) + gathered + 2.0 * logits + CONTEXT_BYTES


def host_bytes(settings: Settings, shape: Shape, attributed: Sequence[Linear]) -> dict[str, float]:
    """Host memory of the first node: while loading, and for scores (of neurons all sets', of weights one's share)."""
    per_rank = (
        2 * _parameter_bytes(settings, shape) if settings.is_sharded else shape.num_parameters * settings.itemsize
    )
    kept = float(num_scores(attributed, settings.granularity) * sum_itemsize(settings))
    if settings.granularity == "weight":
        kept *= settings.ranks_per_node / settings.num_ranks
    else:
        kept *= len(settings.sets) + settings.has_differential
    return {
        "loading": float(per_rank * settings.ranks_per_node),
        "scores": kept,
    }


def disk_bytes(settings: Settings, shape: Shape, attributed: Sequence[Linear]) -> dict[str, float]:
    """What a run leaves, and what it needs while it goes on."""
    scores = _FLOAT32 * num_scores(attributed, settings.granularity)
    # Two states lie there for a moment: the new one is whole before the old one goes.
    ranks = 1 if settings.reduced_by_fsdp else settings.num_ranks
    found = {"scores": scores * (len(settings.sets) + settings.has_differential)}
    if settings.saves_model:
        found["pruned model"] = shape.num_parameters * settings.itemsize
    if settings.saves_state:
        found["resume state, while it runs"] = 2 * ranks * scores
    return {name: float(value) for name, value in found.items()}
