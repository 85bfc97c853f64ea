"""FSDP2: what cannot be sharded is refused before anything is."""

from typing import cast

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.device_mesh import DeviceMesh

from sparc3_lightning.models.sharding import data_parallel_mesh, shard_model
from tests.tiny import tiny_llama


def test_float16_relevance_is_not_handed_over_as_a_gradient() -> None:
    """A weight's relevance in an 8B model is about 6e-8, float16's smallest number."""
    with pytest.raises(ValueError, match=r"got float16.*`model.dtype: bfloat16`"):
        shard_model(tiny_llama(dtype=torch.float16), cast(DeviceMesh, None), float32_shards=True)


def test_fsdp1_is_refused() -> None:
    """Trap 5."""
    with pytest.raises(ValueError, match=r"got `FSDPStrategy`\. Use `configs/trainer/fsdp.yaml`"):
        data_parallel_mesh(FSDPStrategy(), None)
