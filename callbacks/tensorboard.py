"""TensorBoard: histograms, the layer figure, before and after, completions side by side, speed."""

import warnings

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.base import RunCallback
from callbacks.score_writer import check_scores_are_whole
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.pruning.weight_recipe import selected_per_layer
from sparc3_lightning.report.circuit_figures import MEASURES, curves_figure
from sparc3_lightning.report.figures import comparison_figure, layer_figure
from sparc3_lightning.report.read import read_screen
from sparc3_lightning.report.screen_figures import screen_pictures
from sparc3_lightning.report.tensorboard import (
    board_hyperparameters,
    board_outcome,
    board_panels,
    board_scalars,
    circuit_scalars,
    compression_points,
    sample_completions,
    score_histograms,
    verdict_text,
)
from sparc3_lightning.runs.results import Results
from sparc3_lightning.runs.run import Run


class TensorBoardCallback(RunCallback):
    """Shows what the other callbacks found; list it last. Without a TensorBoard logger it only warns.

    Args:
        num_prompts: How many prompts are shown with their completions before and after; 0 leaves them out.
    """

    def __init__(self, num_prompts: int = 8) -> None:
        if num_prompts < 0:
            raise ValueError(
                f"`num_prompts` must be at least 0, got {num_prompts}. Set `TensorBoardCallback.init_args.num_prompts`."
            )
        self.num_prompts = num_prompts

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Say at once that nothing will be shown, if so."""
        check_scores_are_whole(trainer, module)
        if trainer.is_global_zero and _logger(trainer) is None:
            warnings.warn(
                "TensorBoardCallback shows nothing: set `trainer.logger` to a TensorBoardLogger, or leave it out.",
                stacklevel=2,
            )

    def finish(self, trainer: Trainer, module: SparC3Module) -> None:
        """Show everything that was found."""
        logger = _logger(trainer)
        if logger is None or not trainer.is_global_zero:
            return
        run, board = module.run, logger.experiment
        for histogram in score_histograms(run):
            board.add_histogram(histogram.tag, histogram.values, histogram.layer, bins=histogram.bins)
        logger.log_metrics(board_scalars(run), step=0)
        for percent_removed, scalars in compression_points(run):
            logger.log_metrics(scalars, step=percent_removed)
        if run.circuit:
            logger.log_metrics(circuit_scalars(run.circuit), step=0)
            for measure in MEASURES:
                if (figure := curves_figure(run.circuit, measure)) is not None:
                    board.add_figure(f"circuit/{measure}", figure, 0, close=False)
        if run.recipe is not None:
            counts, what = selected_per_layer(run.recipe, run.base_model["num_layers"]), run.recipe.what
            figure = layer_figure(counts, str(run.base_model["id"]), what, run.recipe.num - sum(counts))
            board.add_figure(f"{what}_per_layer", figure, 0, close=False)
        if run.results and run.baseline is not None and run.pruned is not None:
            self._show_outcome(run, logger, run.results, run.baseline, run.pruned)
            for picture in screen_pictures(run.results, read_screen(module.log_dir)):
                board.add_figure(picture.name, picture.figure, 0, close=False)
        logger.save()

    def _show_outcome(
        self, run: Run, logger: TensorBoardLogger, results: Results, baseline: Evaluation, pruned: Evaluation
    ) -> None:
        board = logger.experiment
        board.add_figure("before_and_after", comparison_figure(board_panels(results)), 0, close=False)
        completions = sample_completions(baseline, pruned, self.num_prompts, results["verdict"]["column"])
        if completions:
            board.add_text("completions/side_by_side", completions, 0)
        board.add_text("verdict", verdict_text(results["verdict"]), 0)
        # Parameters must come with their metrics: without, Lightning writes a placeholder metric, and TensorBoard's
        # table keeps the first entry of a run.
        logger.log_hyperparams(dict(board_hyperparameters(run)), metrics=dict(board_outcome(run)), step=0)


def _logger(trainer: Trainer) -> TensorBoardLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)
