"""The even sampler: every rank makes the same number of steps, and no sample counts twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

PADDING = -1


class Batch(TypedDict):
    """Right-padded samples.

    Shape:
        input_ids (B, T) int64, padded with 0; lengths (B,) int64; weights (B,) float32, 1 for a real sample and 0 for a
        padding sample; indices (B,) int64, the sample's place in its set, -1 for a padding sample.
    """

    input_ids: Tensor
    lengths: Tensor
    weights: Tensor
    indices: Tensor


class Sample(TypedDict):
    """One sample: ids (T,) int64, its weight and its place in the set."""

    ids: Tensor
    weight: float
    index: int


class EvenSampler(Sampler[int]):
    """Gives rank r the samples r, r + W, ... and fills up with `PADDING`, never by dropping or repeating a sample.

    A sharded model hangs when ranks make different numbers of steps, and a repeated sample would be counted twice.

    Args:
        num_samples: Samples in the set.
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(self, num_samples: int, rank: int = 0, world_size: int = 1) -> None:
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        self.num_samples = num_samples
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-self.num_samples // self.world_size)

    def __iter__(self) -> Iterator[int]:
        for step in range(len(self)):
            index = step * self.world_size + self.rank
            yield index if index < self.num_samples else PADDING


class SampleDataset(Dataset[Sample]):
    """Token ids by index; `PADDING` gives a sample of one token and weight 0.

    Args:
        ids: Token ids of each sample, (T_s,) int64.
    """

    def __init__(self, ids: Sequence[Tensor]) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        if index == PADDING:
            return {"ids": torch.zeros(1, dtype=torch.int64), "weight": 0.0, "index": PADDING}
        return {"ids": self.ids[index], "weight": 1.0, "index": index}


def collate_right_padded(samples: Sequence[Sample]) -> Batch:
    """Put samples into one batch, padded on the right with 0.

    Right padding is exact under causal attention for a target at the last real token; `lengths` tells where that is,
    so that no padding token is needed.
    """
    ids = [sample["ids"] for sample in samples]
    return {
        "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=0),
        "lengths": torch.tensor([len(sample) for sample in ids]),
        "weights": torch.tensor([sample["weight"] for sample in samples], dtype=torch.float32),
        "indices": torch.tensor([sample["index"] for sample in samples]),
    }
