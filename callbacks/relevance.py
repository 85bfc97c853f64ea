"""Relevance: the rules on for the predict run, one ScoreSet for each reference set."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sparc3_lightning.distributed.ranks import check_same_on_every_rank
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.runs.run import Run
from sparc3_lightning.scoring.combine import MethodScores
from sparc3_lightning.scoring.loop import checked_set, set_data
from sparc3_lightning.scoring.plain import check_samples
from sparc3_lightning.scoring.registry import gradient_method, method_key


class RelevanceCallback(Callback):
    """Enters the rules at predict start and leaves them at the end, or on an exception; reduces each reference set.

    The scores are the mean over the real samples of all ranks, checked (finite, not negative for `abs`, every expected
    layer, number of samples) before anyone sees them in `module.run.score_sets`: there rank 0 has those of neurons, and
    each rank some modules' those of weights, until the score writer has written them.
    """

    def __init__(self) -> None:
        self._clock = 0.0

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
        run = pl_module.run
        run.base_model = pl_module.identity()
        hashes = {name: samples.token_hash for name, samples in pl_module.data.reference_samples.items()}
        check_same_on_every_rank(hashes, "the reference samples (their hashes)")
        options = pl_module.attribution_options
        method = gradient_method(options["variant"])(pl_module.scoring(), options["sign"])
        run.main_key, run.expected_modules = method_key(method.name, method.sign), list(method.layers)
        run.scores = {run.main_key: MethodScores()}
        pl_module.attribution = method.new_pass().__enter__()

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
        """After a set's last batch, reduce its scores."""
        assert isinstance(pl_module, SparC3Module)
        if pl_module.run.is_done(batch_idx, dataloader_idx):
            return
        name = pl_module.data.reference_names[dataloader_idx]
        if batch_idx + 1 == trainer.num_predict_batches[dataloader_idx]:
            self._finish(pl_module, name)
        self._read_clock(pl_module.run, f"attribution: {name}")

    def _read_clock(self, run: Run, stage: str) -> None:
        now = time.perf_counter()
        run.seconds[stage] = run.seconds.get(stage, 0.0) + now - self._clock
        self._clock = now

    def _finish(self, module: SparC3Module, name: str) -> None:
        relevance, samples = module.attribution, module.data.reference_samples[name]
        assert relevance is not None
        data = set_data(samples.ids, name, samples.source, samples.sample_ids)
        module.run.score_sets[name] = checked_set(relevance.method, data, relevance.reduce(len(samples)))
        relevance.reset()

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
