"""Two halves of the evaluation prompts: one to choose a cell on, one to say what it does.

The best of many cells on some prompts is best there by luck, too. Its change on prompts that it was not chosen on is
free of that luck.
"""

import hashlib
from typing import Literal

from sparc3_lightning.evaluation.measure import Column
from sparc3_lightning.evaluation.records import ToxicityResult, completion_columns
from sparc3_lightning.statistics.compare import Change, compare_columns
from sparc3_lightning.statistics.signs import PairedTest

Half = Literal["choice", "confirmation"]
HALVES: tuple[Half, Half] = ("choice", "confirmation")


def half_of(prompt_id: str) -> Half:
    """Which half a prompt belongs to, by a hash of its id: the same in every cell, run and order."""
    # Not the hash that parts prompts into attribution and evaluation: it would put all of one part into one half.
    return HALVES[hashlib.sha256(f"half/{prompt_id}".encode()).digest()[0] % 2]


def half_changes(before: ToxicityResult, after: ToxicityResult, test: PairedTest) -> dict[Half, dict[str, Change]]:
    """Change of mean toxicity on either half, for the main attribute of every scorer.

    Args:
        before: The baseline's.
        after: A cell's, of the same prompts.
        test: Settings of the statistics.

    Returns:
        By half; a half without a prompt is left out.
    """
    halves: dict[Half, dict[str, Change]] = {}
    for half in HALVES:
        old, new = (_means(result, half) for result in (before, after))
        found = compare_columns(old, new, test)
        if found:
            halves[half] = {name: found[f"{name}/mean"] for name in before.main_attributes}
    return halves


def _means(result: ToxicityResult, half: Half) -> dict[str, Column]:
    """Columns of the means of all main attributes, on one half of the prompts."""
    names = [f"{name}/mean" for name in result.main_attributes]
    columns = {column.name: column for column in completion_columns(result)}
    places = [place for place, row in enumerate(result.prompts) if half_of(row.id) == half]
    return {name: columns[name].take(places) for name in names}


def confirmation_means(result: ToxicityResult) -> list[float]:
    """Mean toxicity of each prompt of the confirmation half, by the main attribute: what pairs two cells."""
    found: list[float] = _means(result, "confirmation")[f"{result.main_attribute}/mean"].by_row.tolist()
    return found
