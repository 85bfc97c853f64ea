"""Score writer: one ScoreSet directory for each reference set, as soon as it is finished."""

from lightning.pytorch import Trainer

from callbacks.base import RunCallback, SetProgress
from callbacks.relevance import RelevanceCallback
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.scoring.saving import save_together


class ScoreWriter(RunCallback):
    """Writes `scores/<set name>/` in the run's directory; list it after the relevance callback.

    Args:
        max_shard_size: Largest safetensors file; above it the scores are sharded, with an index.
    """

    after = (RelevanceCallback,)

    def __init__(self, max_shard_size: str = "5GB") -> None:
        self.max_shard_size = max_shard_size

    def after_batch(self, trainer: Trainer, module: SparC3Module, progress: SetProgress) -> None:
        """After a set's last batch, write its scores."""
        if progress.is_finished:
            name, found = progress.name, module.run.score_sets
            found[name] = save_together(
                found[name], module.log_dir / "scores" / name, module.device, self.max_shard_size
            )


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
