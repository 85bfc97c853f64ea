"""Sweep: many selections of one run, each evaluated once, resumable cell by cell."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import rich
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import RenderableType

from callbacks.baselines import BaselineCallback, main_key
from callbacks.score_writer import check_scores_are_whole
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.families import get_family
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.progress import stop_bar
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.sets import match_general
from sparc3_lightning.report.trial_figures import write_sweep
from sparc3_lightning.scoring.baselines import MethodScores
from sparc3_lightning.trials.judge import figures_of
from sparc3_lightning.trials.store import CellStore, evaluation_setting
from sparc3_lightning.trials.sweep import Grid, cells_of
from sparc3_lightning.trials.sweep_table import num_corrected, overlap_rows
from sparc3_lightning.trials.trial import PlannedCell, check_one_is_done, plan_cells, run_cells


class SweepCallback(Callback):
    """Evaluates every cell of the grids after attribution; writes `sweep/` with tables and figures.

    List it after the relevance callback and, where the grids name other methods, after the baseline callback.

    Args:
        grids: What is swept; each is the product of its lists.
        general: Names of the general reference sets, or patterns.
        behaviour: Name of the behaviour's reference set.
        seed: Seed of the first random draw; draw i uses seed + i.
        cells: Directory of the cells that are done, which runs may share: what an earlier run has evaluated with the
            same neurons, model, prompts, text and evaluator is not evaluated again. Default: `sweep_cells` beside the
            logger's versions.
    """

    reads = ("evaluation_prompts", "evaluation_text")  # fields of `data`

    def __init__(
        self,
        grids: list[Grid],
        general: str | list[str] = "general*",
        behaviour: str = "toxic",
        seed: int = 0,
        cells: str | None = None,
    ) -> None:
        self.cells = cells_of(grids)
        self.general = [general] if isinstance(general, str) else general
        self.behaviour, self.seed, self.cells_dir = behaviour, seed, cells
        self._summary: list[RenderableType] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse before hours of attribution what would fail after them."""
        assert isinstance(pl_module, SparC3Module)
        check_scores_are_whole(trainer, pl_module)
        data, config = pl_module.data, pl_module.lm.config
        match_general(data.reference_names, self.general, self.behaviour, "SweepCallback")
        total = get_family(config.model_type).total_neurons(config)
        largest = max(c.num_neurons for c in self.cells)
        if largest > total:
            raise ValueError(
                f"`num_neurons` must be at most {total}, got {largest}. Set `SweepCallback.init_args.grids`."
            )
        scored = {main_key(pl_module)}
        before: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # Lightning sets it from elsewhere
        for callback in before[: before.index(self)]:
            scored |= set(callback.keys) if isinstance(callback, BaselineCallback) else set()
        if missing := sorted({cell.key for cell in self.cells} - scored):
            raise ValueError(
                f"the sweep needs scores of {missing}, got those of {sorted(scored)}. List "
                "`callbacks.BaselineCallback` with these `methods` and `signs` before `callbacks.SweepCallback`."
            )
        if not data.prompts and not data.text_rows:
            raise ValueError(
                "a sweep needs prompts or a text. Set `data.evaluation_prompts` or `data.evaluation_text`."
            )
        pl_module.evaluator.check(pl_module.lm, pl_module.tokenizer, data.text_rows, data.prompts)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Select every cell, evaluate what is not known, write tables and figures."""
        assert isinstance(pl_module, SparC3Module)
        run = pl_module.run
        found = run.method_scores or {main_key(pl_module): MethodScores(run.score_sets)}
        general = match_general(pl_module.data.reference_names, self.general, self.behaviour)
        with run.timed("sweep"):
            if run.baseline is None:
                run.baseline = self._evaluated(pl_module)
            planned = from_rank_zero(lambda: self._plan(pl_module, found, general))
            evaluate = partial(self._evaluate, pl_module)
            store = CellStore(self._cells_dir(trainer, pl_module))
            judge = partial(self._judge, pl_module, num_corrected(planned))
            run_cells(planned, evaluate, judge, store, pl_module.progress)
        from_rank_zero(lambda: self._write(pl_module, planned, found, general))
        check_one_is_done(planned)

    def _plan(self, module: SparC3Module, found: dict[str, MethodScores], general: list[str]) -> list[PlannedCell]:
        model = {
            "weight_hash": module.run.base_model["weight_hash"],
            "dtype": str(module.weights_dtype),
            "precision": str(module.trainer.precision),
        }
        setting = evaluation_setting(module.evaluator, module.data.prompts, module.data.text_rows, model)
        return plan_cells(self.cells, found, general, self.behaviour, setting, self.seed)

    def _evaluate(self, module: SparC3Module, recipe: Recipe, factor: float) -> Evaluation:
        with apply_recipe(module.lm, recipe, check_base=False, factor=factor):
            return self._evaluated(module)

    def _judge(self, module: SparC3Module, num_tests: int, evaluation: Evaluation) -> dict[str, Any]:
        assert module.run.baseline is not None
        test = replace(module.evaluator.paired_test, num_tests=num_tests)
        return figures_of(module.run.baseline, evaluation, test)

    def _evaluated(self, module: SparC3Module) -> Evaluation:
        # Silently: the bar is over cells.
        return module.evaluator.evaluate(module.lm, module.tokenizer, module.data.text_rows, module.data.prompts)

    def _cells_dir(self, trainer: Trainer, module: SparC3Module) -> Path:
        home = getattr(trainer.logger, "root_dir", None) or module.log_dir
        return Path(self.cells_dir or Path(home) / "sweep_cells")

    def _write(
        self, module: SparC3Module, planned: list[PlannedCell], found: dict[str, MethodScores], general: list[str]
    ) -> None:
        assert module.run.baseline is not None
        base, baseline = module.run.base_model, module.run.baseline.summary()
        overlaps = overlap_rows(planned, found, general, self.behaviour, base["num_neurons"])
        directory, alpha = module.log_dir / "sweep", module.evaluator.paired_test.alpha
        self._summary = write_sweep(planned, baseline, overlaps, base["num_layers"], directory, alpha)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the summary last, below whatever the progress bar has shown."""
        if self._summary and trainer.is_global_zero:
            stop_bar(trainer)
            for part in self._summary:
                rich.print(part)
            self._summary = []
