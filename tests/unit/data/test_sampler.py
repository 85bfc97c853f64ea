"""Trap 4: equal steps on every rank, filled with samples of weight 0, none dropped and none repeated."""

import random

import pytest
import torch

from sparc3_lightning.data.sampler import PADDING, BatchDataset, pad_right, plan_batches

LENGTHS = [random.Random(1).randint(20, 50) for _ in range(93)]


@pytest.mark.parametrize("bucket", [True, False])
@pytest.mark.parametrize("max_tokens", [None, 200])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("num_samples", [1, 7, 93])
def test_ranks_are_even_and_share_out_every_sample_once(
    num_samples: int, world_size: int, batch_size: int, max_tokens: int | None, bucket: bool
) -> None:
    lengths = LENGTHS[:num_samples]
    ranks = [plan_batches(lengths, batch_size, max_tokens, bucket, rank, world_size) for rank in range(world_size)]
    assert len({tuple(len(batch) for batch in batches) for batches in ranks}) == 1
    everything = [index for batches in ranks for batch in batches for index in batch]
    assert sorted(index for index in everything if index != PADDING) == list(range(num_samples))
    assert len(everything) - num_samples < world_size
    for batch in (batch for batches in ranks for batch in batches):
        assert 1 <= len(batch) <= batch_size
        longest = max((lengths[index] for index in batch if index != PADDING), default=1)
        assert max_tokens is None or len(batch) * longest <= max_tokens


def test_ninety_three_on_four_as_lightning_would_not() -> None:
    assert [len(plan_batches(LENGTHS, 1, rank=rank, world_size=4)) for rank in range(4)] == [24, 24, 24, 24]


def test_alike_lengths_go_together_the_longest_first() -> None:
    assert plan_batches([3, 9, 3, 5, 9], 2) == [[1, 4], [3, 0], [2]]
    assert plan_batches([3, 9, 3, 5, 9], 2, bucket=False) == [[0, 1], [2, 3], [4]]


def test_batches_hold_as_many_tokens_as_they_may() -> None:
    assert plan_batches([10, 2, 4, 4, 3, 3], 4, max_tokens=8) == [[0], [2, 3], [4, 5], [1]]
    # unsorted, the longest of a batch may be its last; on two ranks the other one's
    assert plan_batches([2, 2, 8, 2], 4, max_tokens=8, bucket=False) == [[0, 1], [2], [3]]
    assert plan_batches([2, 2, 2, 8], 4, max_tokens=8, bucket=False, world_size=2) == [[0], [2]]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_weigh_seven_samples_on_four_ranks(batch_size: int) -> None:
    ids = [torch.arange(1, 2 + number) for number in range(7)]
    ranks = [
        BatchDataset(ids, plan_batches([len(row) for row in ids], batch_size, rank=rank, world_size=4))
        for rank in range(4)
    ]
    assert sum(float(ranks[r][k]["weights"].sum()) for r in range(4) for k in range(len(ranks[r]))) == 7.0
    assert len({len(rank) for rank in ranks}) == 1


def test_a_batch_is_padded_on_the_right() -> None:
    batch = pad_right([torch.tensor([5, 6, 7]), torch.tensor([8])], [1, 0, PADDING])
    assert batch["input_ids"].tolist() == [[8, 0, 0], [5, 6, 7], [0, 0, 0]]
    assert batch["lengths"].tolist() == [1, 3, 1]
    assert batch["weights"].tolist() == [1.0, 1.0, 0.0]
    assert batch["indices"].tolist() == [1, 0, -1]
    assert (batch["input_ids"].dtype, batch["weights"].dtype) == (torch.int64, torch.float32)
    assert (batch["lengths"].dtype, batch["indices"].dtype) == (torch.int64, torch.int64)
