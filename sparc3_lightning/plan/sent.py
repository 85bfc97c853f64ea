"""Bytes sent between ranks, in closed form: benchmarks/scaling.py counts them."""

from collections.abc import Sequence

from sparc3_lightning.plan.memory import num_scores, shard_numel, sum_itemsize
from sparc3_lightning.plan.settings import Settings
from sparc3_lightning.plan.shape import Linear, Shape

# Ranks agree after each batch whether one has failed: one 64-bit number, summed. (A resume callback adds two flags.)
_AGREEMENT_BYTES = 8
_FLOAT32 = 4


def all_gather_bytes(shard: float, num_ranks: int) -> float:
    """What each rank sends in a ring for every rank to have all shards."""
    return shard * (num_ranks - 1)


def all_reduce_bytes(full: float, num_ranks: int) -> float:
    """What each rank sends in a ring for every rank to have the sum: a reduce-scatter and an all-gather."""
    return 2 * full * (num_ranks - 1) / num_ranks


def step_bytes(settings: Settings, shape: Shape, attributed: Sequence[Linear]) -> dict[str, float]:
    """What each rank sends in one batch.

    Nothing but the agreement where every rank has the whole model. Under FSDP2 each block is gathered for the forward
    and again for the backward pass, what lies outside the blocks once; weight granularity also reduces the attributed
    layers' relevance, in float32.
    """
    ranks = settings.num_ranks
    found = {"agreement": all_reduce_bytes(_AGREEMENT_BYTES, ranks)}
    if settings.is_sharded:
        first = min(linear.place for linear in attributed)[0]
        blocks = _shards(shape.block_parameters, ranks) * (shape.layers + _num_backward(shape, first))
        shard = (blocks + _shards(shape.root_parameters, ranks)) * settings.itemsize
        found["gathering"] = all_gather_bytes(shard, ranks)
    if settings.reduced_by_fsdp:
        reduced = _shards([(linear.num_out, linear.num_in) for linear in attributed], ranks)
        found["reduction"] = all_gather_bytes(max(settings.itemsize, _FLOAT32) * reduced, ranks)
    return found


def _num_backward(shape: Shape, first: int) -> int:
    return shape.layers - min(first, shape.layers)


def _shards(parameters: Sequence[tuple[int, ...]], num_ranks: int) -> int:
    return sum(shard_numel(parameter, num_ranks) for parameter in parameters)


def set_bytes(settings: Settings, attributed: Sequence[Linear]) -> float:
    """What each rank sends once, at the end of a reference set, in the mean: its sums, or its shards, to their owners.

    Scores of neurons belong to rank 0, those of weights module by module to all ranks alike.
    """
    shares = settings.num_ranks if settings.reduced_by_fsdp else 1
    numel = num_scores(attributed, settings.granularity) / shares
    return numel * sum_itemsize(settings) * (settings.num_ranks - 1) / settings.num_ranks
