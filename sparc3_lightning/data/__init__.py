"""Where samples, prompts and text come from. The data module is in `sparc3_lightning.data.datamodule`."""

from sparc3_lightning.data.batches import Batch, BatchDataset, pad_right, plan_batches
from sparc3_lightning.data.c4 import C4
from sparc3_lightning.data.prompts import PromptFile, RealToxicityPrompts
from sparc3_lightning.data.samples import (
    LoadContext,
    Prompt,
    PromptSet,
    ReferenceSamples,
    ReferenceSet,
    TextSet,
    token_hash,
)
from sparc3_lightning.data.tasks import IOI, TaskFile
from sparc3_lightning.data.text import TextFile, WikiText2
from sparc3_lightning.data.words import OrdinaryWords, WordsThatMatter

__all__ = [
    "C4",
    "IOI",
    "Batch",
    "BatchDataset",
    "LoadContext",
    "Prompt",
    "OrdinaryWords",
    "PromptFile",
    "PromptSet",
    "RealToxicityPrompts",
    "ReferenceSamples",
    "ReferenceSet",
    "TaskFile",
    "TextFile",
    "TextSet",
    "WikiText2",
    "pad_right",
    "plan_batches",
    "token_hash",
    "WordsThatMatter",
]
