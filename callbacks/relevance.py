"""Relevance: the rules on for the predict run, one ScoreSet for each reference set."""

import time
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from callbacks.base import RunCallback, SetProgress, module_of
from sparc3_lightning.distributed.ranks import check_same_on_every_rank
from sparc3_lightning.loops import Stage
from sparc3_lightning.lrp.targets import NEXT_TOKEN
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.progress import lines_of
from sparc3_lightning.scoring.loop import Loop, data_of
from sparc3_lightning.scoring.plain import check_samples, check_targets
from sparc3_lightning.scoring.registry import gradient_method, method_key


class RelevanceCallback(RunCallback):
    """Enters the rules at predict start and leaves them at the end, or on an exception; reduces each reference set.

    The scores are the mean over the real samples of all ranks, checked (finite, not negative for `abs`, every expected
    layer, number of samples) before anyone sees them in `module.run.score_sets`: there rank 0 has those of neurons, and
    each rank some modules' those of weights, until the score writer has written them.
    """

    def __init__(self) -> None:
        self._clock, self._loop = 0.0, Loop({})
        self._stage: Stage | None = None

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Check that gradients are possible, note which model this is, and enter the rules."""
        if torch.is_inference_mode_enabled():
            raise ValueError(
                "attribution needs gradients, which `trainer.inference_mode: true` forbids. Set it to false, or start "
                "the run with `sparc3 predict`, which does."
            )
        for name, samples in module.data.reference_samples.items():
            key, vocab_size = module.data.key_of(name), module.vocab_size
            check_samples(samples.ids, module.max_length, vocab_size, key, samples.sample_ids)
            if module.explains_next_token:
                against = samples.against or None
                check_targets(NEXT_TOKEN, samples.targets, against, len(samples), vocab_size, f" of {key}")
        run = module.run
        run.base_model = module.identity()
        hashes = {name: samples.token_hash for name, samples in module.data.reference_samples.items()}
        check_same_on_every_rank(hashes, "the reference samples (their hashes)")
        options = module.attribution_options
        method = gradient_method(options["variant"])(module.scoring(), options["sign"])
        run.main_key, run.expected_modules = method_key(method.name, method.sign), list(method.layers)
        self._loop = Loop({run.main_key: method})
        run.scores = self._loop.found
        module.attribution = method.new_pass().__enter__()

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start the clock of a reference set; where no bar is seen, say that it begins."""
        module, lines = module_of(pl_module), lines_of(trainer)
        if batch_idx == 0 or module.run.is_done(batch_idx, dataloader_idx):
            self._clock = time.perf_counter()
        if lines is not None and self._stage is None and not module.run.is_done(batch_idx, dataloader_idx):
            loaders: Any = trainer.predict_dataloaders
            sizes = loaders[dataloader_idx].dataset.batch_sizes
            name, done = module.data.reference_names[dataloader_idx], sum(sizes[:batch_idx])
            self._stage = lines.begin(f"attribution of {name}", sum(sizes), "samples", done)

    def after_batch(self, trainer: Trainer, module: SparC3Module, progress: SetProgress) -> None:
        """After a set's last batch, reduce its scores."""
        if self._stage is not None:
            self._stage.advance(progress.num_samples)
        if progress.is_finished:
            self._stage = None
            self._reduce(module, progress.name)
        now, seconds, stage = time.perf_counter(), module.run.seconds, f"attribution: {progress.name}"
        seconds[stage] = seconds.get(stage, 0.0) + now - self._clock
        self._clock = now

    def _reduce(self, module: SparC3Module, name: str) -> None:
        relevance, samples = module.attribution, module.data.reference_samples[name]
        assert relevance is not None
        data = data_of(samples, name)
        self._loop.end([module.run.main_key], relevance.reduce(len(samples)), data)
        relevance.reset()

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the rules: what follows runs the plain model."""
        self._leave(module_of(pl_module))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the rules whatever happened."""
        self._leave(module_of(pl_module))

    def _leave(self, module: SparC3Module) -> None:
        if module.attribution is not None:
            attribution, module.attribution = module.attribution, None
            attribution.__exit__()
