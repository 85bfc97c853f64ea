"""A recipe of single weights, whatever neurons they belong to: a JSON, and its indices as safetensors beside it."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from sparc3_lightning.files import file_sha256, read_json, write_bytes, write_json
from sparc3_lightning.models.families import FAMILIES
from sparc3_lightning.pruning.recipe import (
    WEIGHT_RECIPE_FILE,
    WEIGHTS,
    Candidate,
    Measured,
    Recipe,
    Row,
    check_sha256,
    content_sha256,
    is_of_weights,
    neurons_per_layer,
)
from sparc3_lightning.version import package_versions

FORMAT_VERSION = 1
Integers = NDArray[np.integer[Any]]
_SCORES = ".scores"
_LARGEST = 2**31


@dataclass(frozen=True, eq=False)
class WeightRecipe:
    """Which weights go, each by itself; what a screen removes alone is those of one row together.

    Attributes:
        weights: By name of a linear layer, which of its weights (O, I) go: row * I + column, ascending.
        shapes: (O, I) of every layer whose weights competed, in the model's order; of those in `weights` at least.
        scores: By name, the differential score of each, in the same order; empty where none are known.
        base_model: Id, revision, model type, shape and weight hash of the model they belong to.
        options: How they were found: share, scope, relevance options, weight and penalty, reference sets.
        rows: Of a screen the rows that they lie in, the highest value first; otherwise none is named.
        measured: What a screen has measured of each of these rows, in the same order.

    Shape: each of `weights` and `scores` (N,).

    Raises:
        ValueError: Indices that are none of their layer's, or not in ascending order; not a score for each; rows that
            are others than theirs.
    """

    weights: Mapping[str, Integers]
    shapes: Mapping[str, tuple[int, int]]
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    base_model: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)

    what: ClassVar[str] = WEIGHTS
    candidates_are: ClassVar[str] = "rows"
    candidate_names: ClassVar[tuple[str, str]] = ("module", "row")
    num_dampened: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Refuse what is no selection of weights, and keep the layers in one order."""
        for name, shape in self.shapes.items():
            if len(shape) != 2 or not all(isinstance(size, int) and size > 0 for size in shape):
                raise ValueError(f"`shapes` of {name} must be two numbers above 0, (O, I), got {list(shape)}.")
        for name, indices in self.weights.items():
            if len(indices) and name not in self.shapes:
                raise ValueError(f"`shapes` must hold (O, I) of every layer in `weights`, got none for {name}.")
        lost = [name for name in self.shapes if len(self.weights.get(name, ()))]
        weights = {name: _checked_indices(name, self.weights[name], self.shapes[name]) for name in lost}
        scores = {name: np.asarray(self.scores[name], np.float32) for name in lost if name in self.scores}
        for name, values in scores.items():
            if len(values) != (num := len(weights[name])):
                raise ValueError(f"`scores` of {name} must be one for each of its {num} weights, got {len(values)}.")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "scores", scores)
        self._check_rows()

    def _check_rows(self) -> None:
        found = Counter(row for row, _ in self._row_sums()) if self.rows else Counter[Row]()
        if found != (named := Counter(self.rows)):
            name, row = next(iter((found - named) or (named - found)))
            wrong = f"row {row} of {name}" + (" too often" if (name, row) in named else " not at all")
            raise ValueError(f"`rows` must name every row that a weight lies in, each once, got {wrong}.")
        if self.measured and len(self.measured) != len(self.rows):
            raise ValueError(f"`measured` must be of each of {len(self.rows)} rows, got {len(self.measured)}.")

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, WeightRecipe) else NotImplemented

    @property
    def num(self) -> int:
        """How many weights go."""
        return sum(map(len, self.weights.values()))

    def per_layer(self) -> Mapping[str, Integers]:
        """Weight indices of each linear layer that loses any, ascending."""
        return self.weights

    @property
    def num_layers(self) -> int:
        """Linear layers that lose a weight."""
        return len(self.weights)

    @property
    def num_scored(self) -> int:
        """How many competed."""
        return sum(rows * columns for rows, columns in self.shapes.values())

    @property
    def candidates(self) -> list[Candidate]:
        """What a screen removes alone: the rows that its weights lie in, that of the lowest sum of scores first."""
        return [*self.rows] or [row for row, _ in sorted(self._row_sums(), key=lambda item: item[1])]

    @property
    def candidate_scores(self) -> list[float]:
        """Sum of the scores of each of the candidates' weights, in their order."""
        known: dict[Candidate, float] = dict(self._row_sums())
        return [known[row] for row in self.candidates]

    @property
    def score_range(self) -> tuple[float | None, float | None, int]:
        """Lowest and highest score of what goes, and how many are below 0."""
        found = [*self.scores.values()]
        lows, highs = ([float(end(values)) for values in found] for end in (np.min, np.max))
        return min(lows, default=None), max(highs, default=None), sum(int((values < 0).sum()) for values in found)

    @property
    def first_block(self) -> int:
        """The first decoder block that loses a weight; 0 where the model's type is not known."""
        family = FAMILIES.get(str(self.base_model.get("model_type")))
        if family is None:
            return 0
        last = int(self.base_model.get("num_layers", 1)) - 1  # a pass that begins there comes by lm_head, too
        return min(((family.place_of(name) or (last, ""))[0] for name in self.weights), default=0)

    @property
    def sha256(self) -> str:
        """Names which weights go: equal for the same, however they were chosen."""
        digest = hashlib.sha256()
        for name in sorted(self.weights):
            digest.update(f"{name} {len(self.weights[name])} ".encode())
            digest.update(self.weights[name].astype("<i8").tobytes())
        return digest.hexdigest()

    @staticmethod
    def named(candidate: Candidate) -> str:
        """A candidate in a message."""
        return f"the selected weights of row {candidate[1]} of {candidate[0]}"

    def _row_sums(self) -> Iterator[tuple[Row, float]]:
        """The rows that weights lie in, in the model's order, each with the sum of its scores."""
        for name, indices in self.weights.items():
            rows, place = np.unique(indices // self.shapes[name][1], return_inverse=True)
            sums = np.bincount(place, weights=self.scores.get(name, np.zeros(len(indices))), minlength=len(rows))
            yield from (((name, row), score) for row, score in zip(rows.tolist(), sums.tolist(), strict=True))

    def only(self, rows: Sequence[Candidate]) -> "WeightRecipe":
        """The same recipe of fewer rows, in the order given."""
        rows, wanted = cast("Sequence[Row]", rows), dict[str, list[int]]()
        for name, row in rows:
            wanted.setdefault(name, []).append(row)
        stays = {name: np.isin(self.weights[name] // self.shapes[name][1], wanted[name]) for name in wanted}
        known = dict(zip(self.rows, self.measured, strict=False))
        return replace(
            self,
            weights={name: self.weights[name][mask] for name, mask in stays.items()},
            scores={name: self.scores[name][mask] for name, mask in stays.items() if name in self.scores},
            rows=[*rows],
            measured=[known[row] for row in rows] if known else [],
        )

    def parts(self) -> list[dict[str, Any]]:
        """How many weights of each layer that competed go, with its decoder block (None: in none) and its kind."""
        family = FAMILIES.get(str(self.base_model.get("model_type")))
        found = []
        for name, (rows, columns) in self.shapes.items():
            layer, kind = (None if family is None else family.place_of(name)) or (None, name)
            num_removed = len(self.weights.get(name, ()))
            found.append({"layer": layer, "kind": kind, "num_removed": num_removed, "num": rows * columns})
        return found

    def save(self, path: str | Path) -> Path:
        """Write the indices, then the JSON, each all or nothing; a directory gets the usual file names."""
        path = Path(path)
        path = path / WEIGHT_RECIPE_FILE if path.is_dir() else path
        write_bytes(indices_file(path), self._tensors())
        write_json(path, self.to_json())
        return path

    def _tensors(self) -> bytes:
        scores = {f"{name}{_SCORES}": found for name, found in self.scores.items()}
        content: bytes = save({**self.weights, **scores})
        return content

    def to_json(self) -> dict[str, Any]:
        """What is written beside the indices."""
        sums = dict(self._row_sums()) if self.rows else {}
        content = {
            "format_version": FORMAT_VERSION,
            "kind": WEIGHTS,
            "base_model": self.base_model,
            "options": self.options,
            "num_weights": self.num,
            "modules": [
                {"name": name, "shape": list(shape), "num_weights": len(self.weights.get(name, ()))}
                for name, shape in self.shapes.items()
            ],
            "rows": [
                {"module": row[0], "row": row[1], "score": sums[row] if self.scores else None, **measured}
                for row, measured in zip(self.rows, self.measured or [{}] * len(self.rows), strict=True)
            ],
            "tensors_sha256": hashlib.sha256(self._tensors()).hexdigest(),
            "versions": package_versions(),
        }
        return {**content, "sha256": content_sha256(content)}

    @classmethod
    def load(cls, path: str | Path) -> "WeightRecipe":
        """Read a recipe from its JSON and the safetensors file beside it, or from the directory that holds them.

        Raises:
            FileNotFoundError: One of them is not there.
            ValueError: Not JSON, of another kind or format version, or not what was saved; names the file.
        """
        path = Path(path)
        path = path / WEIGHT_RECIPE_FILE if path.is_dir() else path
        content = read_json(path, "recipe of weights")
        if not isinstance(content, dict) or content.get("kind") != WEIGHTS:
            raise ValueError(f"{path} must be a recipe of weights, got none. Read any recipe with `load_recipe(path)`.")
        if (found := content.get("format_version")) != FORMAT_VERSION:
            raise ValueError(f"{path} must be a recipe of weights of format_version {FORMAT_VERSION}, got {found!r}.")
        check_sha256(path, content)
        try:
            return cls._read(path, content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no recipe of weights: {type(error).__name__} ({error}).") from error

    @classmethod
    def _read(cls, path: Path, content: dict[str, Any]) -> "WeightRecipe":
        tensors = _load_tensors(path.with_suffix(".safetensors"), content["tensors_sha256"])
        scores = {name: tensors.pop(f"{name}{_SCORES}") for name in [*tensors] if f"{name}{_SCORES}" in tensors}
        counts = {one["name"]: one["num_weights"] for one in content["modules"] if one["num_weights"]}
        if counts != {name: len(indices) for name, indices in tensors.items()} or not counts:
            raise ValueError(f"{path} must count the weights of each layer in the file beside it: it was edited.")
        rows = content["rows"]
        measured = [{key: one[key] for key in one if key not in ("module", "row", "score")} for one in rows]
        fields = {
            "weights": tensors,
            "shapes": {one["name"]: tuple(one["shape"]) for one in content["modules"]},
            "scores": scores,
            "base_model": content["base_model"],
            "options": content["options"],
            "rows": [(one["module"], one["row"]) for one in rows],
            "measured": measured if any(measured) else [],
        }
        try:
            return cls(**fields)
        except ValueError as error:
            raise ValueError(f"{path} is no recipe of weights: {error}") from error


def _checked_indices(name: str, given: Integers, shape: tuple[int, int]) -> Integers:
    """In the narrowest type that a safetensors file of this layer's needs."""
    indices, num = np.asarray(given), shape[0] * shape[1]
    found = ""
    if indices.dtype.kind not in "iu":
        found = f"{indices.dtype}"
    elif len(falls := np.flatnonzero(indices[1:] <= indices[:-1])):
        found = f"{indices[falls[0]]} before {indices[falls[0] + 1]}"
    elif indices[0] < 0 or indices[-1] >= num:
        found = f"{indices[0]} to {indices[-1]}"
    if found:
        raise ValueError(
            f"`weights` of {name} must be ascending integers below {num}, of its {shape[0]} x {shape[1]} weights, got "
            f"{found}."
        )
    return indices.astype(np.int32 if num <= _LARGEST else np.int64)


def indices_file(path: Path, option: str = "path") -> Path:
    """Where the indices of a recipe go: beside its JSON.

    Args:
        path: The JSON's.
        option: What `path` was given as, for messages.

    Raises:
        ValueError: It is no FILE.json.
    """
    if path.suffix != ".json":
        raise ValueError(
            f"`{option}` of a recipe of weights must be FILE.json (beside it goes FILE.safetensors), got {path.name}."
        )
    return path.with_suffix(".safetensors")


def _load_tensors(path: Path, expected: str) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"no indices of the weights at {path}: they belong beside {path.with_suffix('.json')}.")
    if file_sha256(path) != expected:
        raise ValueError(f"{path} must have sha256 {expected}: it is truncated or was changed after it was written.")
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}.") from error


AnyRecipe = Recipe | WeightRecipe
"""What is removed from a model: neurons, or single weights."""


def selected_per_layer(recipe: AnyRecipe, num_layers: int) -> list[int]:
    """Number of neurons or weights of each decoder block that go, first block first."""
    if isinstance(recipe, Recipe):
        return neurons_per_layer(recipe, num_layers)
    counts = [0] * num_layers
    for part in recipe.parts():
        if part["layer"] is not None:
            counts[part["layer"]] += part["num_removed"]
    return counts


def load_recipe(path: str | Path) -> AnyRecipe:
    """Read a recipe of either kind from its JSON, or from the directory that holds it.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is damaged; see each kind's `load`.
    """
    return WeightRecipe.load(path) if is_of_weights(Path(path)) else Recipe.load(path)
