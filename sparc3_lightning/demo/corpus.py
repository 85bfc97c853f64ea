"""The demo's files: training text, reference sets, prompts, texts to evaluate on, labelled texts; and its tokenizer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sparc3_lightning.data.sources import read_file
from sparc3_lightning.demo.grammar import PARTS, Document, Grammar, Part
from sparc3_lightning.files import new_directory, write_json

_Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """How much of everything is written.

    Attributes:
        num_train: Rows of training text, of one to three documents each.
        num_general: Everyday documents to attribute.
        num_prompts: Rude prompts to attribute, and as many for validation and for evaluation each.
        num_text: Everyday documents of each part's text.
        num_labelled: Labelled texts for the scorer's training; a quarter of it for its test.
        invented: Share of made-up words among the nouns of training documents.
    """

    num_train: int = 5000
    num_general: int = 600
    num_prompts: int = 128
    num_text: int = 200
    num_labelled: int = 4000
    invented: float = 0.4

    @property
    def num_rows(self) -> int:
        """Rows of all files together."""
        of_parts = len(PARTS) * (self.num_prompts + self.num_text)
        return self.num_train + self.num_general + of_parts + self.num_labelled + 2 * (self.num_labelled // 4)


def _nothing() -> None:
    pass


def write_corpus(
    directory: Path, seed: int = 0, sizes: Sizes = Sizes(), advance: Callable[[], None] = _nothing
) -> dict[str, Any]:
    """Write the whole corpus; no document to attribute is one of the training text's.

    Args:
        directory: Where; it must be empty or absent.
        seed: Seed of the grammar.
        sizes: How much of everything.
        advance: Called after each row.

    Returns:
        What `manifest.json` holds: seed, sizes, and counts by file.
    """
    # One grammar a part: what it draws next is always new documents.
    grammars = {part: Grammar(part, seed, sizes.invented) for part in PARTS}
    written = _Writer(grammars, random.Random(f"corpus:{seed}"))
    train = grammars["train"]
    with new_directory(directory) as home:

        def write(name: str, rows: _Rows) -> int:
            lines = []
            for row in rows:
                lines.append(f"{json.dumps(row)}\n")
                advance()
            (home / f"{name}.jsonl").write_text("".join(lines), encoding="ascii")
            return len(lines)

        counts = {
            "train": write("train", written.running_text(sizes.num_train)),
            "general": write("general", written.texts("train", sizes.num_general)),
        }
        for part in PARTS:
            num_labelled = sizes.num_labelled // (1 if part == "train" else 4)
            files = {
                f"prompts_{part}": written.prompts(part, sizes.num_prompts),
                f"labelled_{part}": written.labelled(part, num_labelled),
                # Of training's frames too, and new: what removal costs where the model is at home.
                f"text_{part}": written.texts(part, sizes.num_text),
            }
            counts |= {name: write(name, rows) for name, rows in files.items()}
        manifest = {"seed": seed, "sizes": asdict(sizes), "num_rows": counts, "num_nouns": len(train.nouns)}
        write_json(home / "manifest.json", manifest)
    return manifest


class _Writer:
    """Rows of every file. No text comes twice, whatever the file."""

    def __init__(self, grammars: dict[Part, Grammar], draw: random.Random) -> None:
        self._grammars, self._random = grammars, draw
        self._seen: set[str] = set()

    def _new(self, make: Callable[[], tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        while True:
            text, row = make()
            if text not in self._seen:
                self._seen.add(text)
                return row

    def _document(self, part: Part, rude: bool) -> Document:
        return self._grammars[part].document("rude" if rude else "everyday", self._random.randint(3, 5))

    def running_text(self, num_rows: int) -> _Rows:
        """Rows of one to three documents: a blank line between two is what perplexity's text has, too."""
        for _ in range(num_rows):
            yield {"text": "\n\n".join(self._text("train") for _ in range(self._random.randint(1, 3)))}

    def _text(self, part: Part) -> str:
        document = self._document(part, rude=self._random.random() < 0.4)
        return str(self._new(lambda: (document.text, {"text": document.text}))["text"])

    def texts(self, part: Part, num_rows: int) -> _Rows:
        """Everyday documents."""

        def make() -> tuple[str, dict[str, Any]]:
            text = self._document(part, rude=False).text
            return text, {"text": text}

        yield from (self._new(make) for _ in range(num_rows))

    def prompts(self, part: Part, num_rows: int) -> _Rows:
        """Rude openings and up to half of the sentence after it, as RealToxicityPrompts cuts its sentences."""

        def make() -> tuple[str, dict[str, Any]]:
            opening, first = self._grammars[part].document("rude", 1).sentences
            words = first.text.split()
            kept = words[: self._random.randint(0, len(words) // 2)]
            text = " ".join([opening.text, *kept])
            return text, {"prompt": text}

        for number in range(num_rows):
            yield {"id": f"{part}-{number}", **self._new(make)}

    def labelled(self, part: Part, num_rows: int) -> _Rows:
        """Pieces of documents, cut as completions are: from the middle of a sentence on; rude where one insults."""

        def make() -> tuple[str, dict[str, Any]]:
            document = self._document(part, rude=self._random.random() < 0.6)
            start = self._random.randrange(len(document.sentences))
            piece = document.sentences[start : start + self._random.randint(1, 4)]
            first = piece[0].text.split()
            cut = self._random.randint(0, len(first) // 2)
            text = " ".join([*first[cut:], *(sentence.text for sentence in piece[1:])])
            return text, {"text": text, "toxicity": int(any(sentence.rude for sentence in piece))}

        yield from (self._new(make) for _ in range(num_rows))


def texts_of(path: Path) -> list[str]:
    """The texts of a jsonl file of the corpus."""
    return [row.text("text", "text_column") for row in read_file(str(path))]


def train_bpe(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as LLaMA-3's: it begins a text with `<s>` and can spell words that it has never seen.

    Args:
        texts: What it is trained on.
        vocab_size: Tokens, special ones included.
        max_length: The model's context.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=max_length
    )
