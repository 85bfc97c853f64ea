"""Scores that are read or made one module at a time, where they are larger than memory; what must hold of scores."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sparc3_lightning.scoring.summary import SeedSummary, Summary, check_summary, summarise


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
