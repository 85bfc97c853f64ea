"""TensorBoard: histograms, the layer figure, before and after, completions side by side, speed."""

import warnings

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from sparc3_lightning.evaluation.board import (
    board_hyperparameters,
    board_outcome,
    board_scalars,
    sample_completions,
    score_histograms,
)
from sparc3_lightning.evaluation.figures import layer_figure, save_figure
from sparc3_lightning.module import SparC3Module


class TensorBoardCallback(Callback):
    """Shows what the other callbacks found; list it last. Without a TensorBoard logger it only warns.

    The layer figure is also written to `figures/` of the run's directory.

    Args:
        num_prompts: How many prompts are shown with their completions before and after; 0 leaves them out.
    """

    def __init__(self, num_prompts: int = 8) -> None:
        if num_prompts < 0:
            raise ValueError(
                f"`num_prompts` must be at least 0, got {num_prompts}. Set `TensorBoardCallback.init_args.num_prompts`."
            )
        self.num_prompts = num_prompts

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say at once that nothing will be shown, if so."""
        if trainer.is_global_zero and _logger(trainer) is None:
            warnings.warn(
                "TensorBoardCallback shows nothing: set `trainer.logger` to a TensorBoardLogger, or leave it out.",
                stacklevel=2,
            )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show everything that was found."""
        assert isinstance(pl_module, SparC3Module)
        logger = _logger(trainer)
        if logger is None or not trainer.is_global_zero:
            return
        run, board = pl_module.run, logger.experiment
        for histogram in score_histograms(run):
            board.add_histogram(histogram.tag, histogram.values, histogram.layer, bins=histogram.bins)
        logger.log_metrics(board_scalars(run), step=0)
        if run.recipe is not None:
            self._show_selection(pl_module, logger)
        if run.baseline is not None and run.pruned is not None and self.num_prompts:
            text = sample_completions(run.baseline, run.pruned, self.num_prompts)
            if text:
                board.add_text("completions/side_by_side", text, 0)
        logger.save()

    def _show_selection(self, module: SparC3Module, logger: TensorBoardLogger) -> None:
        run = module.run
        assert run.recipe is not None
        per_layer = run.recipe.per_layer()
        counts = [len(per_layer.get(layer, [])) for layer in range(module.lm.config.num_hidden_layers)]
        figure = layer_figure(counts, str(run.base_model.get("id", "")))
        save_figure(figure, module.log_dir / "figures" / "neurons_per_layer.png")
        logger.experiment.add_figure("selection/neurons_per_layer", figure, 0, close=False)
        # The metrics must come with the parameters: without, Lightning writes a placeholder, and TensorBoard's table
        # keeps the first entry of a run.
        outcome = board_outcome(run)
        if outcome:
            logger.log_hyperparams(dict(board_hyperparameters(run)), metrics=dict(outcome), step=0)


def _logger(trainer: Trainer) -> TensorBoardLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)
