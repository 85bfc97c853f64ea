"""Baselines: other methods score the same reference sets, in the same predict run."""

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from callbacks.base import RunCallback
from callbacks.relevance import RelevanceCallback
from sparc3_lightning.data.batches import Batch
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.loops import Counted
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.scoring.combine import MethodScores
from sparc3_lightning.scoring.loop import Loop, data_of
from sparc3_lightning.scoring.registry import expand_methods, make_methods
from sparc3_lightning.scoring.saving import save_together
from sparc3_lightning.scoring.score_set import ScoreSet


class BaselineCallback(RunCallback):
    """Scores every reference set by other methods once the rules are off; writes `scores/<method>/<set name>/`.

    List it after the relevance callback. What a method found is in `module.run.scores`, beside LRP's own scores.

    Args:
        methods: Names in `scoring.registry.METHODS`; what the relevance callback scored is not scored again.
        signs: "abs", "signed" or both, of the gradient-based methods (`lrp`, `cp_lrp`, `gradient`).
        seed: Seed of `random`.
        sparsity: Share of each row that `wanda_sequential` removes.
    """

    after = (RelevanceCallback,)

    def __init__(
        self,
        methods: list[str],
        signs: list[str] | None = None,
        seed: int = 0,
        sparsity: float = 0.5,
    ) -> None:
        self.seed, self.sparsity = seed, sparsity
        self.keys = expand_methods(methods, signs or ["abs"])

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Refuse before hours of attribution what would fail after them."""
        names = module.data.reference_names
        if taken := sorted(set(names) & set(self.keys)):
            raise ValueError(
                f"a set must not be called as a method is, got {taken}: both would be written to `scores/<name>`. "
                f"Rename `{module.data.key_of(taken[0])}`."
            )
        _, behaviour = self._compared(module)
        for method, _ in self.keys.values():
            method.check(module.lm)
            if behaviour is not None:
                method.check_targets(module.data.reference_samples[behaviour].targets, module.data.key_of(behaviour))
        module.run.scores |= {key: MethodScores() for key in self.keys if key not in module.run.scores}

    def _compared(self, module: SparC3Module) -> tuple[list[str], str | None]:
        """The general sets and the behaviour's, where a method asks for them: none has to be there otherwise."""
        asking = [key for key, (method, _) in self.keys.items() if method.compares or method.reads_targets]
        if not asking:
            return [], None
        try:
            return module.data.differential_names()
        except ValueError as error:
            raise ValueError(
                f"{error} Or leave {asking} out of `BaselineCallback.init_args.methods`: such methods rank neurons by "
                "what one behaviour has against the general samples, or by the words that follow it."
            ) from None

    def finish(self, trainer: Trainer, module: SparC3Module) -> None:
        """Score every set by every method, and write what was found."""
        run, data, home = module.run, module.data, module.log_dir / "scores"
        chosen = {key: choice for key, choice in self.keys.items() if key != run.main_key}
        general, behaviour = self._compared(module)
        targets = None if behaviour is None else data.reference_samples[behaviour].targets
        scoring = module.scoring(
            general=general, behaviour=behaviour, behaviour_targets=targets, seed=self.seed, sparsity=self.sparsity
        )
        loop = Loop(make_methods(chosen, scoring), partial(_save, home, module.device))
        # A run that was interrupted here does it again, from the start.
        from_rank_zero(partial(_remove, [home / key for key in chosen]))
        loaders = dict(zip(data.reference_names, data.predict_dataloader(), strict=True))
        with run.timed("baselines"):
            for name, samples in data.reference_samples.items():
                described = data_of(samples, name)
                # As Lightning runs the predict steps that the other scores come from.
                with trainer.precision_plugin.predict_step_context():
                    loop.score(described, partial(self._batches, trainer, module, name, loaders[name]))
            run.scores.update(loop.finish())

    def _batches(
        self, trainer: Trainer, module: SparC3Module, name: str, loader: DataLoader[Batch], description: str
    ) -> Iterable[Batch]:
        sizes: list[int] = loader.dataset.batch_sizes  # type: ignore[attr-defined] # BatchDataset's
        counted = Counted(loader, "samples", sum(sizes), lambda batch: len(batch["indices"]))
        for batch in module.progress(counted, len(loader), f"{name}: {description}"):
            yield trainer.strategy.batch_to_device(batch)


def _remove(directories: list[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _save(home: Path, device: torch.device, key: str, name: str, scores: ScoreSet) -> ScoreSet:
    """Write a method's scores of a set, or its ranking, every rank its part: of weights none then holds them."""
    return save_together(scores, home / key / name, device)
