"""What a run has found so far: callbacks fill it in, one after the other."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.pruning.aims import Aim
from sparc3_lightning.pruning.weight_recipe import AnyRecipe
from sparc3_lightning.scoring.combine import MethodScores
from sparc3_lightning.scoring.score_set import ScoreSet
from sparc3_lightning.trials import RECIPES_DIR
from sparc3_lightning.trials.screening import Predictions

if TYPE_CHECKING:
    from sparc3_lightning.runs.results import Results

_OF_A_RECIPE = ("general", "behaviour", "differential", "recipe", "aim", "predictions", "pruned", "controls")


@dataclass
class Run:
    """The findings of one run.

    Attributes:
        base_model: Identity of the model attributed.
        main_key: Key of the method that the run attributes by, and
        scores: What each method found, by its key: of neurons on rank 0; of weights shared out over the ranks until
            they are written, then whole on every rank, read from the run's directory module by module. From the start
            of a predict run it has every key that will be scored.
        expected_modules: Layers that every score set must hold.
        general: Names of the general sets, and
        behaviour: Of the behaviour's, as the pruning callback matched them.
        differential: Differential scores: of neurons on rank 0, of weights read from the run's directory.
        recipe: What was selected.
        aim: What the recipe is for; None where the run has one behaviour.
        predictions: Which method's scores predict what a screen has measured; None without one.
        baseline: Evaluation of the model as it was, before pruning.
        pruned: Evaluation with the recipe applied.
        controls: Evaluations with as many random neurons (or weights) of the same layers removed, one a draw.
        results: What `experiment_results.json` holds, once it is written, on rank 0.
        compression: Rows of the table of compressed models, the baseline first.
        circuit: Rows of the table of circuits, on rank 0.
        seconds: Wall time of each stage.
        aims: What its recipes are for.
        parts: Where the run has several behaviours, by name of each recipe a run of that recipe alone: scores, baseline
            and times are the run's. What the run itself has of one recipe is the first's.
        comparison: Rows of how far the behaviours' neurons (or weights) agree, where there are several behaviours.
        num_done: By number of the reference set, batches that were attributed before the run was interrupted.
    """

    base_model: dict[str, Any] = field(default_factory=dict)
    main_key: str = "lrp"
    scores: dict[str, MethodScores] = field(default_factory=dict)
    expected_modules: list[str] = field(default_factory=list)
    general: list[str] = field(default_factory=list)
    behaviour: str | None = None
    differential: ScoreSet | None = None
    recipe: AnyRecipe | None = None
    aim: Aim | None = None
    predictions: Predictions | None = None
    baseline: Evaluation | None = None
    pruned: Evaluation | None = None
    controls: list[Evaluation] = field(default_factory=list)
    results: "Results | None" = None
    compression: list[dict[str, Any]] = field(default_factory=list)
    circuit: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    aims: list[Aim] = field(default_factory=list)
    parts: dict[str, "Run"] = field(default_factory=dict)
    comparison: list[dict[str, Any]] = field(default_factory=list)
    num_done: dict[int, int] = field(default_factory=dict)

    def part(self, aim: Aim) -> "Run":
        """A run of one recipe of several, which shares all that was found before any was selected."""
        one = replace(self, aim=aim, general=[*aim.general], behaviour=aim.behaviours[0], controls=[], parts={})
        self.parts[aim.name] = one
        return one

    def adopt_first(self) -> None:
        """Take over what the first recipe's run has found: every reader of one recipe finds one."""
        first = next(iter(self.parts.values()), self)
        for name in _OF_A_RECIPE:
            setattr(self, name, getattr(first, name))

    def by_recipe(self, log_dir: Path) -> list[tuple["Run", Path]]:
        """The run of each recipe and where its files lie: of one behaviour the run itself, in its own directory."""
        return [(one, log_dir / RECIPES_DIR / name) for name, one in self.parts.items()] or [(self, log_dir)]

    @property
    def score_sets(self) -> dict[str, ScoreSet]:
        """What the run attributes: scores by reference set."""
        return self.scores.setdefault(self.main_key, MethodScores()).sets

    def is_done(self, batch_idx: int, dataloader_idx: int) -> bool:
        """Whether a batch was attributed before the run was interrupted: it is passed over."""
        return batch_idx < self.num_done.get(dataloader_idx, 0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
