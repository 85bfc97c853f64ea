"""Save a compressed model as a Hugging Face directory that says what it is: card and provenance beside the weights."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from sparc3_lightning.compression.methods import WeightScores
from sparc3_lightning.files import write_json
from sparc3_lightning.pruning.apply import apply_masks
from sparc3_lightning.pruning.card import CARD_FILE, card_of
from sparc3_lightning.pruning.save import save_hf_directory
from sparc3_lightning.trials.compress import Compression, share_removed
from sparc3_lightning.version import package_versions

COMPRESSION_FILE = "compression.json"
FORMAT_VERSION = 1

_TEXT = """# {{ name }}, {{ share }} of the weights of its linear layers removed

This is `{{ base }}`{% if revision %} (revision `{{ revision }}`){% endif %} with {{ share }} of the weights of every
linear layer but lm_head set to zero. `{{ file }}` says how they were chosen, and names the hash of the base model's
weights. The weights that are not zero are the base model's, stored as {{ dtype }}.

Shapes are unchanged: it loads like the base model, and it is neither smaller nor faster without kernels for sparse
weights.

## How the weights were chosen
{% for name, value in options %}
- {{ name }}: {{ value }}
{%- endfor %}

## Limits

Perplexity hides much of what compression costs. Measure the model on your own task before you rely on it.

## Licence

The base model's.
"""


def save_compressed_model(
    scores: WeightScores,
    compression: Compression,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    described: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Write the compressed model: weights, configs, tokenizer, card and `compression.json`.

    The model itself is as it was afterwards, bit for bit. Every rank must call; of a sharded model each writes files.

    Args:
        scores: Scores of the base model's weights.
        compression: What goes.
        tokenizer: The model's.
        directory: New directory.
        described: `base_model` (its identity) and `general` (the reference sets that the scores are of).
        dtype: Type of the written weights; default: the model's.

    Raises:
        FileExistsError: The directory holds something already.
    """
    model = scores.model
    stored, share = str(dtype or model.dtype).removeprefix("torch."), share_removed(scores.layers, compression.amount)
    chosen = {key: value for key, value in asdict(compression).items() if value is not None and key != "method"}
    content = {
        "format_version": FORMAT_VERSION,
        "base_model": described["base_model"],
        "share": share,
        "options": {**scores.options(compression.method), **chosen, "scope": "row", "general": described["general"]},
        "dtype": stored,
        "versions": package_versions(),
    }
    fields = {"share": f"{share:.1%}", "file": COMPRESSION_FILE, "dtype": stored}
    card = card_of(content["base_model"], _TEXT, content["options"], **fields)

    def describe(temporary: Path) -> None:
        write_json(temporary / COMPRESSION_FILE, content)
        card.save(temporary / CARD_FILE)

    with apply_masks(model, scores.masks(compression.method, compression.amount)):
        save_hf_directory(model, tokenizer, directory, dtype=dtype, describe=describe)
