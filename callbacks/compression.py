"""Compression: weights removed row by row by several methods, each compressed model evaluated and restored."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from callbacks.base import RunCallback
from callbacks.evaluation import baseline_of, trials_of, write_page
from callbacks.relevance import RelevanceCallback
from callbacks.score_writer import check_scores_are_whole
from sparc3_lightning.data.batches import Batch
from sparc3_lightning.distributed.ranks import from_rank_zero
from sparc3_lightning.evaluation.passes import describe_passes
from sparc3_lightning.evaluation.records import Evaluation
from sparc3_lightning.lrp.linear import SIGNS
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.hf_directory import free_path
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.progress import inform
from sparc3_lightning.pruning.save import save_compressed_model
from sparc3_lightning.pruning.weight_scores import (
    COMPRESSION_METHODS,
    WeightScores,
    check_scored,
    compression_keys,
    joined,
    relevance_keys,
)
from sparc3_lightning.report.terminal import print_experiment
from sparc3_lightning.report.trial_figures import write_compression
from sparc3_lightning.scoring.combine import described_set
from sparc3_lightning.trials.compress import (
    Compressed,
    Compression,
    compression_rows,
    plan_compressions,
    share_removed,
    trial_of,
    write_results,
)
from sparc3_lightning.trials.trial import check_one_is_done, run_trials


class CompressionCallback(RunCallback):
    """Compresses the model by every method at every sparsity after attribution; writes `compression/`, and the page.

    Weights compete within their row, in all linear layers but lm_head; the lowest go. Every method scores by the
    samples under `data.general`. List it after the relevance callback, the score writer and, where other gradient-based
    methods than the run's own take part, the baseline callback.

    Args:
        methods: `lrp`, `cp_lrp`, `gradient`, `wanda`, `wanda_sequential` (as published), `magnitude`, `random`.
        sparsities: Shares of each row that go, above 0 and below 1; default: 0.1 to 0.7.
        pattern: "2:4" or another N:M, quoted in YAML: also masks in which of every M consecutive inputs N stay.
        signs: "signed" (the paper), "abs" or both, of the gradient-based methods; by the magnitude of the mean score.
        against: Key of the method that the others are compared with at equal sparsity, where it is one of them.
        seed: Seed of `random`.
        save: Also save this one as a Hugging Face directory, `compressed_model/`.
    """

    after = (RelevanceCallback,)
    reads = ("evaluation_text",)

    def __init__(
        self,
        methods: list[str],
        sparsities: list[float] | None = None,
        pattern: str | None = None,
        signs: list[str] | None = None,
        against: str = "wanda_sequential",
        seed: int = 0,
        save: Compression | None = None,
    ) -> None:
        self.keys = compression_keys(methods, ["signed"] if signs is None else signs)
        shares = [number / 10 for number in range(1, 8)] if sparsities is None else sparsities
        self.compressions = plan_compressions(self.keys, shares, pattern, save)
        if against not in (known := compression_keys(COMPRESSION_METHODS, SIGNS)):
            raise ValueError(
                f"`against` must be one of {known}, got {against!r}. Set `CompressionCallback.init_args.against`."
            )
        self.against, self.seed, self.save = against, seed, save
        self._rows: list[dict[str, Any]] = []

    def check(self, trainer: Trainer, module: SparC3Module) -> None:
        """Refuse before hours of attribution what would fail after them."""
        check_scores_are_whole(trainer, module)
        self._general(module)
        if not module.data.text_rows:
            raise ValueError("compression is judged by perplexity, which needs a text. Set `data.evaluation_text`.")
        passes = module.evaluator.check(module.lm, module.tokenizer, module.data.text_rows, None)
        num = len(self.compressions)
        inform(trainer, describe_passes(passes, 1 + num, f"baseline, {num} compressed"))
        layers, run = get_family(module.lm.config.model_type).block_linears(module.lm), module.run
        check_scored(relevance_keys(self.keys), run.scores, module.granularity, layers, run.expected_modules)
        for compression in self.compressions:
            share_removed(layers, compression.amount)

    def finish(self, trainer: Trainer, module: SparC3Module) -> None:
        """Compress, evaluate, restore; write the results after each, tables and figures in the end."""
        run, directory = module.run, module.log_dir / "compression"
        scores = self._scores(trainer, module)
        described = {
            "base_model": run.base_model,
            "general": [described_set(run.score_sets[name]) for name in self._general(module)],
            "methods": {key: scores.options(key) for key in self.keys},
        }
        hashes = [module.data.reference_samples[name].token_hash for name in self._general(module)]
        baseline = baseline_of(module)
        trials, done = trials_of(module, with_prompts=False), list[Compressed]()
        planned = [trial_of(compression, scores, hashes, trials.name) for compression in self.compressions]
        with run.timed("compression"):
            for one in run_trials(planned, trials, _keep, module.progress, "compression"):
                done.append(one)
                from_rank_zero(partial(write_results, directory, described, baseline, done))
        run.compression = compression_rows(baseline, done, self.against, module.evaluator.paired_test)
        from_rank_zero(lambda: self._write(module, directory))
        if self.save is not None:
            with run.timed("compression"):
                self._save(module, scores, self.save)
        check_one_is_done(done, "compressed models")

    def _write(self, module: SparC3Module, directory: Path) -> None:
        write_compression(module.run.compression, self.against, directory)
        write_page(module)

    def _save(self, module: SparC3Module, scores: WeightScores, chosen: Compression) -> None:
        general = [described_set(module.run.score_sets[name]) for name in self._general(module)]
        save_compressed_model(
            module.lm,
            scores.masks(chosen.method, chosen.amount),
            module.tokenizer,
            from_rank_zero(lambda: free_path(module.log_dir / "compressed_model")),
            module.run.base_model,
            share_removed(scores.layers, chosen.amount),
            {**scores.options(chosen.method), **chosen.options(), "general": general},
            module.weights_dtype,
        )

    def _general(self, module: SparC3Module) -> list[str]:
        if not module.data.general:
            raise ValueError("compression scores weights by general samples, got none. Set `data.general`.")
        return list(module.data.general)

    def _scores(self, trainer: Trainer, module: SparC3Module) -> WeightScores:
        run, general = module.run, self._general(module)
        found = {key: [run.scores[key].sets[name] for name in general] for key in relevance_keys(self.keys)}
        num_samples = sum(len(module.data.reference_samples[name]) for name in general)
        batches, precision = partial(self._batches, trainer, module), trainer.precision_plugin.predict_step_context
        return WeightScores(module.lm, found, batches, num_samples, self.seed, precision)

    def _batches(self, trainer: Trainer, module: SparC3Module) -> Iterable[Batch]:
        data = module.data
        loaders = dict(zip(data.reference_names, data.predict_dataloader(), strict=True))
        to_device = trainer.strategy.batch_to_device
        sets = [(map(to_device, loaders[name]), len(data.reference_samples[name])) for name in self._general(module)]
        return joined(sets)

    def show(self, module: SparC3Module, stage: str) -> None:
        """Print the tables."""
        if module.run.compression:
            print_experiment("compression", module.log_dir / "compression")


def _keep(one: Compressed, evaluation: Evaluation) -> None:
    one.evaluation = evaluation
