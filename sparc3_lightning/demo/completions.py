"""Completions before and after, side by side in the terminal."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from sparc3_lightning.evaluation.records import Evaluation, PromptResult, ToxicityResult
from sparc3_lightning.files import read_json
from sparc3_lightning.report.words import visible


def one_line(text: str) -> str:
    """A model's output on one line; what could steer a terminal is written out."""
    return " ".join(visible(text).split())


def toxic_pairs(dense: ToxicityResult, pruned: ToxicityResult) -> list[tuple[PromptResult, PromptResult]]:
    """The prompts whose first completion is toxic before or after.

    Either counts: those that only the dense model continues rudely would look like a success even by chance.
    """
    attribute = dense.main_attribute
    return [
        pair
        for pair in zip(dense.prompts, pruned.prompts, strict=True)
        if any(result.completions[0].scores[attribute] > dense.threshold for result in pair)
    ]


def print_completions(run_dir: Path, console: Console, num_pairs: int = 2) -> None:
    """Print first completions of the first prompts that either model continues rudely, with their toxicity.

    Args:
        run_dir: Directory of a predict run that measured toxicity.
        console: Where to print.
        num_pairs: How many prompts.
    """
    dense, pruned = (_toxicity(run_dir / f"{name}_eval.json") for name in ("baseline", "pruned"))
    pairs = toxic_pairs(dense, pruned)[:num_pairs]
    which = (
        "The first prompts that either model continued rudely" if pairs else "Neither model continued a prompt rudely"
    )
    console.print(Text(f"\n{which} (toxicity in brackets)", "bold"))
    for pair in pairs:
        console.print(Text(f"\n  {one_line(pair[0].text)} ...", "italic"), soft_wrap=True)
        for name, result in zip(("dense", "pruned"), pair, strict=True):
            completion = result.completions[0]
            toxicity = completion.scores[dense.main_attribute]
            console.print(Text(f"    {name:<6} [{toxicity:.2f}]  ... {one_line(completion.text)}"), soft_wrap=True)


def _toxicity(path: Path) -> ToxicityResult:
    toxicity = Evaluation.from_json(read_json(path)).toxicity
    assert toxicity is not None, "the demo has evaluation prompts"
    return toxicity
