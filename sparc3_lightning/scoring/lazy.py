"""Scores made one module at a time, where they are larger than memory; what is kept of each; what must hold of all."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# Scores that are looked at together: float64 copies of a whole layer are larger than the layer.
BLOCK = 2**22


@dataclass(frozen=True)
class SeedSummary:
    """How the general sets differ in one module.

    Attributes:
        variation: Sum of the scores' coefficients of variation, of those whose mean is not zero, and
        num_varying: How many these are.
        own_rows: Of each general set, row sums of the differential that it makes alone, (O,) float32.
    """

    variation: float
    num_varying: int
    own_rows: list[Tensor]


@dataclass(frozen=True)
class Summary:
    """Figures of one module's scores.

    Attributes:
        num_scores: How many, and of them
        num_nan: NaN,
        num_inf: Infinite, and
        num_negative: Below 0.
        total: Their sum.
        absolute: Sum of their absolute values.
        lowest: The lowest, and
        highest: The highest.
        rows: Row sums, (O,) float64: the scores of neurons.
        seeds: Of a differential, how its general sets differ.
    """

    num_scores: int
    num_nan: int
    num_inf: int
    num_negative: int
    total: float
    absolute: float
    lowest: float
    highest: float
    rows: Tensor
    seeds: SeedSummary | None = None


def row_blocks(shape: Sequence[int]) -> Iterator[slice]:
    """Rows that are looked at together: at most `BLOCK` scores, or one row."""
    step = max(1, BLOCK // math.prod(shape[1:]))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


@torch.no_grad()
def summarise(score: Tensor, seeds: SeedSummary | None = None) -> Summary:
    """Read a module's scores once.

    Args:
        score: The scores.
        seeds: Of a differential.

    Shape: score (O,) or (O, I).
    """
    blocks = [_summarise(score[rows]) for rows in row_blocks(score.shape)]
    return Summary(
        num_scores=score.numel(),
        num_nan=sum(block.num_nan for block in blocks),
        num_inf=sum(block.num_inf for block in blocks),
        num_negative=sum(block.num_negative for block in blocks),
        total=sum(block.total for block in blocks),
        absolute=sum(block.absolute for block in blocks),
        lowest=min(block.lowest for block in blocks),
        highest=max(block.highest for block in blocks),
        rows=torch.cat([block.rows for block in blocks]),
        seeds=seeds,
    )


def _summarise(score: Tensor) -> Summary:
    lowest, highest = (value.item() for value in torch.aminmax(score))
    total = score.sum(dtype=torch.float64).item()
    absolute = total if lowest >= 0 else score.abs().sum(dtype=torch.float64).item()
    is_finite = math.isfinite(absolute)
    return Summary(
        num_scores=score.numel(),
        num_nan=0 if is_finite else int(score.isnan().sum()),
        num_inf=0 if is_finite else int(score.isinf().sum()),
        num_negative=0 if lowest >= 0 else int((score < 0).sum()),
        total=total,
        absolute=absolute,
        lowest=lowest,
        highest=highest,
        rows=score.double() if score.ndim == 1 else score.sum(1, dtype=torch.float64),
    )


def check_summary(name: str, summary: Summary, sign: str | None) -> None:
    """Refuse a module's scores that cannot be right.

    Args:
        name: The module's.
        summary: What was read.
        sign: "abs" if no score may be negative.

    Raises:
        ValueError: NaN or Inf; negative `abs` scores. Names the module.
    """
    if summary.num_nan or summary.num_inf:
        raise ValueError(f"scores of {name} must be finite, got NaN or Inf. Nothing was saved.")
    if sign == "abs" and summary.num_negative:
        raise ValueError(f"scores of {name} must not be negative with sign 'abs', got {summary.lowest}.")


class LazyScores(Mapping[str, Tensor]):
    """From module name to float32 scores, made whenever they are asked for and not kept; their summaries are.

    Args:
        shapes: Of each module's scores.
        get: Makes the scores of one module; of a differential, with how its general sets differ.
        check: Refuses scores that cannot be right, by name and summary, when they are made first.
        known: Summaries that are known already.

    Attributes:
        known: Summaries of the modules that were made so far.
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        get: Callable[[str], Tensor | tuple[Tensor, SeedSummary]],
        check: Callable[[str, Summary], None] | None = None,
        known: Mapping[str, Summary] | None = None,
    ) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.known = dict(known or {})
        self._get, self._check = get, check

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        made = self._get(name)
        score, seeds = made if isinstance(made, tuple) else (made, None)
        score = score.to("cpu", torch.float32)
        if name not in self.known:
            summary = summarise(score, seeds)
            if self._check is not None:
                self._check(name, summary)
            self.known[name] = summary
        return score

    def summary(self, name: str) -> Summary:
        """What is known of a module's scores; they are made only if they never were."""
        if name not in self.known:
            self[name]
        return self.known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def only(self, names: Sequence[str]) -> "LazyScores":
        """The same scores of fewer modules."""
        fewer = LazyScores({name: self.shapes[name] for name in names}, self._get, self._check)
        fewer.known = self.known
        return fewer


