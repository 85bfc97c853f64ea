"""What an evaluation takes, told before it begins: forward passes of a model, and models."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Passes:
    """Forward passes of one kind in the evaluation of one model; ranks make them together.

    Attributes:
        what: What they are for.
        num: How many: of completions at most, which may end early.
        num_items: What they pass over, such as windows.
        unit: What these are, in the plural.
    """

    what: str
    num: int
    num_items: int
    unit: str

    def __str__(self) -> str:
        return f"{self.num:,} for {self.what} of {self.num_items:,} {self.unit}"


def describe_passes(passes: Sequence[Passes], num_models: int = 1, which: str = "", stage: str = "evaluation") -> str:
    """What the evaluation of so many models takes, in a line.

    Args:
        passes: Those of one model, by kind.
        num_models: How many models.
        which: Which models, where there are several.
        stage: What evaluates them.
    """
    each, kinds = sum(kind.num for kind in passes), ", ".join(map(str, passes))
    if num_models == 1:
        return f"{stage}: {each:,} forward passes at most ({kinds})"
    return (
        f"{stage}: {num_models:,} models ({which}), {each:,} forward passes each at most ({kinds}), "
        f"{num_models * each:,} in all"
    )
