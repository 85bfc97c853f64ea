"""Packed blocks of text, for training."""

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
