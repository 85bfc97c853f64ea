"""A tiny classifier in Detoxify's checkpoint format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

WORDS = ["you", "are", "a", "nice", "bad", "person", "day", "what", "the", "sun"]
CLASSES = ["toxic", "severe_toxic", "identity_hate"]


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a checkpoint directory, its content changed by a callback before it is saved."""

    def make(change: Callable[[dict[str, Any]], object] = lambda loaded: None) -> Path:
        directory = tmp_path / "tiny_detoxify"
        directory.mkdir()
        (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
        tokenizer = BertTokenizer(str(directory / "vocab.txt"), model_max_length=16)
        tokenizer.save_pretrained(directory)
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=5 + len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16, num_labels=4, initializer_range=0.5,
        )  # fmt: skip
        config.save_pretrained(directory)
        arch = {
            "model_type": str(directory),
            "model_name": "BertForSequenceClassification",
            "tokenizer_name": "BertTokenizer",
            "num_classes": 4,
        }
        loaded = {
            "config": {"arch": {"args": arch}, "dataset": {"args": {"classes": list(CLASSES)}}},
            "state_dict": BertForSequenceClassification(config).state_dict(),
        }
        change(loaded)
        torch.save(loaded, directory / "tiny.ckpt")
        return directory

    return make
