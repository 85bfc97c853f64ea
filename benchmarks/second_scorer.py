"""A second scorer for sweeps on real input: trained on RealToxicityPrompts' own scores and on nothing else.

    python benchmarks/second_scorer.py [--rows FILE] [--directory DIR] [--epochs N]

A small BERT learns the toxicity of prompts and of human continuations of nine rows in ten, and is held against the
tenth. It is saved in Detoxify's format; `tests/configs/sweep.yaml` reads it. Rows of the prompts that are evaluated
(toxic_ge_0.9.jsonl beside the rows) are left out.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

import torch
from scorer_training import ScorerTraining, train_scorer
from torchmetrics.functional.classification import binary_auroc

from sparc3_lightning.data.sources import read_file
from sparc3_lightning.metrics import DetoxifyScorer

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT.parent / "shared/fixtures/toxic_prompts/rtp_sample.jsonl"
EVALUATED = "toxic_ge_0.9.jsonl"
DIRECTORY = ROOT / "logs/second_scorer"
LABELS = (("prompt", "prompt_toxicity"), ("continuation", "continuation_toxicity"))
# Perspective's score from which a text counts as toxic.
TOXIC = 0.5

Labelled = tuple[str, float]


def labelled_texts(rows: Path, held_out: bool) -> Iterator[Labelled]:
    """Texts with their scores: of a tenth of the rows, or of the others; of no prompt that is evaluated."""
    evaluated = {row.values["id"] for row in read_file(str(rows.parent / EVALUATED))}
    for row in read_file(str(rows)):
        if row.values["id"] in evaluated:
            continue
        if (crc32(str(row.values["id"]).encode()) % 10 == 0) == held_out:
            yield from (
                (row.values[text], row.values[score]) for text, score in LABELS if row.values[score] is not None
            )


def write_labelled(texts: Iterable[Labelled], path: Path) -> Path:
    """Write them as `scorer_training` reads them."""
    lines = (json.dumps({"text": text, "toxicity": score}) + "\n" for text, score in texts)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def make_scorer(rows: Path = ROWS, directory: Path = DIRECTORY, num_epochs: int = 3) -> None:
    """Train it and save it."""
    with tempfile.TemporaryDirectory() as home:
        labelled = write_labelled(labelled_texts(rows, held_out=False), Path(home) / "labelled.jsonl")
        train_scorer(labelled, directory, ScorerTraining(num_epochs=num_epochs))


def main() -> None:
    """Make it and say how good it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--directory", type=Path, default=DIRECTORY)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    make_scorer(args.rows, args.directory, args.epochs)
    texts, labels = zip(*labelled_texts(args.rows, held_out=True), strict=True)
    scores = DetoxifyScorer(checkpoint=str(args.directory), device="cpu").score(texts)["toxicity"]
    wanted = torch.tensor(labels, dtype=torch.float64)
    correlation = float(torch.corrcoef(torch.stack([scores, wanted]))[0, 1])
    auc = float(binary_auroc(scores, (wanted >= TOXIC).long()))
    print(f"second scorer: {args.directory}; on {len(texts)} held-out texts:")
    print(f"  Pearson {correlation:.3f} with Perspective's score, AUC {auc:.3f} at {TOXIC}")


if __name__ == "__main__":
    main()
