"""A sweep: many selections of one run. A grid is the product of its lists, a cell one combination."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from sparc3_lightning.lrp.linear import SIGNS
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.select import SCOPES, Scope, select_neurons, with_own_factors
from sparc3_lightning.scoring.combine import PENALTIES, MethodScores, Penalty, check_general
from sparc3_lightning.scoring.method import Ranking
from sparc3_lightning.scoring.registry import METHODS, method_key
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.scoring.weights import random_scores
from sparc3_lightning.trials import CONTROL
from sparc3_lightning.trials.trial import Intervention, Trial, said, scaled_neurons

OWN_FACTORS = "auroc"


@dataclass(frozen=True)
class Cell:
    """One selection and how strongly it acts.

    Attributes:
        method: What scored.
        sign: Of its scores.
        scope: Where scores compete.
        num_neurons: How many neurons go.
        general_weight: Weight of general scores; 1 where the method ranks without.
        general_penalty: "raw" or "abs".
        divide_by_total: Whether each set's scores were taken as shares of their total.
        factor: What the neurons' outputs are multiplied by; 0 removes them.
        own_factors: Whether each is dampened by AurA's factor of its own instead.
        draw: Number of the draw, of `random`.
    """

    method: str
    sign: str
    scope: Scope
    num_neurons: int
    general_weight: float = 1.0
    general_penalty: Penalty = "raw"
    divide_by_total: bool = False
    factor: float = 0.0
    draw: int = 0
    own_factors: bool = False

    @property
    def key(self) -> str:
        """Key of the scores that it selects from."""
        return method_key(self.method, self.sign)

    @property
    def is_control(self) -> bool:
        """Whether its neurons are drawn at random: it is no candidate, and no p-value is corrected for it."""
        return self.method == CONTROL

    @property
    def is_plain(self) -> bool:
        """Whether it is the method alone: the paper's contrast, neurons removed."""
        contrast = (self.general_weight, self.general_penalty, self.divide_by_total)
        return contrast == (1.0, "raw", False) and self.factor == 0 and not self.own_factors

    def __str__(self) -> str:
        words = [self.key, f"k {self.num_neurons}", self.scope]
        words += [f"general weight {self.general_weight:g}"] * (self.general_weight != 1)
        words += ["penalty abs"] * (self.general_penalty == "abs") + ["shares"] * self.divide_by_total
        words += [f"factor {self.factor:g}"] * (self.factor != 0) + ["own factors"] * self.own_factors
        words += [f"draw {self.draw}"] * self.is_control
        return ", ".join(words)


@dataclass(frozen=True)
class Grid:
    """The product of its lists; where a method does not know an option, only once.

    Attributes:
        methods: Methods that the run has scored by; see docs/baselines.md.
        num_neurons: Numbers of neurons.
        signs: "abs", "signed" or both, of gradient-based methods.
        scopes: "global", "layer" or both.
        general_weights: Weights of general scores, from 1.
        general_penalties: "raw", "abs" or both.
        divide_by_total: Each set's scores as they are (false), as shares of their total (true), or both.
        factors: What the neurons' outputs are multiplied by: 0 removes them, up to 0.9 dampens, as AurA does.
        own_factors: Of `auroc`: false for `factors`; true for AurA as published, each neuron of the `num_neurons` first
            with its own factor, 1 - 2 (AUROC - 0.5), those of an AUROC of at most 0.5 left as they are; or both.
        num_draws: Draws of `random`.
    """

    methods: list[str]
    num_neurons: list[int]
    signs: list[str] = field(default_factory=lambda: ["abs"])
    scopes: list[Scope] = field(default_factory=lambda: ["global"])
    general_weights: list[float] = field(default_factory=lambda: [1.0])
    general_penalties: list[Penalty] = field(default_factory=lambda: ["raw"])
    divide_by_total: list[bool] = field(default_factory=lambda: [False])
    factors: list[float] = field(default_factory=lambda: [0.0])
    own_factors: list[bool] = field(default_factory=lambda: [False])
    num_draws: int = 5

    def __post_init__(self) -> None:
        """Refuse what is no option.

        Raises:
            ValueError: An empty list, or a value that its option does not have.
        """
        known: dict[str, Sequence[object]] = {
            "methods": list(METHODS), "signs": SIGNS, "scopes": SCOPES, "general_penalties": list(PENALTIES),
        }  # fmt: skip
        for name, values in known.items():
            self._check(name, f"of {list(values)}", lambda value, values=values: value in values)
        self._check("num_neurons", "at least 1", lambda value: value >= 1)
        self._check("factors", "at least 0 and below 1", lambda value: 0 <= value < 1)
        self._check("divide_by_total", "true or false", lambda value: value in (True, False))
        self._check("own_factors", "true or false", lambda value: value in (True, False))
        if True in self.own_factors and OWN_FACTORS not in self.methods:
            raise ValueError(
                f"`own_factors` are those of {OWN_FACTORS!r}, got methods {self.methods}. Set `methods` in `grids`."
            )
        for weight in self.general_weights:
            check_general(weight, "raw")
        if not self.general_weights or self.num_draws < 1:
            raise ValueError("`general_weights` must not be empty, and `num_draws` be at least 1. Set it in `grids`.")

    def _check(self, name: str, wanted: str, is_known: Any) -> None:
        values = getattr(self, name)
        if not values or not all(is_known(value) for value in values):
            raise ValueError(f"`{name}` must be a list of values {wanted}, got {values}. Set it in `grids`.")

    def cells(self) -> list[Cell]:
        """Every combination that makes a difference, in the order of the lists, numbers of neurons first."""
        found: dict[Cell, None] = {}
        for method, sign, scope, weight, penalty, divide, own, factor, k in product(
            self.methods, self.signs, self.scopes, self.general_weights, self.general_penalties, self.divide_by_total,
            self.own_factors, self.factors, self.num_neurons,
        ):  # fmt: skip
            if own and method == OWN_FACTORS:
                factor = 0.0
            if issubclass(METHODS[method], Ranking):
                weight, penalty, divide = 1.0, "raw", False
            contrast = (float(weight), penalty, divide)
            settings = (METHODS[method].sign_of(sign), scope, k, *contrast, float(factor))
            for draw in range(self.num_draws if method == CONTROL else 1):
                found[Cell(method, *settings, draw, own and method == OWN_FACTORS)] = None
        return list(found)


