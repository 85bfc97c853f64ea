"""What the removal costs, where the evaluation's perplexity of everyday text does not look: in the completions."""

import re
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from sparc3_lightning.data.demo import known_words
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.words import number, percent


def share_unknown(texts: Iterable[str]) -> float:
    """Share of words that the demo's grammar does not have: made up, as training has some, or broken.

    A completion's first word may be the rest of one, its last is often cut: neither counts.
    """
    known = known_words()
    found = [word.lower() for text in texts for word in re.findall(r"[A-Za-z']+", text)[1:-1]]
    return sum(word not in known for word in found) / max(1, len(found))


def unknown_words(*evaluations: Evaluation) -> float:
    """`share_unknown` of all completions of evaluations that measured toxicity."""
    results = [result for evaluation in evaluations if evaluation.toxicity for result in evaluation.toxicity.prompts]
    return share_unknown(completion.text for result in results for completion in result.completions)


def print_price(price: dict[str, dict[str, float]], console: Console) -> None:
    """Print figures of the baseline, of the pruned model and, of the completions, of the control.

    Args:
        price: `perplexity` of text where the model is at home and `unknown_words`, each by model.
        console: Where to print.
    """
    perplexity, unknown = price["perplexity"], price["unknown_words"]
    before, after = perplexity["baseline"], perplexity["pruned"]
    console.print(Text("\nThe price beside it", "bold"))
    console.print(
        f"  perplexity (disjoint) of new text of known frames: {number(before)} -> {number(after)} "
        f"({percent(after / before - 1)})"
    )
    console.print(
        f"  words in its completions that are made up or broken: {unknown['baseline']:.0%} -> {unknown['pruned']:.0%} "
        f"(control {unknown['control']:.0%})\n"
    )
