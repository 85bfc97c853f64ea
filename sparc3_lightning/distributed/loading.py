"""Load a checkpoint straight into FSDP2's shards: each rank reads its own rows from the safetensors files."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from sparc3_lightning.checkpoint import Checkpoint, fetch_checkpoint
from sparc3_lightning.distributed.ranks import check_same_on_every_rank, from_rank_zero, raise_together
from sparc3_lightning.identity import hash_in_hand
from sparc3_lightning.models import DtypeName, give_memory, torch_dtype


def load_sharded_model(
    name: str,
    shard: Callable[[PreTrainedModel], object],
    device: torch.device,
    revision: str | None = None,
    dtype: DtypeName = "auto",
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """Load a causal language model so that no rank ever holds more of it than its shards.

    Parameters are made without memory, sharded, and filled one by one with the rows that this rank keeps. Every rank
    must call.

    Args:
        name: Hub id or Hugging Face directory, which every rank can read.
        shard: Shards the model, and may change the type of its parameters first; they have no memory yet.
        device: Where the shards live.
        revision: Revision on the hub.
        dtype: Type of the weights; "auto" is the checkpoint's own.
        attn_implementation: Attention implementation.

    Raises:
        OSError, ValueError: As `load_model`; on every rank, whichever met it.
    """
    # The hub is asked once; a node that shares no cache with rank 0's asks again.
    directory = from_rank_zero(lambda: fetch_checkpoint(name, revision))

    def prepare() -> tuple[Checkpoint, PreTrainedModel]:
        checkpoint = Checkpoint.open(name, revision, directory if directory.is_dir() else None)
        return checkpoint, checkpoint.empty_model(torch_dtype(dtype), attn_implementation)

    checkpoint, model = raise_together(prepare, (ValueError, OSError), device)
    shard(model)
    give_memory(model, device)
    raise_together(lambda: checkpoint.fill(model), (ValueError, OSError), device)
    return model.eval()


def shard_built_model(model: PreTrainedModel, shard: Callable[[PreTrainedModel], object]) -> PreTrainedModel:
    """Shard a model with random weights, which every rank has made for itself. Every rank must call.

    Raises:
        ValueError: The ranks' weights differ: their shards would make a model that nobody has.
    """
    check_same_on_every_rank(hash_in_hand(model), "the model's weights (their hash)")
    shard(model)
    return model
