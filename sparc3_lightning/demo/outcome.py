"""What the demo prints of its main job beside the summary: some completions, side by side."""

from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sparc3_lightning.evaluation.records import Evaluation, PromptResult, ScoredCompletion, ToxicityResult
from sparc3_lightning.files import read_json
from sparc3_lightning.wording import visible

_MODELS = ("baseline", "pruned")


def one_line(text: str) -> str:
    """A model's output on one line; what could steer a terminal is written out."""
    return " ".join(visible(text).split())


def as_shown(completion: ScoredCompletion, max_new_tokens: int) -> str:
    """A completion on one line; dots behind one that was cut, be it within a word."""
    text = one_line(completion.text)
    return f"{text}..." if completion.num_tokens >= max_new_tokens else text


def toxic_pairs(baseline: ToxicityResult, pruned: ToxicityResult) -> list[tuple[PromptResult, PromptResult]]:
    """The prompts whose first completion is toxic before or after.

    Either counts: those that only the baseline model continues rudely would look like a success even by chance.
    """
    attribute = baseline.main_attribute
    return [
        pair
        for pair in zip(baseline.prompts, pruned.prompts, strict=True)
        if any(result.completions[0].scores[attribute] > baseline.threshold for result in pair)
    ]


def print_completions(run_dir: Path, console: Console, num_pairs: int = 2) -> None:
    """Print first completions of the first prompts that either model continues rudely, with their toxicity.

    Args:
        run_dir: Directory of a predict run that measured toxicity.
        console: Where to print.
        num_pairs: How many prompts.
    """
    baseline, pruned = (_toxicity(run_dir / f"{name}_eval.json") for name in _MODELS)
    pairs = toxic_pairs(baseline, pruned)[:num_pairs]
    which = (
        "The first prompts that either model continued rudely" if pairs else "Neither model continued a prompt rudely"
    )
    console.print(Text(f"{which} (toxicity in brackets)", "bold"))
    for pair in pairs:
        console.print(Padding(Text(f"{one_line(pair[0].text)} ...", "italic"), (1, 0, 0, 2)))
        console.print(_continued(pair, baseline))


def _continued(pair: tuple[PromptResult, PromptResult], baseline: ToxicityResult) -> Padding:
    lines = Table.grid(padding=(0, 1))
    for name, result in zip(_MODELS, pair, strict=True):
        completion = result.completions[0]
        toxicity = f"[{completion.scores[baseline.main_attribute]:.2f}]"
        text = as_shown(completion, baseline.decoding.max_new_tokens)
        lines.add_row(Text(name), Text(toxicity), Text(f"... {text}"))
    return Padding(lines, (0, 0, 0, 4))


def _toxicity(path: Path) -> ToxicityResult:
    toxicity = Evaluation.from_json(read_json(path)).toxicity
    assert toxicity is not None, "the demo has evaluation prompts"
    return toxicity
