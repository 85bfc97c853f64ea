"""Tokenizers of one token a byte, so that lengths can be counted by eye; neither has a padding token, as LLaMA-3's."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sparc3_lightning.data import LoadContext

BOS, EOS = "<s>", "</s>"


def byte_tokenizer(adds_bos: bool, adds_eos: bool = False) -> PreTrainedTokenizerBase:
    tokens = [BOS, *sorted(pre_tokenizers.ByteLevel.alphabet()), EOS]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if adds_eos:
        ends = [(BOS, 0), (EOS, tokens.index(EOS))]
        backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=ends)
        return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
        return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    made = byte_tokenizer(adds_bos=True)
    assert made.pad_token is None
    assert made("ab")["input_ids"][0] == 0
    return made


@pytest.fixture(scope="session")
def ending_tokenizer() -> PreTrainedTokenizerBase:
    """Ends each text, as with `add_eos_token`."""
    made = byte_tokenizer(adds_bos=True, adds_eos=True)
    assert made("ab")["input_ids"][-1] == made.eos_token_id
    return made


@pytest.fixture(scope="session")
def bare_tokenizer() -> PreTrainedTokenizerBase:
    """Has no beginning-of-text token, as Qwen2's."""
    return byte_tokenizer(adds_bos=False)


@pytest.fixture
def context(tokenizer: PreTrainedTokenizerBase) -> LoadContext:
    return LoadContext(tokenizer, max_length=64)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    def write(rows: Iterable[dict[str, Any]], name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write
