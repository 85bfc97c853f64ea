"""What every callback has in common: its place in the list, the module's type, and when it is asked."""

from dataclasses import dataclass
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sparc3_lightning.models.identity import tokenizer_hash
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.progress import stop_bar


def module_of(pl_module: LightningModule) -> SparC3Module:
    """The module, which must be this package's.

    Raises:
        ValueError: It is another.
    """
    if not isinstance(pl_module, SparC3Module):
        raise ValueError(f"these callbacks need a SparC3Module, got {type(pl_module).__name__}. Set `model`.")
    return pl_module


def model_setting(module: SparC3Module) -> dict[str, str | None]:
    """Which base model a run measures, and what it computes in: what the figures of its trials depend on, as JSON."""
    return {
        "weight_hash": module.run.base_model["weight_hash"],
        "tokenizer": tokenizer_hash(module.tokenizer),
        "dtype": str(module.weights_dtype),
        "precision": str(module.trainer.precision),
        "attn_implementation": module.attn_implementation,
    }


@dataclass(frozen=True)
class SetProgress:
    """How far a reference set has come.

    Attributes:
        name: The set's.
        num_batches: Batches that are done.
        num_samples: Samples of the last one of them, on this rank.
        is_finished: It was the set's last.
    """

    name: str
    num_batches: int
    num_samples: int
    is_finished: bool


class RunCallback(Callback):
    """Part of a predict run: refuses before the first batch, sees every batch that is new, acts after the last one.

    Attributes:
        after: Callbacks that must be listed before it.
        because: How the message on their order begins.
        reads: Fields of `data` that it reads.
    """

    after: ClassVar[tuple[type[Callback], ...]] = ()
    because: ClassVar[str] = ""
    reads: ClassVar[tuple[str, ...]] = ()

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Refuse before hours of attribution what would fail after them."""

    def after_batch(self, trainer: Trainer, module: SparC3Module, progress: SetProgress) -> None:
        """See a batch that no interrupted run has done before."""

    def finish(self, trainer: Trainer, module: SparC3Module) -> None:
        """Act on the scores, once the rules are off."""

    def show(self, module: SparC3Module, stage: str) -> None:
        """Print on rank 0 what was found, below whatever the progress bar has shown."""

    def is_before(self, trainer: Trainer, kind: type[Callback]) -> bool:
        """Whether a callback of this kind is listed later."""
        listed: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # Lightning sets it from elsewhere
        later = listed[listed.index(self) :] if self in listed else []
        return any(isinstance(one, kind) for one in later)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the order, then all else."""
        listed: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # Lightning sets it from elsewhere
        earlier = listed[: listed.index(self)] if self in listed else listed
        if not all(any(isinstance(one, kind) for one in earlier) for kind in self.after):
            names = " and ".join(f"`callbacks.{kind.__name__}`" for kind in self.after)
            raise ValueError(
                f"{self.because}`trainer.callbacks` must list {names} before `callbacks.{type(self).__name__}`."
            )
        self.check(trainer, module_of(pl_module))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Pass a batch on, unless it was done before."""
        module, num_batches = module_of(pl_module), batch_idx + 1
        if not module.run.is_done(batch_idx, dataloader_idx):
            name, total = module.data.reference_names[dataloader_idx], trainer.num_predict_batches[dataloader_idx]
            self.after_batch(trainer, module, SetProgress(name, num_batches, len(outputs), num_batches == total))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Act on what the run has found."""
        self.finish(trainer, module_of(pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Show what was found."""
        if trainer.is_global_zero:
            stop_bar(trainer)
            self.show(module_of(pl_module), stage)
