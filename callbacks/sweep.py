"""Sweep: many selections of one run, each a trial."""

from dataclasses import replace

from lightning.pytorch import Trainer

from callbacks.base import RunCallback
from callbacks.evaluation import baseline_of, trials_of, write_page
from callbacks.score_writer import check_scores_are_whole
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.evaluation.passes import describe_passes
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.models.families import get_family
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.progress import inform
from sparc3_lightning.report.terminal import print_experiment
from sparc3_lightning.report.trial_figures import write_sweep
from sparc3_lightning.trials.sweep import Candidates, Grid, PlannedCell, cells_of, plan_cells
from sparc3_lightning.trials.sweep_table import baseline_row, figures_of, num_corrected, overlap_rows
from sparc3_lightning.trials.trial import check_one_is_done, run_trials


class SweepCallback(RunCallback):
    """Evaluates every cell of the grids after attribution; writes `sweep/` with tables and figures, and the page.

    A cell whose neurons were evaluated before, by this run or another one with the same `model.trials_dir`, is read.

    List it after the relevance callback and, where the grids name other methods, after the baseline callback.

    Args:
        grids: What is swept; each is the product of its lists.
        seed: Seed of the first random draw; draw i uses seed + i.
    """

    reads = ("evaluation_prompts", "evaluation_text")

    def __init__(
        self,
        grids: list[Grid],
        seed: int = 0,
    ) -> None:
        self.cells = cells_of(grids)
        self.seed = seed
        self._is_written = False

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Refuse before hours of attribution what would fail after them."""
        check_scores_are_whole(trainer, module)
        data, config = module.data, module.lm.config
        data.differential_names()
        total = get_family(config.model_type).total_neurons(config)
        largest = max(c.num_neurons for c in self.cells)
        if largest > total:
            raise ValueError(
                f"`num_neurons` must be at most {total}, got {largest}. Set `SweepCallback.init_args.grids`."
            )
        scored = set(module.run.scores)  # the callbacks before this one say at the start what they will score
        if missing := sorted({cell.key for cell in self.cells} - scored):
            raise ValueError(
                f"the sweep needs scores of {missing}, got those of {sorted(scored)}. List "
                "`callbacks.BaselineCallback` with these `methods` and `signs` before `callbacks.SweepCallback`."
            )
        if not data.prompts and not data.text_rows:
            raise ValueError(
                "a sweep needs prompts or a text. Set `data.evaluation_prompts` or `data.evaluation_text`."
            )
        passes = module.evaluator.check(module.lm, module.tokenizer, data.text_rows, data.prompts)
        num = len(self.cells)
        inform(trainer, describe_passes(passes, 1 + num, f"baseline, {num} of the sweep"))

    def finish(self, trainer: Trainer, module: SparC3Module) -> None:
        """Select every cell, evaluate what is not known, write tables and figures."""
        run = module.run
        candidates = Candidates(run.scores, *module.data.differential_names(), self.seed)
        baseline, trials = baseline_of(module), trials_of(module)
        with run.timed("sweep"):
            planned = from_rank_zero(lambda: plan_cells(self.cells, candidates, trials.name))
            test = replace(module.evaluator.paired_test, num_tests=num_corrected(planned))

            def judge(cell: PlannedCell, evaluation: Evaluation) -> None:
                cell.figures = from_rank_zero(lambda: figures_of(baseline, evaluation, test))

            for _ in run_trials(planned, trials, judge, module.progress, "sweep"):
                pass
        from_rank_zero(lambda: self._write(module, planned, candidates))
        check_one_is_done(planned, "cells of the sweep")

    def _write(self, module: SparC3Module, planned: list[PlannedCell], candidates: Candidates) -> None:
        assert module.run.baseline is not None
        base, alpha = module.run.base_model, module.evaluator.paired_test.alpha
        baseline = {**baseline_row(module.run.baseline), "alpha": alpha}
        overlaps = overlap_rows(planned, candidates, base["num_neurons"])
        write_sweep(planned, baseline, overlaps, base["num_layers"], module.log_dir / "sweep")
        write_page(module)
        self._is_written = True

    def show(self, module: SparC3Module, stage: str) -> None:
        """Print the summary."""
        if self._is_written:
            print_experiment("sweep", module.log_dir / "sweep")
