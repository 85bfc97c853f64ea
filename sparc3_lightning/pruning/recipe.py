"""Recipe: the saved selection, small, re-applicable, and tied to its base model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from sparc3_lightning.files import json_sha256, read_json, write_json
from sparc3_lightning.version import package_versions

FORMAT_VERSION, _KNOWN = 2, (1, 2)  # 1 knows no factors: all are 0
RECIPE_FILE = "pruned_neurons.json"
WEIGHT_RECIPE_FILE = "pruned_weights.json"
NEURONS, WEIGHTS = "neurons", "weights"
COMPRESSION_FILE = "compression.json"
"""What a saved compressed model says of itself, in a recipe's place."""

Neuron = tuple[int, int]
"""Layer and index."""
Row = tuple[str, int]
"""A row of a linear layer: the layer's name, and which."""
Candidate = Neuron | Row
"""What a screen removes alone: a neuron, or the selected weights of a row."""
Measured = dict[str, float | str | None]
"""What a screen has measured of a neuron, and in `unit` what its effects are counted in."""


@dataclass(frozen=True)
class Recipe:
    """Which neurons go, or are dampened.

    Attributes:
        neurons: Pairs (layer, index), most negative score first; of a screen, the highest value first.
        scores: The differential score of each, in the same order.
        base_model: Id, revision, model type, shape and weight hash of the model they belong to.
        options: How they were found: number, scope, relevance options, weight and penalty, reference sets.
        measured: What a screen has measured of each by removing it alone, in the same order; none without a screen.
        factors: What each neuron's output is multiplied by, in the same order, from 0 (it goes) to 1; none: all go.

    Raises:
        ValueError: Factors that are not one a neuron, or outside [0, 1].
    """

    neurons: list[tuple[int, int]]
    scores: list[float] = field(default_factory=list)
    base_model: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    measured: list[Measured] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    what: ClassVar[str] = NEURONS
    candidates_are: ClassVar[str] = NEURONS
    candidate_names: ClassVar[tuple[str, str]] = ("layer", "index")

    def __post_init__(self) -> None:
        """Refuse factors that are none."""
        if self.factors and len(self.factors) != len(self.neurons):
            raise ValueError(
                f"`factors` must hold one for each of {len(self.neurons)} neurons, got {len(self.factors)}."
            )
        if bad := [factor for factor in self.factors if not 0.0 <= factor <= 1.0]:
            raise ValueError(f"`factors` must be between 0 and 1, got {bad[:8]}.")

    @property
    def num(self) -> int:
        """How many neurons go, or are dampened."""
        return len(self.neurons)

    @property
    def num_layers(self) -> int:
        """Layers that lose a neuron, or dampen one."""
        return len(self.per_layer())

    @property
    def candidates(self) -> list[Candidate]:
        """What a screen removes alone."""
        return [*self.neurons]

    @property
    def candidate_scores(self) -> list[float]:
        """Score of each of the candidates."""
        return self.scores

    @property
    def score_range(self) -> tuple[float | None, float | None, int]:
        """Lowest and highest score of what goes, and how many are below 0."""
        below = sum(score < 0 for score in self.scores)
        return min(self.scores, default=None), max(self.scores, default=None), below

    @property
    def first_block(self) -> int:
        """The first decoder block that loses a neuron."""
        return min((layer for layer, _ in self.neurons), default=0)

    @staticmethod
    def named(candidate: Candidate) -> str:
        """A candidate in a message."""
        return f"neuron {candidate[1]} of layer {candidate[0]}"

    def only(self, neurons: Sequence[Candidate]) -> "Recipe":
        """The same recipe of fewer neurons, in the order given."""
        place_of: dict[Candidate, int] = {neuron: place for place, neuron in enumerate(self.neurons)}
        places = [place_of[neuron] for neuron in neurons]

        def kept(values: list[Any]) -> list[Any]:
            return [values[place] for place in places] if values else []

        return replace(
            self,
            neurons=kept(self.neurons),
            scores=kept(self.scores),
            measured=kept(self.measured),
            factors=kept(self.factors),
        )

    @property
    def num_dampened(self) -> int:
        """Neurons whose factor is above 0: they stay, and say less."""
        return sum(factor > 0 for factor in self.factors)

    @property
    def done(self) -> str:
        """What is done to its neurons, in words."""
        removed = len(self.neurons) - self.num_dampened
        if not self.num_dampened:
            return "removed"
        return "dampened" if not removed else f"dampened or removed ({self.num_dampened} and {removed})"

    def per_layer(self) -> dict[int, list[int]]:
        """Neuron indices of each layer that has any, sorted."""
        layers: dict[int, list[int]] = {}
        for layer, index in sorted(self.neurons):
            layers.setdefault(layer, []).append(index)
        return layers

    def save(self, path: str | Path) -> Path:
        """Write the recipe as JSON, all or nothing; a directory gets the usual file name."""
        path = Path(path)
        path = path / RECIPE_FILE if path.is_dir() else path
        write_json(path, self.to_json())
        return path

    def to_json(self) -> dict[str, Any]:
        """The recipe as it is written."""
        scores: Sequence[float | None] = self.scores or [None] * len(self.neurons)
        content = {
            "format_version": FORMAT_VERSION,
            "base_model": self.base_model,
            "options": self.options,
            "num_neurons": len(self.neurons),
            "neurons": [
                {"layer": layer, "index": index, "score": score, "factor": factor, **measured}
                for (layer, index), score, factor, measured in zip(
                    self.neurons,
                    scores,
                    self.factors or [0.0] * len(scores),
                    self.measured or [{}] * len(scores),
                    strict=True,
                )
            ],
            "versions": package_versions(),
        }
        return {**content, "sha256": content_sha256(content)}

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read a recipe from a file, or from the directory that holds it.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: Not JSON, another format version, entries that are no neurons, or not what was saved; names file
                and entry.
        """
        path = Path(path)
        if is_of_weights(path):
            raise ValueError(
                f"{path} must be a recipe of neurons, got one of single weights. Read either with "
                "`load_recipe(path)` of sparc3_lightning."
            )
        path = path / RECIPE_FILE if path.is_dir() else path
        content = read_json(path, "recipe")
        found = content.get("format_version") if isinstance(content, dict) else None
        if found not in _KNOWN:
            raise ValueError(
                f"{path} must be a recipe of format_version {' or '.join(map(str, _KNOWN))}, got {found!r}."
            )
        neurons = [_read_neuron(path, position, entry) for position, entry in enumerate(content.get("neurons") or [])]
        factors = [_read_factor(path, position, entry) for position, entry in enumerate(content.get("neurons") or [])]
        if not neurons or len(set(neurons)) != len(neurons) or content.get("num_neurons") != len(neurons):
            raise ValueError(
                f"{path} must list {content.get('num_neurons')} different neurons, got {len(neurons)} entries, "
                f"{len(set(neurons))} different: it is truncated or was edited."
            )
        check_sha256(path, content)
        scores = [entry.get("score") for entry in content["neurons"]]
        measured = [
            {key: value for key, value in entry.items() if key not in ("layer", "index", "score", "factor")}
            for entry in content["neurons"]
        ]
        return cls(
            neurons=neurons,
            factors=factors if any(factors) else [],
            scores=[] if None in scores else scores,
            measured=measured if all(measured) else [],
            base_model=content.get("base_model", {}),
            options=content.get("options", {}),
        )


def is_of_weights(path: Path) -> bool:
    """Whether a recipe's file, or the directory that holds it, is one of single weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON, or the directory holds a recipe of either kind; names it.
    """
    if path.is_dir():
        found = [file for file in (RECIPE_FILE, WEIGHT_RECIPE_FILE) if (path / file).is_file()]
        if len(found) > 1:
            raise ValueError(
                f"{path} must hold one recipe, got {found[0]} and {found[1]}. Name the file that is meant."
            )
        return found == [WEIGHT_RECIPE_FILE]
    content = read_json(path, "recipe")
    return isinstance(content, dict) and content.get("kind") == WEIGHTS


def content_sha256(content: dict[str, Any]) -> str:
    """Of all that a recipe's file holds but its sha256."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return json_sha256(rest)


