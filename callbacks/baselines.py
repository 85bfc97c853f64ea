"""Baselines: other methods score the same reference sets, in the same predict run."""

import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from sparc3_lightning.data.batches import Batch
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.distributed.saving import save_together
from sparc3_lightning.identity import tokenizer_hash
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.scoring.baselines import BaselineScorer, MethodScores
from sparc3_lightning.scoring.baselines.methods import expand_methods, key_of_variant
from sparc3_lightning.scoring.baselines.score import Keep
from sparc3_lightning.scoring.baselines.sequential import check_whole_rows
from sparc3_lightning.scoring.score_set import ScoreSet

_ORDER = "`trainer.callbacks` must list `callbacks.RelevanceCallback` before `callbacks.BaselineCallback`."


class BaselineCallback(Callback):
    """Scores every reference set by other methods once the rules are off; writes `scores/<method>/<set name>/`.

    List it after the relevance callback. What a method found is in `module.run.method_scores`, LRP's own scores too.

    Args:
        methods: Names in `scoring.baselines.METHODS`; what the relevance callback scored is not scored again.
        signs: "abs", "signed" or both, of the gradient-based methods (`lrp`, `cp_lrp`, `gradient`).
        seed: Seed of `random`.
        sparsity: Share of each row that `wanda_sequential` removes.
    """

    def __init__(
        self,
        methods: list[str],
        signs: list[str] | None = None,
        seed: int = 0,
        sparsity: float = 0.5,
    ) -> None:
        self.methods, self.signs = methods, signs or ["abs"]
        self.seed, self.sparsity = seed, sparsity
        self.keys = expand_methods(self.methods, self.signs)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse before hours of attribution what would fail after them."""
        assert isinstance(pl_module, SparC3Module)
        if pl_module.attribution is None:
            raise ValueError(_ORDER)
        names = pl_module.data.reference_names
        if taken := sorted(set(names) & set(self.keys)):
            raise ValueError(
                f"a set must not be called as a method is, got {taken}: both would be written to `scores/<name>`. "
                f"Rename `{pl_module.data.key_of(taken[0])}`."
            )
        if "auroc" in self.methods:
            pl_module.data.differential_names()
        if "wanda_sequential" in self.methods:
            check_whole_rows(pl_module.lm)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score every set by every method, and write what was found."""
        assert isinstance(pl_module, SparC3Module)
        run, data = pl_module.run, pl_module.data
        main, home = main_key(pl_module), pl_module.log_dir / "scores"
        run.method_scores[main] = MethodScores(dict(run.score_sets))
        scorer = self._scorer(pl_module, main, partial(_save, home, pl_module.device))
        # A run that was interrupted here does it again, from the start.
        from_rank_zero(partial(_remove, [home / key for key in scorer.keys]))
        loaders = dict(zip(data.reference_names, data.predict_dataloader(), strict=True))
        with run.timed("baselines"):
            for name, samples in data.reference_samples.items():
                described = {
                    "source": samples.source,
                    "token_hash": samples.token_hash,
                    "num_samples": len(samples),
                    "num_tokens": sum(len(ids) for ids in samples.ids),
                    "sample_ids": samples.sample_ids,
                }
                # As Lightning runs the predict steps that the other scores come from.
                with trainer.precision_plugin.predict_step_context():
                    scorer.score(name, described, partial(self._batches, trainer, pl_module, name, loaders[name]))
            run.method_scores.update(scorer.finish())

    def _scorer(self, module: SparC3Module, main: str, keep: Keep) -> BaselineScorer:
        options = module.attribution_options
        general, behaviour = module.data.differential_names() if "auroc" in self.methods else ([], "")
        return BaselineScorer(
            module.lm,
            {key: choice for key, choice in self.keys.items() if key != main},
            granularity=module.granularity,
            modules=module.modules_to_attribute,
            target=options["target"],
            kernel=options["kernel"],
            activation_checkpointing=options["activation_checkpointing"],
            general=general,
            behaviour=behaviour,
            seed=self.seed,
            sparsity=self.sparsity,
            identity=module.run.base_model,
            tokenizer_hash=tokenizer_hash(module.tokenizer),
            model_dtype=module.weights_dtype,
            keep=keep,
        )

    def _batches(
        self, trainer: Trainer, module: SparC3Module, name: str, loader: DataLoader[Batch], description: str
    ) -> Iterable[Batch]:
        for batch in module.progress(loader, len(loader), f"{name}: {description}"):
            yield trainer.strategy.batch_to_device(batch)


def main_key(module: SparC3Module) -> str:
    """Key of what the relevance callback scores by."""
    return key_of_variant(module.attribution_options["variant"], module.attribution_options["sign"])


def _remove(directories: list[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _save(home: Path, device: torch.device, key: str, name: str, scores: ScoreSet) -> ScoreSet:
    """Write a method's scores of a set, or its ranking, every rank its part: of weights none then holds them."""
    return save_together(scores, home / key / name, device)
