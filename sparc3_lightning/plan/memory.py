"""Bytes on each GPU, on each node's host and on the disk, and bytes sent, in closed form."""

from collections.abc import Iterable, Sequence
from itertools import chain
from math import prod

from sparc3_lightning.plan.needs import Settings
from sparc3_lightning.plan.sizes import Linear, Sizes, WorkOf
from sparc3_lightning.scoring.sequential import WandaSequential

CONTEXT_BYTES = 1.0e9
"""What CUDA, its libraries and the allocator take beside tensors: an assumption."""

# Blocks gathered at once under FSDP2: the one that computes, and the next one on its way.
_GATHERED_BLOCKS = 2
_FLOAT32 = 4
# The widest temporaries, a token: three float32 tensors of hidden size in a norm, or three gradients of the
# feed-forward's width in the model's type.
_NORM_BYTES, _MLP_TENSORS = 12, 3
# Ranks agree after each batch whether one has failed: one 64-bit number, summed. (A resume callback adds two flags.)
_AGREEMENT_BYTES = 8


def shard_numel(shape: tuple[int, ...], num_ranks: int) -> int:
    """Numbers of one rank's shard of a parameter: rows are shared out, the last ranks' shards are padded."""
    return -(-shape[0] // num_ranks) * prod(shape[1:])


def _shards(shapes: Iterable[tuple[int, ...]], num_ranks: int) -> int:
    return sum(shard_numel(shape, num_ranks) for shape in shapes)


def sum_itemsize(settings: Settings) -> int:
    """Bytes a number of relevance: float32, or float64 where the model is."""
    return max(settings.itemsize, _FLOAT32)


def num_scores(attributed: Sequence[Linear], granularity: str) -> int:
    """How many scores a reference set has."""
    return sum(linear.numel if granularity == "weight" else linear.num_out for linear in attributed)


def activation_bytes(settings: Settings, sizes: Sizes, work: WorkOf, tokens: int, samples: int) -> float:
    """Activations that the backward pass of a batch needs; under checkpointing every block's input, and one block's.

    Args:
        settings: The run.
        sizes: Its model's.
        work: What a sample's attribution needs, by its tokens.
        tokens: Of each sample, padding included.
        samples: Of the batch.
    """
    kept = samples * work(tokens).kept_bytes
    if not settings.checkpoints_activations:
        return kept
    return samples * tokens * settings.itemsize * sizes.width * (sizes.layers + 2) + kept // max(1, sizes.layers - 1)


def gpu_bytes(
    settings: Settings,
    sizes: Sizes,
    work: WorkOf,
    attributed: Sequence[Linear],
    batches: Iterable[tuple[int, int]],
) -> dict[str, float]:
    """What lies on each GPU at the peak of an attribution, by what it is for.

    Args:
        settings: The run.
        sizes: Its model's.
        work: What a sample's attribution needs, by its tokens.
        attributed: The layers attributed.
        batches: Tokens of a sample, padding included, and samples of each set's largest batch on one rank.
    """
    batches = list(batches)
    most = max(tokens * samples for tokens, samples in batches)
    widest = max(_NORM_BYTES * sizes.width, _MLP_TENSORS * settings.itemsize * sizes.neurons)
    found = {
        "parameters": _parameter_bytes(settings, sizes),
        "accumulators": _accumulator_bytes(settings, attributed),
        "activations": max(activation_bytes(settings, sizes, work, *batch) for batch in batches),
        "temporaries": most * widest,
    }
    if settings.is_sharded:
        found["gathered parameters"] = _gathered_bytes(settings, sizes)
    if settings.reduced_by_fsdp:
        found["gradients on their way"] = _gradient_bytes(settings, sizes, attributed)
    return {**{name: float(value) for name, value in found.items()}, "CUDA context": CONTEXT_BYTES}


def _parameter_bytes(settings: Settings, sizes: Sizes) -> int:
    """As they are kept; shards in which relevance is summed are float32 (method.md, section 5)."""
    itemsize = max(settings.itemsize, _FLOAT32) if settings.reduced_by_fsdp else settings.itemsize
    everywhere = chain(*sizes.block_parameters, sizes.root_parameters)
    return _shards(everywhere, settings.num_shards) * itemsize


def _accumulator_bytes(settings: Settings, attributed: Sequence[Linear]) -> int:
    if settings.granularity == "neuron":
        numel = sum(linear.num_out for linear in attributed)
    else:
        numel = _shards((linear.stored for linear in attributed), settings.num_shards)
    return numel * sum_itemsize(settings)


def _gathered_bytes(settings: Settings, sizes: Sizes) -> int:
    """The blocks in use, and what lies outside the blocks, which FSDP2 keeps from the forward to the backward pass."""
    blocks = sorted((sum(map(prod, block)) for block in sizes.block_parameters), reverse=True)[:_GATHERED_BLOCKS]
    return (sum(blocks) + sum(map(prod, sizes.root_parameters))) * settings.itemsize


def _gradient_bytes(settings: Settings, sizes: Sizes, attributed: Sequence[Linear]) -> int:
    """The gathered gradient of lm_head all the time; of one block, the gradient and its float32 copy to be reduced."""
    of_group: dict[int, int] = {}
    for linear in attributed:
        of_group[linear.block] = of_group.get(linear.block, 0) + linear.numel
    root = of_group.pop(sizes.layers, 0)
    block = max(of_group.values(), default=0)
    return root * settings.itemsize + max(root, block) * (settings.itemsize + _FLOAT32)


def evaluation_bytes(settings: Settings, sizes: Sizes, window: int) -> float:
    """What lies on each GPU at the peak of a perplexity: the parameters, a batch's logits, and a copy of them.

    Beside them what blocks of the unchanged model gave, as far as it is shared; and while a compressed model is
    measured, the weights that it is restored from.
    """
    logits = settings.windows_a_batch(window) * window * sizes.vocab * settings.itemsize
    held = _compression_bytes(settings, sizes) + _shared_bytes(settings, sizes)
    return _loaded_bytes(settings, sizes) + held + 2.0 * logits


def _shared_bytes(settings: Settings, sizes: Sizes) -> float:
    """At most: as if trials began at every block."""
    evaluated = settings.evaluated
    if evaluated.text_tokens is None:
        return evaluated.shared_bytes
    overlap = evaluated.window / (evaluated.stride or evaluated.window // 4)
    reads = sum(overlap if protocol == "sliding" else 1.0 for protocol in evaluated.protocols)
    tokens = evaluated.text_tokens * reads / settings.num_ranks
    return min(evaluated.shared_bytes, tokens * sizes.layers * sizes.width * settings.itemsize)


def _loaded_bytes(settings: Settings, sizes: Sizes) -> float:
    gathered = _gathered_bytes(settings, sizes) if settings.is_sharded else 0
    return _parameter_bytes(settings, sizes) + gathered + CONTEXT_BYTES


def _compression_bytes(settings: Settings, sizes: Sizes) -> int:
    """A copy of all blocks' weights; of a method that masks while it scores also all masks, a byte a weight."""
    if not settings.compressed_by:
        return 0
    in_blocks = (linear.stored for linear in sizes.linears if linear.block < sizes.layers)
    by_blocks = WandaSequential.name in settings.compressed_by
    return _shards(in_blocks, settings.num_shards) * (settings.itemsize + by_blocks)


def screen_bytes(settings: Settings, sizes: Sizes, word_tokens: int) -> float:
    """What lies on each GPU while candidates are removed: the parameters, and what each block gives of all passages.

    Args:
        settings: The run, which screens.
        sizes: Its model's.
        word_tokens: Tokens of the behaviour's and the ordinary words' passages.
    """
    assert settings.screen is not None
    kept = (word_tokens + settings.screen.num_price_tokens) * sizes.layers * sizes.width * settings.itemsize
    logits = settings.screen.max_tokens * sizes.vocab * _FLOAT32
    return _loaded_bytes(settings, sizes) + kept + logits


def host_bytes(settings: Settings, sizes: Sizes, attributed: Sequence[Linear]) -> dict[str, float]:
    """Host memory of the first node: while loading, and for scores (of neurons all sets', of weights one's share)."""
    per_rank = (
        2 * _parameter_bytes(settings, sizes) if settings.is_sharded else sizes.num_parameters * settings.itemsize
    )
    kept = float(num_scores(attributed, settings.granularity) * sum_itemsize(settings))
    if settings.granularity == "weight":
        kept *= settings.ranks_per_node / settings.num_ranks
    else:
        kept *= len(settings.sets) + settings.has_differential * settings.num_recipes
    return {"loading": float(per_rank * settings.ranks_per_node), "scores": kept}


def disk_bytes(settings: Settings, sizes: Sizes, attributed: Sequence[Linear]) -> dict[str, float]:
    """What a run leaves, and what it needs while it goes on; scores of baselines left out."""
    scores = _FLOAT32 * num_scores(attributed, settings.granularity)
    found = {"scores": scores * (len(settings.sets) + settings.has_differential * settings.num_recipes)}
    if settings.saves_model:
        found["pruned model"] = sizes.num_parameters * settings.itemsize * settings.num_recipes
    if settings.saves_state:
        # Two states lie there for a moment: the new one is whole before the old one goes.
        ranks = 1 if settings.reduced_by_fsdp else settings.num_ranks
        found["resume state, while it runs"] = 2 * ranks * scores
    return {name: float(value) for name, value in found.items()}


def all_gather_bytes(shard: float, num_ranks: int) -> float:
    """What each rank sends in a ring for every rank to have all shards."""
    return shard * (num_ranks - 1)


def all_reduce_bytes(full: float, num_ranks: int) -> float:
    """What each rank sends in a ring for every rank to have the sum: a reduce-scatter and an all-gather."""
    return 2 * full * (num_ranks - 1) / num_ranks


def pass_bytes(settings: Settings, sizes: Sizes, first: int | None = None) -> float:
    """What each rank sends in a forward pass, and in a backward pass from the last block to block `first`.

    Under FSDP2 each block is gathered for either, what lies outside the blocks once.
    """
    if not settings.is_sharded:
        return 0.0
    ranks = settings.num_ranks
    backward = [] if first is None else sizes.block_parameters[first:]
    gathered = sum(_shards(block, ranks) for block in [*sizes.block_parameters, *backward])
    shard = (gathered + _shards(sizes.root_parameters, ranks)) * settings.itemsize
    return all_gather_bytes(shard, ranks)


def step_bytes(settings: Settings, sizes: Sizes, attributed: Sequence[Linear]) -> dict[str, float]:
    """What each rank sends in one batch.

    Nothing but the agreement where every rank has the whole model. Under FSDP2 blocks are gathered; weight granularity
    also reduces the attributed layers' relevance, in float32.
    """
    ranks = settings.num_ranks
    found = {"agreement": all_reduce_bytes(_AGREEMENT_BYTES, ranks)}
    if settings.is_sharded:
        found["gathering"] = pass_bytes(settings, sizes, min(linear.block for linear in attributed))
    if settings.reduced_by_fsdp:
        reduced = _shards((linear.stored for linear in attributed), ranks)
        found["reduction"] = all_gather_bytes(sum_itemsize(settings) * reduced, ranks)
    return found


def set_bytes(settings: Settings, attributed: Sequence[Linear]) -> float:
    """What each rank sends once, at the end of a reference set, in the mean: its sums, or its shards, to their owners.

    Scores of neurons belong to rank 0, those of weights module by module to all ranks alike.
    """
    shares = settings.num_ranks if settings.reduced_by_fsdp else 1
    numel = num_scores(attributed, settings.granularity) / shares
    return numel * sum_itemsize(settings) * (settings.num_ranks - 1) / settings.num_ranks
