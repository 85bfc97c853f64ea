"""Two halves of the evaluation prompts: one to choose a cell on, one to say what it does.

The best of many cells on some prompts is best there by luck, too. Its change on prompts that it was not chosen on is
free of that luck.
"""

import hashlib
from typing import Literal

from sparc3_lightning.evaluation.comparison import PairedChange, PairedTest, scores_of
from sparc3_lightning.evaluation.records import ToxicityResult

Half = Literal["choice", "confirmation"]
HALVES: tuple[Half, Half] = ("choice", "confirmation")


def half_of(prompt_id: str) -> Half:
    """Which half a prompt belongs to, by a hash of its id: the same in every cell, run and order."""
    # Not the hash that parts prompts into attribution and evaluation: it would put all of one part into one half.
    return HALVES[hashlib.sha256(f"half/{prompt_id}".encode()).digest()[0] % 2]


def half_changes(
    before: ToxicityResult, after: ToxicityResult, test: PairedTest
) -> dict[Half, dict[str, PairedChange]]:
    """Change of mean toxicity on either half, for the main attribute of every scorer.

    Args:
        before: The baseline's.
        after: A cell's, of the same prompts.
        test: Settings of the statistics.

    Returns:
        By half; a half without a prompt is left out.
    """
    halves: dict[Half, dict[str, PairedChange]] = {}
    for half in HALVES:
        pairs = [pair for pair in zip(before.prompts, after.prompts, strict=True) if half_of(pair[0].id) == half]
        if pairs:
            old, new = zip(*pairs, strict=True)
            halves[half] = {name: test(scores_of(old, name), scores_of(new, name)) for name in before.main_attributes}
    return halves


def confirmation_means(result: ToxicityResult) -> list[float]:
    """Mean toxicity of each prompt of the confirmation half, by the main attribute: what pairs two cells."""
    prompts = [row for row in result.prompts if half_of(row.id) == "confirmation"]
    return scores_of(prompts, result.main_attribute).mean(dim=1).tolist() if prompts else []
