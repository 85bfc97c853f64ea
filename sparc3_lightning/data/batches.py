"""Even batches: every rank makes the same number of steps, no sample counts twice. And packed blocks, for training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sparc3_lightning.data.tokens import check_vocabulary, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PADDING = -1
NONE = -1
"""In place of a token that a sample does not name."""


class Batch(TypedDict):
    """Right-padded samples.

    Shape:
        input_ids (B, T) int64, padded with 0; lengths (B,) int64; weights (B,) float32, 1 for a real sample and 0 for a
        padding sample; indices (B,) int64, the sample's place in its set, -1 for a padding sample; targets and against
        (B,) int64, the token that follows a sample and the one it is contrasted with, -1 where it names none.
    """

    input_ids: Tensor
    lengths: Tensor
    weights: Tensor
    indices: Tensor
    targets: Tensor
    against: Tensor


def plan_batches(
    lengths: Sequence[int],
    batch_size: int,
    max_tokens: int | None = None,
    bucket: bool = True,
    rank: int = 0,
    world_size: int = 1,
) -> list[list[int]]:
    """Share out a set's samples: rank r takes every W-th one, and `PADDING` fills up the last batch.

    A sharded model hangs when ranks make different numbers of steps, and a repeated sample would be counted twice.

    Args:
        lengths: Tokens of each sample.
        batch_size: Most samples a batch.
        max_tokens: Most tokens a batch, padding included; a batch of one sample may be longer. None: no limit.
        bucket: Sort by length, the longest first, so that little is padded and a lack of memory shows at once.
        rank: This rank.
        world_size: Number of ranks.

    Returns:
        Sample indices of each batch of this rank; on every rank as many batches, of the same sizes.
    """
    assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index] if bucket else index)
    batches: list[list[int]] = []
    while order:
        candidates = order[: batch_size * world_size]
        num = _num_that_fit([lengths[index] for index in candidates], max_tokens, world_size)
        mine = candidates[: num * world_size][rank::world_size]
        batches.append(mine + [PADDING] * (num - len(mine)))
        order = order[num * world_size :]
    return batches


def _num_that_fit(lengths: Sequence[int], max_tokens: int | None, world_size: int) -> int:
    """Samples a rank in the next batch, whose longest sample may lie on any rank."""
    num = -(-len(lengths) // world_size)
    while max_tokens is not None and num > 1 and num * max(lengths[: num * world_size]) > max_tokens:
        num -= 1
    return num


class BatchDataset(Dataset[Batch]):
    """The planned batches of one rank, each padded on the right.

    Args:
        ids: Token ids of each sample, (T_s,) int64.
        batches: Sample indices of each batch, as `plan_batches` gives them.
        targets: The token that follows each sample, (S,); None where there is none.
        against: The token that it is contrasted with, (S,), -1 for none; None for none at all.
    """

    def __init__(
        self,
        ids: Sequence[Tensor],
        batches: Sequence[Sequence[int]],
        targets: Sequence[int] | None = None,
        against: Sequence[int] | None = None,
    ) -> None:
        self.ids = ids
        self.batches = batches
        self.targets, self.against = targets, against

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def batch_sizes(self) -> list[int]:
        """Samples of each batch, without those that pad it."""
        return [sum(index != PADDING for index in batch) for batch in self.batches]

    def __getitem__(self, index: int) -> Batch:
        return pad_right(self.ids, self.batches[index], self.targets, self.against)


def pad_right(
    ids: Sequence[Tensor],
    indices: Sequence[int],
    targets: Sequence[int] | None = None,
    against: Sequence[int] | None = None,
) -> Batch:
    """Put samples into one batch, padded on the right with 0; `PADDING` is a sample of one token and weight 0.

    Right padding is exact under causal attention for a target at the last real token; `lengths` tells where that is,
    so that no padding token is needed.
    """

    def of_each(tokens: Sequence[int] | None) -> Tensor:
        return torch.tensor([NONE if tokens is None or index == PADDING else int(tokens[index]) for index in indices])

    rows = [torch.zeros(1, dtype=torch.int64) if index == PADDING else ids[index] for index in indices]
    return {
        "input_ids": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0),
        "lengths": torch.tensor([len(row) for row in rows]),
        "weights": torch.tensor([float(index != PADDING) for index in indices]),
        "indices": torch.tensor(indices),
        "targets": of_each(targets),
        "against": of_each(against),
    }


class Block(TypedDict):
    """A block of running text, input_ids and labels both (T,) int64; the model shifts the labels."""

    input_ids: Tensor
    labels: Tensor


class PackedBlocks(Dataset[Block]):
    """All texts one after the other, cut into blocks of equal length; the tail is dropped.

    Blank rows are left out. Each text carries what the tokenizer adds by itself, and ends in one end-of-text token
    where there is such a token.

    Args:
        rows: The texts.
        tokenizer: The model's tokenizer.
        block_length: Tokens a block.
        vocab_size: Rows of the model's embedding; None: token ids are not checked.

    Raises:
        ValueError: The text is shorter than one block, or holds tokens that the model has not.
    """

    def __init__(
        self, rows: Sequence[str], tokenizer: PreTrainedTokenizerBase, block_length: int, vocab_size: int | None = None
    ) -> None:
        end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        texts = (encode(tokenizer, row) + end for row in rows if row.strip())
        tokens = list(chain.from_iterable(texts))
        if vocab_size is not None and tokens:
            check_vocabulary(tokens, vocab_size, "`train_text`")
        ids = torch.tensor(tokens, dtype=torch.int64)
        if ids.numel() < block_length:
            raise ValueError(
                f"`train_text` must hold at least one block of {block_length} tokens, got {ids.numel()}. "
                "Set `data.block_length` or give more text."
            )
        self.blocks = ids[: ids.numel() // block_length * block_length].view(-1, block_length)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> Block:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index].clone()}
