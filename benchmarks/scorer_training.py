"""A small toxicity scorer, trained on labelled texts and saved as Detoxify saves its own."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich
import torch
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from sparc3_lightning.data.sources import read_file
from sparc3_lightning.files import new_directory

_SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
_MAX_LENGTH, _VOCABULARY = 128, 2000


@dataclass(frozen=True)
class ScorerTraining:
    """How the scorer is trained; two epochs by default."""

    num_epochs: int = 2
    batch_size: int = 32
    lr: float = 2e-3
    seed: int = 0


def read_labelled(path: Path) -> tuple[list[str], list[float]]:
    """Texts and labels (1 is rude) of a file with `text` and `toxicity`."""
    rows = list(read_file(str(path)))
    return [row.text("text", "text_column") for row in rows], [float(row.values["toxicity"]) for row in rows]


def train_scorer(
    labelled: Path, directory: Path, training: ScorerTraining = ScorerTraining(), console: Console | None = None
) -> None:
    """Train a BERT classifier and save it in Detoxify's format: what `DetoxifyScorer(checkpoint=directory)` reads.

    Args:
        labelled: Labelled texts.
        directory: Where; it must be empty or absent.
        training: How.
        console: Where to show progress; default: rich's own.
    """
    texts, labels = read_labelled(labelled)
    tokenizer = train_wordpiece(texts, _VOCABULARY, _MAX_LENGTH)
    torch.manual_seed(training.seed)
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=_MAX_LENGTH, num_labels=1, pad_token_id=0, **_SIZES
    )
    model = BertForSequenceClassification(config)
    _train(model, tokenizer, texts, torch.tensor(labels), training, console or rich.get_console())
    with new_directory(directory) as home:
        tokenizer.save_pretrained(home)
        config.save_pretrained(home)
        torch.save(_checkpoint(model), home / "detoxify.ckpt")


def _train(
    model: BertForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    labels: Tensor,
    training: ScorerTraining,
    console: Console,
) -> None:
    order = torch.cat([torch.randperm(len(texts)) for _ in range(training.num_epochs)])
    batches = torch.split(order, training.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.lr, len(batches), pct_start=0.1)
    model.train()
    for batch in track(batches, "train", console=console):
        inputs = tokenizer([texts[i] for i in batch], return_tensors="pt", padding=True, truncation=True)
        logits = model(**inputs).logits[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[batch])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()


def _checkpoint(model: BertForSequenceClassification) -> dict[str, Any]:
    """The parts of Detoxify's checkpoints that its loader reads."""
    arch = {
        "num_classes": 1,
        "model_type": "bert",
        "model_name": type(model).__name__,
        "tokenizer_name": "BertTokenizer",
    }
    return {
        "config": {"arch": {"args": arch}, "dataset": {"args": {"classes": ["toxicity"]}}},
        "state_dict": dict(model.state_dict()),
    }


def train_wordpiece(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A lower-case WordPiece, as BERT's: the most frequent words are whole, others are spelled by letters.

    The trainer of `tokenizers` breaks ties by a hash that is another one in each process; this one by the alphabet.

    Args:
        texts: What it is trained on.
        vocab_size: Tokens, special ones included.
        max_length: The scorer's context.
    """
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted({letter for word in counts for letter in word})
    words = sorted(counts, key=lambda word: (-counts[word], word))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokens = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *words])
    vocab = {token: number for number, token in enumerate(list(tokens)[:vocab_size])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_length,
    )
