"""Scores that are read or computed one module at a time: for scores larger than memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class LazyScores(Mapping[str, Tensor]):
    """From module name to float32 scores, made whenever they are asked for and not kept.

    Args:
        shapes: Of each module's scores.
        get: Makes the scores of one module.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], get: Callable[[str], Tensor]) -> None:
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._get = get

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        return self._get(name).to("cpu", torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def only(self, names: Sequence[str]) -> "LazyScores":
        """The same scores of fewer modules."""
        return LazyScores({name: self.shapes[name] for name in names}, self._get)


def stored_scores(directory: Path, files: Sequence[str]) -> LazyScores:
    """The scores in safetensors files.

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

    return LazyScores(shapes, read)


def _unreadable(path: Path, error: SafetensorError) -> ValueError:
    return ValueError(f"{path} is no readable safetensors file: {error}.")
