"""Packed blocks: every token once and in order, the tail dropped."""

import pytest
from transformers import PreTrainedTokenizerBase

from sparc3_lightning.data.blocks import PackedBlocks
from sparc3_lightning.data.tokens import encode


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