def check_sha256(path: Path, content: dict[str, Any]) -> None:
    """Refuse a recipe's file that names another sha256 than its own.

    Raises:
        ValueError: It was changed.
    """
    if "sha256" in content and content["sha256"] != content_sha256(content):
        raise ValueError(
            f"{path} must have the sha256 that it names: it was changed after it was saved. Where that was meant, "
            "remove its `sha256`."
        )


def _read_neuron(path: Path, position: int, entry: Any) -> tuple[int, int]:
    layer, index = (entry.get("layer"), entry.get("index")) if isinstance(entry, dict) else (None, None)
    for value in (layer, index):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{path}, neuron {position}: expected non-negative `layer` and `index`, got {entry!r}.")
    assert isinstance(layer, int)
    assert isinstance(index, int)
    return layer, index


def _read_factor(path: Path, position: int, entry: dict[str, Any]) -> float:
    factor = entry.get("factor", 0.0)
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not 0 <= factor <= 1:
        raise ValueError(f"{path}, neuron {position}: expected a `factor` between 0 and 1, got {entry!r}.")
    return float(factor)


def describe_option(value: Any) -> str:
    """One line for the value of a recipe's or a manifest's option; a reference set comes with its number of samples."""
    if isinstance(value, dict):
        return (
            _describe_set(value)
            if "num_samples" in value
            else _join(f"{key} {describe_option(value[key])}" for key in value)
        )
    return _join(map(describe_option, value)) if isinstance(value, list) else str(value)


def _describe_set(data: dict[str, Any]) -> str:
    return f"{data.get('name', 'unnamed')} ({data['num_samples']} samples)"


def _join(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def neurons_per_layer(recipe: Recipe, num_layers: int) -> list[int]:
    """Number of selected neurons of each layer, first layer first."""
    per_layer = recipe.per_layer()
    return [len(per_layer.get(layer, [])) for layer in range(num_layers)]
