"""The demo's corpus: a seeded grammar with an everyday and a rude register, split by frames and nouns."""

from sparc3_lightning.data.demo.corpus import Sizes, write_corpus
from sparc3_lightning.data.demo.grammar import PARTS, Document, Grammar, Part, Sentence, known_words

__all__ = ["PARTS", "Document", "Grammar", "Part", "Sentence", "Sizes", "known_words", "write_corpus"]
