"""Trap 4: equal steps on every rank, no sample dropped or repeated. Packed blocks: every token once and in order."""

import random

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from sparc3_lightning.data.batches import PADDING, BatchDataset, PackedBlocks, pad_right, plan_batches
from sparc3_lightning.data.tokens import encode

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


def test_blocks_are_the_texts_in_order(tokenizer: PreTrainedTokenizerBase) -> None:
    blocks = PackedBlocks(["abcde", "  ", "fgh"], tokenizer, 4)
    ids = encode(tokenizer, "abcde") + encode(tokenizer, "fgh")
    assert [blocks[index]["input_ids"].tolist() for index in range(len(blocks))] == [ids[:4], ids[4:8]]
    assert blocks[1]["labels"].tolist() == ids[4:8]


def test_texts_end_in_the_end_of_text_token(bare_tokenizer: PreTrainedTokenizerBase) -> None:
    bare_tokenizer.eos_token = "!"
    try:
        blocks = PackedBlocks(["ab", "c"], bare_tokenizer, 5)
    finally:
        bare_tokenizer.eos_token = None
    assert bare_tokenizer.decode(blocks[0]["input_ids"]) == "ab!c!"


def test_too_little_text_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="`train_text` must hold at least one block of 16 tokens, got 4"):
        PackedBlocks(["abc"], tokenizer, 16)


def test_one_end_where_the_tokenizer_adds_its_own(ending_tokenizer: PreTrainedTokenizerBase) -> None:
    blocks = PackedBlocks(["ab", "c"], ending_tokenizer, 7)
    assert ending_tokenizer.decode(blocks[0]["input_ids"]) == "<s>ab</s><s>c</s>"


def test_text_of_a_larger_tokenizer_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    highest = max(encode(tokenizer, "abc"))
    assert len(PackedBlocks(["abc"], tokenizer, 4, highest + 1)) == 1
    with pytest.raises(ValueError, match=f"`train_text` must hold token ids between 0 and {highest - 1}"):
        PackedBlocks(["abc"], tokenizer, 4, highest)
