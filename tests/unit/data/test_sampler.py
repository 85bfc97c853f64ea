"""Trap 4: equal steps on every rank, filled with samples of weight 0, none dropped and none repeated."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from sparc3_lightning.data import EvenSampler, SampleDataset, collate_right_padded
from sparc3_lightning.data.sampler import PADDING


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("num_samples", [1, 7, 8, 93])
def test_ranks_are_even_and_share_out_every_sample_once(num_samples: int, world_size: int) -> None:
    ranks = [list(EvenSampler(num_samples, rank, world_size)) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    assert all(len(rank) == len(EvenSampler(num_samples, 0, world_size)) for rank in ranks)
    real = [index for rank in ranks for index in rank if index != PADDING]
    assert sorted(real) == list(range(num_samples))
    assert sum(len(rank) for rank in ranks) - num_samples < world_size


def test_ninety_three_on_four_as_lightning_would_not() -> None:
    assert [len(EvenSampler(93, rank, 4)) for rank in range(4)] == [24, 24, 24, 24]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_weigh_seven_samples_on_four_ranks(batch_size: int) -> None:
    dataset = SampleDataset([torch.arange(1, 2 + number) for number in range(7)])
    weights, steps = 0.0, set()
    for rank in range(4):
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=EvenSampler(7, rank, 4),
            collate_fn=collate_right_padded,
        )
        batches = list(loader)
        steps.add(len(batches))
        weights += sum(float(batch["weights"].sum()) for batch in batches)
    assert weights == 7.0
    assert len(steps) == 1


def test_a_batch_is_padded_on_the_right() -> None:
    dataset = SampleDataset([torch.tensor([5, 6, 7]), torch.tensor([8])])
    batch = collate_right_padded([dataset[1], dataset[0], dataset[PADDING]])
    assert batch["input_ids"].tolist() == [[8, 0, 0], [5, 6, 7], [0, 0, 0]]
    assert batch["lengths"].tolist() == [1, 3, 1]
    assert batch["weights"].tolist() == [1.0, 1.0, 0.0]
    assert batch["indices"].tolist() == [1, 0, -1]
    assert (batch["input_ids"].dtype, batch["weights"].dtype) == (torch.int64, torch.float32)
    assert (batch["lengths"].dtype, batch["indices"].dtype) == (torch.int64, torch.int64)