def summaries(scores: Mapping[str, Tensor]) -> dict[str, Summary]:
    """What there is to know of every module's scores, without making again those that are made when asked for."""
    if isinstance(scores, LazyScores):
        return {name: scores.summary(name) for name in scores}
    return {name: summarise(score) for name, score in scores.items()}


class ScoreCounts(TypedDict):
    """Counts for the validation table."""

    num_modules: int
    num_scores: int
    num_nan: int
    num_inf: int
    num_negative: int


def count_scores(scores: Mapping[str, Tensor]) -> ScoreCounts:
    """Count modules, scores, NaN, Inf and negative scores; what was read before is not read again."""
    found = summaries(scores).values()
    return ScoreCounts(
        num_modules=len(found),
        num_scores=sum(summary.num_scores for summary in found),
        num_nan=sum(summary.num_nan for summary in found),
        num_inf=sum(summary.num_inf for summary in found),
        num_negative=sum(summary.num_negative for summary in found),
    )


def check_scores(scores: Mapping[str, Tensor], sign: str | None) -> dict[str, Summary]:
    """Refuse scores that cannot be right.

    Args:
        scores: From module name to scores.
        sign: "abs" if no score may be negative.

    Returns:
        What was read of each module.

    Raises:
        ValueError: NaN or Inf; negative `abs` scores. Names the module.
    """
    found = summaries(scores)
    for name, summary in found.items():
        check_summary(name, summary, sign)
    return found


def check_modules(names: Sequence[str], expected: Sequence[str]) -> None:
    """Refuse scores that do not cover every expected layer once, and no other (trap 14).

    Raises:
        ValueError: They do not; names the layers.
    """
    if sorted(names) != sorted(expected):
        missing, unknown = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
        raise ValueError(f"scores must cover every expected layer once; missing: {missing}, not expected: {unknown}.")


def stored_scores(
    directory: Path,
    files: Sequence[str],
    check: Callable[[str, Summary], None] | None = None,
    known: Mapping[str, Summary] | None = None,
) -> LazyScores:
    """The scores in safetensors files; see `LazyScores`.

    Raises:
        ValueError: A file is no readable safetensors file; at once, or when its scores are asked for.
    """
    shapes: dict[str, Sequence[int]] = {}
    paths: dict[str, Path] = {}
    for path in (directory / file for file in files):
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dict
                    shapes[name], paths[name] = tensors.get_slice(name).get_shape(), path
        except SafetensorError as error:
            raise _unreadable(path, error) from error

    def read(name: str) -> Tensor:
        try:
            with safe_open(paths[name], framework="pt") as tensors:
                tensor: Tensor = tensors.get_tensor(name)
        except SafetensorError as error:
            raise _unreadable(paths[name], error) from error
        return tensor

    return LazyScores(shapes, read, check, known)


def _unreadable(path: Path, error: SafetensorError) -> ValueError:
    return ValueError(f"{path} is no readable safetensors file: {error}.")
