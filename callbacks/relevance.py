"""Relevance: the rules on for the predict run, one ScoreSet for each reference set."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sparc3_lightning.data.batches import PADDING
from sparc3_lightning.distributed.ranks import check_same_on_every_rank
from sparc3_lightning.distributed.reduce import reduce_scores
from sparc3_lightning.evaluation.run import Run
from sparc3_lightning.identity import tokenizer_hash
from sparc3_lightning.lrp.attribute import attribution_options, check_samples
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.scoring.manifest import make_manifest
from sparc3_lightning.scoring.score_set import ScoreSet


class RelevanceCallback(Callback):
    """Enters the rules at predict start and leaves them at the end, or on an exception; reduces each reference set.

    The scores are the mean over the real samples of all ranks, checked (finite, not negative for `abs`, every expected
    layer, number of samples) before anyone sees them in `module.run.score_sets`: there rank 0 has those of neurons, and
    each rank some modules' those of weights, until the score writer has written them.
    """

    def __init__(self) -> None:
        self._explained: list[Tensor] = []
        self._clock = 0.0

    @property
    def explained(self) -> list[tuple[int, int]]:
        """Index and explained token of each sample of this rank, of the reference set in progress."""
        pairs = [pair for batch in self._explained for pair in batch.T.tolist()]
        return [(index, token) for index, token in pairs if index != PADDING]

    @explained.setter
    def explained(self, pairs: list[tuple[int, int]]) -> None:
        self._explained = [torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T]

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that gradients are possible, note which model this is, and enter the rules."""
        assert isinstance(pl_module, SparC3Module)
        if torch.is_inference_mode_enabled():
            raise ValueError(
                "attribution needs gradients, which `trainer.inference_mode: true` forbids. Set it to false, or start "
                "the run with `sparc3 predict`, which does."
            )
        for name, samples in pl_module.data.reference_samples.items():
            limits = (pl_module.max_length, pl_module.vocab_size)
            check_samples(samples.ids, *limits, pl_module.data.key_of(name), samples.sample_ids)
        pl_module.run.base_model = pl_module.identity()
        hashes = {name: samples.token_hash for name, samples in pl_module.data.reference_samples.items()}
        check_same_on_every_rank(hashes, "the reference samples (their hashes)")
        attribution = pl_module.new_attribution()
        pl_module.run.expected_modules = attribution.names
        pl_module.attribution = attribution.__enter__()
        self._explained = []

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start the clock of a reference set."""
        assert isinstance(pl_module, SparC3Module)
        if batch_idx == 0 or pl_module.run.is_done(batch_idx, dataloader_idx):
            self._clock = time.perf_counter()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Note the explained tokens; after a set's last batch, reduce its scores."""
        assert isinstance(pl_module, SparC3Module)
        if pl_module.run.is_done(batch_idx, dataloader_idx):
            return
        name = pl_module.data.reference_names[dataloader_idx]
        # They stay on the device until the set ends: a copy to the host would wait for the batch.
        self._explained.append(torch.stack([batch["indices"], outputs.to(batch["indices"])]))
        if batch_idx + 1 == trainer.num_predict_batches[dataloader_idx]:
            self._finish(pl_module, name)
        self._read_clock(pl_module.run, f"attribution: {name}")

    def _read_clock(self, run: Run, stage: str) -> None:
        now = time.perf_counter()
        run.seconds[stage] = run.seconds.get(stage, 0.0) + now - self._clock
        self._clock = now

    def _finish(self, module: SparC3Module, name: str) -> None:
        assert module.attribution is not None
        samples, attribution = module.data.reference_samples[name], module.attribution
        reduced = reduce_scores(attribution, self.explained, len(samples))
        manifest = make_manifest(
            base_model=module.run.base_model,
            options=attribution_options(attribution, module.modules_to_attribute),
            left_out=attribution.left_out,
            data={
                "name": name,
                "source": samples.source,
                "token_hash": samples.token_hash,
                "num_samples": len(samples),
                "num_tokens": sum(len(ids) for ids in samples.ids),
                "sample_ids": samples.sample_ids,
                "target_ids": reduced.target_ids,
            },
            model_dtype=str(module.weights_dtype).removeprefix("torch."),
            tokenizer_hash=tokenizer_hash(module.tokenizer),
            relevance_per_sample=reduced.total,
        )
        module.run.score_sets[name] = ScoreSet(reduced.scores, manifest)
        attribution.reset()
        self._explained = []

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the rules: what follows runs the plain model."""
        self._leave(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the rules whatever happened."""
        self._leave(pl_module)

    def _leave(self, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SparC3Module)
        if pl_module.attribution is not None:
            attribution, pl_module.attribution = pl_module.attribution, None
            attribution.__exit__()
