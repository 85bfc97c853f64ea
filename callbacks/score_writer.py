"""Score writer: one ScoreSet directory for each reference set, as soon as it is finished."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sparc3_lightning.module import SparC3Module
from sparc3_lightning.scoring.saving import save_together


class ScoreWriter(Callback):
    """Writes `scores/<set name>/` in the run's directory; list it after the relevance callback.

    Args:
        max_shard_size: Largest safetensors file; above it the scores are sharded, with an index.
    """

    def __init__(self, max_shard_size: str = "5GB") -> None:
        self.max_shard_size = max_shard_size

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse an order of callbacks in which there would be nothing to write yet."""
        assert isinstance(pl_module, SparC3Module)
        if pl_module.attribution is None:
            raise ValueError(
                "`trainer.callbacks` must list `callbacks.RelevanceCallback` before `callbacks.ScoreWriter`."
            )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """After a set's last batch, write its scores."""
        assert isinstance(pl_module, SparC3Module)
        is_last = batch_idx + 1 == trainer.num_predict_batches[dataloader_idx]
        if not is_last or pl_module.run.is_done(batch_idx, dataloader_idx):
            return
        name, run = pl_module.data.reference_names[dataloader_idx], pl_module.run
        directory = pl_module.log_dir / "scores" / name
        run.score_sets[name] = save_together(run.score_sets[name], directory, pl_module.device, self.max_shard_size)


def check_scores_are_whole(trainer: Trainer, module: SparC3Module) -> None:
    """Refuse to go on to what reads a set as a whole where no process will ever have it so.

    Raises:
        ValueError: Weight scores, shared out over several processes, and no score writer to put them together.
    """
    has_writer = any(isinstance(callback, ScoreWriter) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if module.granularity == "weight" and trainer.world_size > 1 and not has_writer:
        raise ValueError(
            "weight scores of several processes are put together on disk: `trainer.callbacks` must list "
            "`callbacks.ScoreWriter` after `callbacks.RelevanceCallback`."
        )