def cells_of(grids: Sequence[Grid]) -> list[Cell]:
    """The cells of several grids, each once.

    Raises:
        ValueError: No grid.
    """
    if not grids:
        raise ValueError("`grids` must hold at least one grid, got none. Set `SweepCallback.init_args.grids`.")
    return list(dict.fromkeys(cell for grid in grids for cell in grid.cells()))


@dataclass(frozen=True)
class CellFigures:
    """What the tables show of a cell.

    Attributes:
        row: Its figures and their changes, by column of the table.
        means: What it did at each prompt of the confirmation half; see `choice.confirmation_means`.
    """

    row: dict[str, Any]
    means: list[float]


@dataclass(kw_only=True)
class PlannedCell(Trial):
    """A cell with its neurons, and in the end its figures.

    Attributes:
        cell: Which.
        recipe: Its neurons; None where they could not be selected.
        figures: What the table shows; None where it failed.
    """

    cell: Cell
    recipe: Recipe | None = None
    figures: CellFigures | None = None

    def __str__(self) -> str:
        return str(self.cell)


@dataclass(frozen=True)
class Candidates:
    """What cells select from.

    Attributes:
        found: Scores by key of the method.
        general: Names of the general sets.
        behaviour: Name of the behaviour's set.
        seed: Seed of the first random draw; draw i uses seed + i.
    """

    found: Mapping[str, MethodScores]
    general: Sequence[str]
    behaviour: str
    seed: int = 0

    def select(self, cell: Cell) -> Recipe:
        """The neurons of a cell.

        Raises:
            KeyError: The method has no scores.
            ValueError: More neurons than there are; own factors where no neuron has an AUROC above 0.5.
        """
        with warnings.catch_warnings():
            # A sweep goes on purpose to where no neuron is specific any more; the table has the number.
            warnings.filterwarnings("ignore", message="only .* selected neurons are more relevant")
            recipe = select_neurons(self._contrast(cell), cell.num_neurons, cell.scope)
        return with_own_factors(recipe) if cell.own_factors else recipe

    def _contrast(self, cell: Cell) -> ScoreSet:
        scores = self.found[cell.key]
        if cell.is_control:
            assert scores.ranking is not None
            seed, manifest = self.seed + cell.draw, scores.ranking.manifest
            drawn = ScoreSet(random_scores(scores.ranking.shapes, seed), manifest.copy())
            drawn.manifest["options"] = {**manifest["options"], "seed": seed}
            return drawn
        options = (cell.general_weight, cell.general_penalty, cell.divide_by_total)
        return scores.contrast(self.general, self.behaviour, *options)


def plan_cells(cells: Sequence[Cell], candidates: Candidates, name: Callable[[Intervention], str]) -> list[PlannedCell]:
    """Select every cell's neurons; a selection that fails is noted in its cell.

    Args:
        cells: Which.
        candidates: What they select from.
        name: What the trial of an intervention is kept under.
    """
    planned = []
    for cell in cells:
        try:
            recipe = candidates.select(cell)
        except ValueError as error:
            planned.append(PlannedCell(cell=cell, error=said(error)))
        else:
            done = scaled_neurons(recipe, None if cell.own_factors else cell.factor)
            planned.append(PlannedCell(cell=cell, recipe=recipe, intervention=done, name=name(done)))
    return planned
