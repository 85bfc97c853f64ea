"""SparC3Module: a causal language model under Lightning - fit, validate, test, predict (attribution)."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparc3_lightning.data.batches import Batch
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.samples import Prompt
from sparc3_lightning.distributed.ranks import any_rank, from_rank_zero
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.passes import describe_passes
from sparc3_lightning.evaluation.responses import (
    PROBES,
    RESPONSES_FILE,
    ResponseStore,
    TextScores,
    named_base,
    score_once,
    score_texts_once,
)
from sparc3_lightning.lrp.attribution import Granularity
from sparc3_lightning.lrp.dispatch import Kernel
from sparc3_lightning.lrp.linear import Sign
from sparc3_lightning.lrp.rules import Variant
from sparc3_lightning.lrp.targets import NEXT_TOKEN, Explain
from sparc3_lightning.metrics.scorers import Scorer, scorer_setting
from sparc3_lightning.models.hf_directory import free_path, save_hf_directory
from sparc3_lightning.models.identity import base_model, tokenizer_hash, tokenizer_identity
from sparc3_lightning.models.load import DtypeName, build_model, context_length, load_model, load_tokenizer
from sparc3_lightning.models.sharding import data_parallel_mesh, load_sharded_model, shard_built_model, shard_model
from sparc3_lightning.optimizer import adamw
from sparc3_lightning.progress import announce, inform, keep_lines_whole, trainer_progress
from sparc3_lightning.pruning.apply import apply_recipe, check_all_go, check_recipe, zero_again_
from sparc3_lightning.pruning.weight_recipe import AnyRecipe, load_recipe
from sparc3_lightning.runs.run import Run
from sparc3_lightning.runs.signals import EXIT_CODE, StopSignals
from sparc3_lightning.runs.unfinished import mark_unfinished
from sparc3_lightning.scoring.gradient import RelevancePass
from sparc3_lightning.scoring.method import Scoring

_TEXTS_AT_ONCE = 256

# Fields of `data` that a stage reads; in `predict` the callbacks' `reads` as well.
_READS = {
    "fit": ("train_text", "val_text"),
    "validate": ("evaluation_text",),
    "test": ("evaluation_prompts", "evaluation_text"),
    "predict": ("reference_sets", "price"),
}


class SparC3Module(LightningModule):
    """A causal language model to train, to evaluate, and to attribute.

    Args:
        model: Hub id or Hugging Face directory; or None, with `config`, for random weights. The model itself, after
            `configure_model`.
        config: Fields of a Hugging Face config (with `model_type`), to start from random weights.
        tokenizer: Hub id or directory of the tokenizer; default: the model's. The tokenizer itself, after `setup`.
        revision: Revision on the hub, of the model and of a tokenizer in the same repository: a commit, branch or tag.
        tokenizer_revision: Revision of the tokenizer on the hub; default: `revision`, where both are of one repository.
        dtype: Type of the weights; "auto" is the checkpoint's own. Under FSDP2 with granularity "weight" the shards are
            kept in float32 and computed in this type.
        attn_implementation: Attention implementation, "sdpa" or "eager"; attribution refuses flash attention.
        granularity: "neuron" or "weight": what scores are kept of.
        sign: "abs" (the document) or "signed" (the paper).
        target: What is explained: "last_token_argmax", "token:ID" or "contrast:ID:ID"; or "next_token", what
            follows each sample in its text (of words, their first token).
        explain: "logit" of the target, or "logprob": minus logsumexp, so that what moves all logits is not explained.
        modules: Layers attributed: "neurons", "all" or name patterns.
        variant: Rules: "attnlrp" or "cp_lrp"; or "gradient", none: a baseline.
        kernel: What computes relevance: "auto" (the fused kernel on a GPU, in half precision), "eager" or "triton".
        activation_checkpointing: Less memory in attribution for one more forward pass; scores do not depend on it.
        recipe: Path of a recipe: in `fit` its neurons, or weights, are held at zero, in `validate` and `test` zeroed.
        evaluator: What `validate`, `test` and the evaluation callback measure, and how.
        trials_dir: Directory of what was measured, which runs may share: what one of them has measured with the same
            neurons (or weights) removed, model, prompts, text and evaluator is read by the others. Default: `trials` in
            the run's directory.
        lr: Peak learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        betas: Momenta of AdamW.
        warmup_steps: Steps of linear warm-up, before the cosine to zero.

    Attributes:
        log_dir: The run's directory, after `setup`.
        run: What the run has found.
        attribution: The attribution in progress, entered and left by the relevance callback.
        reads: Fields of `data` that the stage reads, its callbacks' `reads` included.
        named_runs: Directories of the configs that the command names: a run's own holds what its model responded.
        stop_signals: Notes whether this run is told to stop; set by the resume callback.
        is_resumable: Whether the same command goes on in the run's directory; set by the resume callback.
    """

    model: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    log_dir: Path
    _text_scores: TextScores

    def __init__(
        self,
        model: str | None = None,
        config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        dtype: DtypeName = "auto",
        attn_implementation: str | None = "sdpa",
        granularity: Granularity = "neuron",
        sign: Sign = "abs",
        target: str = "last_token_argmax",
        explain: Explain = "logit",
        modules: str | list[str] = "neurons",
        variant: Variant = "attnlrp",
        kernel: Kernel = "auto",
        activation_checkpointing: bool = False,
        recipe: str | None = None,
        evaluator: Evaluator | None = None,
        trials_dir: str | None = None,
        lr: float = 3e-4,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup_steps: int = 100,
    ) -> None:
        super().__init__()
        if (model is None) == (config is None):
            to_null = "" if model is None else ", such as `--model.config null` where a config file sets it"
            raise ValueError(
                f"exactly one of `model` and `config` must be given, got {model!r} and {config!r}. Set `model.model` "
                f"(or `model.config`), and the other to null{to_null}."
            )
        if model is None and tokenizer is None:
            raise ValueError("`tokenizer` must be set where the model comes from a `config`. Set `model.tokenizer`.")
        self.model = None
        self.model_name, self.model_config, self.revision = model, config, revision
        self.tokenizer_name = tokenizer or model
        self.tokenizer_revision = tokenizer_revision or (revision if self.tokenizer_name == model else None)
        self.dtype_name, self.attn_implementation = dtype, attn_implementation
        self.granularity, self.modules_to_attribute = granularity, modules
        self.attribution_options: dict[str, Any] = {
            "granularity": granularity, "sign": sign, "target": target, "explain": explain,
            "modules": modules, "variant": variant, "kernel": kernel,
            "activation_checkpointing": activation_checkpointing,
        }  # fmt: skip
        self.recipe_path = recipe
        self.evaluator, self.trials_dir = evaluator or Evaluator(), trials_dir
        self.lr, self.weight_decay, self.betas, self.warmup_steps = lr, weight_decay, betas, warmup_steps
        self.attribution: RelevancePass | None = None
        self._compute_dtype: torch.dtype | None = None
        self.run = Run()
        self.reads: list[str] = []
        self.named_runs: list[Path] = []
        self.stop_signals: StopSignals | None = None
        self.is_resumable = False
        self._unapplied: AnyRecipe | None = None
        self._is_pruned = False
        self._identity: dict[str, Any] | None = None
        self._responses: ResponseStore | None = None

    @property
    def lm(self) -> PreTrainedModel:
        """The model, which must be there by now."""
        assert self.model is not None, "configure_model has run"
        return self.model

    @property
    def weights_dtype(self) -> torch.dtype:
        """Type of the weights; of shards that are stored in float32 the one that they were loaded and compute in."""
        return self._compute_dtype or self.lm.dtype

    @property
    def max_length(self) -> int:
        """The model's context, in tokens."""
        return context_length(self.lm)

    @property
    def vocab_size(self) -> int:
        """Tokens that the model has."""
        return int(self.lm.config.vocab_size)

    def identity(self) -> dict[str, Any]:
        """Which model and tokenizer these are, for manifests and recipes; hashed once. Every rank must call."""
        assert self.tokenizer_name is not None
        if self._identity is None:
            tokenizer = tokenizer_identity(self.tokenizer_name, self.tokenizer_revision)
            with self.run.timed("weight hash"):
                self._identity = base_model(self.lm, self.model_name, self.revision, tokenizer)
        return self._identity

    def setup(self, stage: str) -> None:
        """Load the tokenizer; learn the run's directory, and the precision that the evaluator computes in."""
        command = next((name for name in ("predict", "test") if name == stage), None)  # Lightning's is an enum's
        if getattr(self.trainer, "fast_dev_run", False) and command is not None:
            raise ValueError(
                f"`trainer.fast_dev_run` is for `fit` and `validate`: `{command}` does all, or nothing. Set it to "
                "false; for a trial lower `num_samples` and `num_prompts`, or take configs/tiny/suppress.yaml."
            )
        # Lightning broadcasts it. Asked once, here, where every rank comes by: one rank that asks alone later would
        # wait for ever.
        self.log_dir = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        # In every command and callback alike: Lightning enters it around validation and test steps only.
        self.evaluator.precision = self.trainer.precision_plugin.forward_context
        assert self.tokenizer_name is not None
        self._identity = self._responses = None
        self._text_scores = TextScores(self.log_dir, self._beside)
        self.tokenizer = load_tokenizer(self.tokenizer_name, self.tokenizer_revision)
        self._check_what_is_read(stage)

    def _check_what_is_read(self, stage: str) -> None:
        """Data sets and the scorer: what is missing shows before the model is loaded."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, SparC3DataModule):
            return  # who asks for it refuses
        listed = self.trainer.callbacks if stage == "predict" else []  # type: ignore[attr-defined] # set from elsewhere
        self.reads = [*_READS[stage], *(name for callback in listed for name in getattr(callback, "reads", ()))]
        from_rank_zero(lambda: data.check(self.reads))
        if from_rank_zero(lambda: data.needs_scorer(self.reads)):
            self.evaluator.load_scorer()

    def configure_model(self) -> None:
        """Load or build the model once, shard it under FSDP2, check the recipe where there is one.

        It is applied when all data is there: the base model chooses the prompts.
        """
        if self.model is not None:
            return
        if self.recipe_path is not None and self.trainer.predicting:
            raise ValueError(
                "`recipe` must be null for `predict`: scores, recipe and evaluation would be those of a pruned model "
                f"under its base model's name, got {self.recipe_path!r}. Set `model.recipe: null`; or apply it "
                "(`sparc3 apply`) and attribute the directory."
            )
        announce(self.trainer, f"loading the model: {self.model_name or 'random weights'}")
        self.model = self._load(data_parallel_mesh(self.trainer.strategy, self.device_mesh))
        if self.recipe_path is not None:
            self.run.recipe = self._unapplied = load_recipe(self.recipe_path)
            check_recipe(self.model, self.run.recipe)

    def _apply_recipe(self) -> None:
        if self._unapplied is not None:
            apply_recipe(self.lm, self._unapplied, check_base=False)
            self._unapplied, self._is_pruned = None, True

    def _load(self, mesh: DeviceMesh | None) -> PreTrainedModel:
        options = (self.dtype_name, self.attn_implementation)
        if self.model_config is not None:
            model = build_model(self.model_config, len(self.tokenizer), *options)
            return model if mesh is None else shard_built_model(model, partial(self._shard, mesh=mesh))
        assert self.model_name is not None
        if mesh is None:
            return load_model(self.model_name, self.revision, *options)
        device, shard = self.trainer.strategy.root_device, partial(self._shard, mesh=mesh)
        return load_sharded_model(self.model_name, shard, device, self.revision, *options)

    def _shard(self, model: PreTrainedModel, mesh: DeviceMesh) -> None:
        self._compute_dtype = shard_model(model, mesh, self.granularity == "weight", self.trainer.predicting)

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        """The model's own forward."""
        return self.lm(input_ids=input_ids, **kwargs)

    # fit

    def on_fit_start(self) -> None:
        """Models are loaded in eval mode. A recipe that dampens is refused: its neurons could not be held there."""
        if self.run.recipe is not None:
            check_all_go(self.run.recipe)
        self._apply_recipe()
        self.lm.train()

    def on_train_start(self) -> None:
        """The bar is there by now."""
        keep_lines_whole(self.trainer)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Causal language-model loss of one batch of blocks."""
        loss: Tensor = self.lm(**batch, use_cache=False).loss
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Hold what the recipe removes at zero."""
        if self.run.recipe is not None:
            zero_again_(self.lm, self.run.recipe)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW without decay on norms and biases, linear warm-up, cosine to zero."""
        options = (self.lr, self.weight_decay, self.betas, self.warmup_steps)
        optimizer, schedule = adamw(self.lm, int(self.trainer.estimated_stepping_batches), *options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def save_trained(self) -> None:
        """Write the trained model as a Hugging Face directory, `model/` in the run's directory, and say where.

        A recipe that was held at zero is written with it. Nothing is overwritten: a second model in one
        directory is `model_1/`. Every rank must call. A trial run (`fast_dev_run`) writes nothing.
        """
        if getattr(self.trainer, "fast_dev_run", False):
            return
        directory = from_rank_zero(lambda: free_path(self.log_dir / "model"))
        recipe = self.run.recipe
        save_hf_directory(self.lm, self.tokenizer, directory, describe=None if recipe is None else recipe.save)
        if self.trainer.is_global_zero:
            print(f"trained model: {directory}")

    # validate, test

    def on_validation_start(self) -> None:
        """Apply the recipe."""
        self._apply_recipe()

    def on_test_start(self) -> None:
        """Apply the recipe."""
        self._apply_recipe()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Perplexity of the evaluation text; the one batch is empty, the evaluator loops over the text itself."""
        rows = self.data.val_rows if self.trainer.state.fn == "fit" else self.data.text_rows
        if not rows:
            raise ValueError("perplexity needs a text, got none. Set `data.evaluation_text`.")
        for name, result in self.evaluator.perplexity(self.lm, self.tokenizer, rows, self.progress).items():
            # Not on the bar, which has no room for it in a terminal of 80 columns.
            self.log(f"perplexity/{name}", result.perplexity, sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """The full evaluation, without a recipe (baseline) or with one (pruned); the evaluation callback writes it."""
        data = self.data
        if not data.text_rows and not data.prompts:
            raise ValueError(
                "an evaluation needs prompts or a text, got neither. Set `data.evaluation_prompts` or "
                "`data.evaluation_text`."
            )
        passes = self.evaluator.check(self.lm, self.tokenizer, data.text_rows, data.prompts)
        inform(self.trainer, describe_passes(passes))
        evaluation = self.evaluator.evaluate(self.lm, self.tokenizer, data.text_rows, data.prompts, self.progress)
        if self.run.recipe is None:
            self.run.baseline = evaluation
        else:
            self.run.pruned = evaluation
        # Equal on every rank; without the flag Lightning warns that they might not be.
        self.log_dict(evaluation.scalars(), sync_dist=True)

    # predict

    def scoring(self, **more: Any) -> Scoring:
        """What methods that score this model have in common, by this module's options.

        Args:
            **more: Options that other methods have.
        """
        options: dict[str, Any] = {
            name: value for name, value in self.attribution_options.items() if name not in ("sign", "variant")
        }
        return Scoring(
            model=self.lm, identity=self.run.base_model, tokenizer_hash=tokenizer_hash(self.tokenizer),
            model_dtype=self.weights_dtype, **options, **more,
        )  # fmt: skip

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Attribute one batch; relevance goes to the attribution's sums.

        Returns:
            The explained token ids; none of a batch that was done before the run was interrupted.

        Shape: batch as `data.batches.Batch`; result (B,).
        """
        if self.run.is_done(batch_idx, dataloader_idx):
            return batch["indices"].new_empty(0)
        if self.attribution is None:
            raise ValueError(
                "predict attributes only while the rules are on, got no relevance callback. Add "
                "`callbacks.RelevanceCallback` to `trainer.callbacks`."
            )
        return self.attribution.step(batch)

    # what callbacks and the data module ask for

    @property
    def data(self) -> SparC3DataModule:
        """The data module of the run.

        Raises:
            ValueError: The trainer has none, or another.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, SparC3DataModule):
            raise ValueError(f"the trainer's data must be a SparC3DataModule, got {type(data).__name__}. Set `data`.")
        return data

    def progress(self, items: Iterable[Any], total: int, description: str, prefix: str = "") -> Iterable[Any]:
        """Lightning's own progress bar around a loop that is not Lightning's; lines where no bar is seen."""
        return trainer_progress(self.trainer, items, total, f"{prefix} {description}".strip())

    @property
    def explains_next_token(self) -> bool:
        """Whether each sample says itself what is explained."""
        return bool(self.attribution_options["target"] == NEXT_TOKEN)

    def score_responses(self, prompts: Sequence[Prompt]) -> list[float]:
        """Scores of the base model's own completions, to choose prompts by.

        Each is generated once: they are kept in the run's `responses.json`, and found there, in the other runs of the
        logger's directory, and beside the config, the recipe and the model that the command names.

        Raises:
            ValueError: The rules are on; or the model is pruned, and its base model's are not all known.
            SystemExit: The run is told to stop; what was scored before is kept.
        """
        if self.attribution is not None or self._is_pruned:
            raise ValueError(
                "the base model chooses prompts before the rules are on or a recipe is applied, got asked after that: "
                "a callback that needs `data.prompts` must say so by `reads`."
            )
        with self.stop_signals.alone() if self.stop_signals is not None else nullcontext():
            self._stop_if_told()
            scores = score_once(prompts, self._response_store(), self._respond)
            self._stop_if_told()
        return scores

    def score_texts(
        self, texts: Sequence[str], scorer: Scorer | None = None, attribute: str | None = None
    ) -> list[float]:
        """Scores of texts by a scorer's attribute (None: the main one, the evaluator's), to choose words by; on rank 0.

        They are kept, and found again, as those of responses are.

        Raises:
            SystemExit: This process is told to stop; what was scored before is kept.
        """
        scorer = scorer or self.evaluator.load_scorer()
        scores, store = list[float](), self._text_scores.store_of(scorer, attribute)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            # The other ranks do not ask: they wait for this one, and hear of it.
            if self.stop_signals is not None and self.stop_signals.received is not None:
                raise SystemExit(EXIT_CODE)
            scores += score_texts_once(texts[start : start + _TEXTS_AT_ONCE], store, scorer, attribute)
            if self.is_resumable:
                mark_unfinished(self.log_dir)
        return scores

    def _respond(self, prompts: Sequence[Prompt]) -> list[float]:
        found, wanted = self.identity()["weight_hash"], self._base_hash()
        if found != wanted:
            raise ValueError(
                f"the base model (weight hash {wanted[:12]}) chooses prompts by its responses, got a pruned one "
                f"({found[:12]}), and no responses of the base model. Test the base model with `model.recipe`, or give "
                "the config of the run that pruned it."
            )

        def stoppable(items: Iterable[Any], total: int, description: str) -> Iterator[Any]:
            for item in self.progress(items, total, description, "choose prompts:"):
                self._stop_if_told()
                yield item

        scores = self.evaluator.score_responses(self.lm, self.tokenizer, prompts, stoppable)
        if self.is_resumable:
            from_rank_zero(lambda: mark_unfinished(self.log_dir))
        return scores

    def _stop_if_told(self) -> None:
        if self.stop_signals is not None and any_rank([self.stop_signals.received is not None], self.device)[0]:
            raise SystemExit(EXIT_CODE)

    def _base_hash(self) -> str:
        recipe = self.run.recipe.base_model.get("weight_hash") if self.run.recipe is not None else None
        return str(recipe or named_base(self.model_name) or self.identity()["weight_hash"])

    def _response_store(self) -> ResponseStore:
        if self._responses is None:
            made_by = {
                "model": self._base_hash(),
                "dtype": str(self.weights_dtype),
                "attn_implementation": self.attn_implementation,
                "precision": str(self.trainer.precision),
                "tokenizer": tokenizer_hash(self.tokenizer),
                "decoding": self.evaluator.response_decoding.setting(),
                "scorer": scorer_setting(self.evaluator.load_scorer(), PROBES),
            }
            self._responses = ResponseStore(self.log_dir / RESPONSES_FILE, made_by, self._beside(RESPONSES_FILE))
        return self._responses

    def _beside(self, name: str) -> list[Path]:
        """Files of this name in other runs' directories."""
        named = [Path(name) for name in (self.recipe_path, self.model_name) if name is not None]
        beside = [*self.named_runs, *named, *(path.parent for path in named)]
        root = getattr(self.trainer.logger, "root_dir", None)
        siblings = [] if root is None else sorted(Path(root).glob(f"*/{name}"))
        return [*siblings, *(directory / name for directory in beside)]
