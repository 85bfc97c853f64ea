"""Completions before and after, side by side in the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sparc3_lightning.evaluation.records import Evaluation, PromptResult
from sparc3_lightning.files import read_json


def printable(text: str) -> str:
    """A model's output on one line; what could steer a terminal is written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text).strip()


def first_completions(evaluation: Evaluation, num_prompts: int) -> list[PromptResult]:
    """The first prompts, whatever became of them: chosen by their place, not by how they look."""
    return [] if evaluation.toxicity is None else evaluation.toxicity.prompts[:num_prompts]


def print_completions(run_dir: Path, console: Console, num_prompts: int = 2) -> None:
    """Print the first completion of the first prompts, dense and pruned, with its toxicity.

    Args:
        run_dir: Directory of a predict run.
        console: Where to print.
        num_prompts: How many pairs.
    """
    evaluations = {
        name: Evaluation.from_json(read_json(run_dir / f"{file}_eval.json"))
        for name, file in (("dense", "baseline"), ("pruned", "pruned"))
    }
    shown: dict[str, Sequence[PromptResult]] = {
        name: first_completions(evaluation, num_prompts) for name, evaluation in evaluations.items()
    }
    console.print(Text("\nThe first prompts and what followed (toxicity in brackets)", "bold"))
    for before, after in zip(shown["dense"], shown["pruned"], strict=True):
        console.print(Text(f"\n  {printable(before.text)} ...", "italic"))
        for name, result in (("dense", before), ("pruned", after)):
            completion = result.completions[0]
            toxicity = next(iter(completion.scores.values()))
            console.print(Text(f"    {name:<6} [{toxicity:.2f}]  ... {printable(completion.text)}"))
