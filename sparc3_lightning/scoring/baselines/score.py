"""Score reference sets by several methods: one pass a set for all forward statistics, one a gradient-based method."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.data.batches import PADDING, Batch
from sparc3_lightning.distributed.fsdp import check_accumulates, reshard
from sparc3_lightning.distributed.ranks import is_rank_zero, raise_together
from sparc3_lightning.distributed.reduce import reduce_scores
from sparc3_lightning.families import get_family
from sparc3_lightning.identity import base_model
from sparc3_lightning.lrp.attribute import attribution_options
from sparc3_lightning.lrp.attribution import Attribution, Granularity
from sparc3_lightning.lrp.dispatch import Kernel
from sparc3_lightning.lrp.linear import Sign
from sparc3_lightning.lrp.modules import select_modules
from sparc3_lightning.scoring.baselines.formulas import (
    TIES,
    TIES_OF_HALVES,
    auroc,
    magnitude_scores,
    random_scores,
    wanda_scores,
)
from sparc3_lightning.scoring.baselines.found import MethodScores
from sparc3_lightning.scoring.baselines.methods import METHODS
from sparc3_lightning.scoring.baselines.sequential import sequential_wanda
from sparc3_lightning.scoring.baselines.statistics import ForwardStatistics, SetStatistics
from sparc3_lightning.scoring.baselines.weights import score_shapes, scores_of_weights
from sparc3_lightning.scoring.checks import check_scores
from sparc3_lightning.scoring.manifest import Options, make_manifest
from sparc3_lightning.scoring.score_set import ScoreSet

Batches = Callable[[str], Iterable[Batch]]
"""`batches(description)` gives this rank's batches of a reference set, on the model's device, from the start."""
Keep = Callable[[str, str, ScoreSet], ScoreSet]
"""`keep(key, name, scores)` takes what a method has found of a set ("" for a ranking), and gives what to go on with."""


class BaselineScorer:
    """Scores one reference set after the other by several methods; `finish` gives what all of them found.

    Every rank must call every method. Scores of neurons are on rank 0; those of weights are shared out over the ranks,
    until `distributed.saving.save_together` puts them together.

    Args:
        model: A causal language model of a known family, whole, replicated or sharded (FSDP2); the rules are off.
        methods: Method and sign by key; see `expand_methods`.
        granularity: "neuron" or "weight".
        modules: Which layers; see `select_modules`. `activation` and `auroc` always score all neurons.
        target: What gradient-based methods explain.
        kernel: See `Attribution`, and
        activation_checkpointing: too; for the gradient-based methods.
        general: Names of the general sets, and
        behaviour: of the behaviour's; for `auroc`.
        seed: Seed of `random`.
        sparsity: Share of each row that `wanda_sequential` removes.
        identity: The model's, where it is known already; see `identity.base_model`.
        tokenizer_hash: For the manifests.
        model_dtype: Type that the model computes in, where that is not the type its weights are stored in.
        keep: Takes each set as soon as it is scored: written, it need not stay in memory. Every rank asks it.

    Raises:
        ValueError: An unknown method, sign or option.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        methods: Mapping[str, tuple[str, str]],
        *,
        granularity: Granularity = "neuron",
        modules: str | Sequence[str] = "neurons",
        target: str = "last_token_argmax",
        kernel: Kernel = "auto",
        activation_checkpointing: bool = False,
        general: Sequence[str] = (),
        behaviour: str | None = None,
        seed: int = 0,
        sparsity: float = 0.5,
        identity: dict[str, Any] | None = None,
        tokenizer_hash: str | None = None,
        model_dtype: torch.dtype | None = None,
        keep: Keep = lambda key, name, scores: scores,
    ) -> None:
        self.model, self.granularity, self.modules, self.target = model, granularity, modules, target
        self.kernel, self.activation_checkpointing = kernel, activation_checkpointing
        self.keys = dict(methods)
        self.general, self.behaviour, self.seed, self.sparsity = list(general), behaviour, seed, sparsity
        if "auroc" in methods and (behaviour is None or not general):
            raise ValueError(
                "method 'auroc' needs to know which sets are general and which is the behaviour's. Set "
                "`BaselineCallback.init_args.general` and `BaselineCallback.init_args.behaviour`."
            )
        self.names, self.left_out = select_modules(model, modules)
        self.neurons = get_family(model.config.model_type).neuron_modules(model)
        self.identity = identity or base_model(model)
        self.tokenizer_hash, self.model_dtype = tokenizer_hash, model_dtype or model.dtype
        self.keep, self.found = keep, {key: MethodScores() for key in self.keys}
        self._maxima: dict[str, dict[str, Tensor]] = {}
        self._described: dict[str, dict[str, Any]] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def _needing(self, need: str) -> list[str]:
        return [key for key, (method, _) in self.keys.items() if METHODS[method].needs == need]

    def score(self, name: str, data: dict[str, Any], batches: Batches) -> None:
        """Score one reference set by every method that looks at it.

        Args:
            name: Of the set.
            data: What its manifests say of it, with `num_samples`.
            batches: This rank's batches, as often as they are asked for.

        Raises:
            FloatingPointError: A gradient-based method found a value that is not finite.
            ValueError: Samples are missing or came twice; scores that cannot be right.
        """
        data = {"name": name, **data}
        if any(METHODS[method].needs for method, _ in self.keys.values()):
            self._forward(name, data, batches)
        if "wanda_sequential" in self.keys:
            scores = sequential_wanda(self.model, batches("wanda_sequential"), data["num_samples"], self.sparsity)
            self._keep("wanda_sequential", data, _of_rank_zero(scores))
        for key, (method, sign) in self.keys.items():
            if METHODS[method].variant is not None:
                self._attribute(key, method, cast(Sign, sign), data, batches)

    def _forward(self, name: str, data: dict[str, Any], batches: Batches) -> None:
        inputs = self.names if self._needing("inputs") else []
        needs_activations, needs_maxima = bool(self._needing("activations")), bool(self._needing("maxima"))
        reshard(self.model)
        with ForwardStatistics(self.model, inputs, needs_activations, needs_maxima) as statistics:
            for batch in batches("forward statistics"):
                statistics.step(batch)
            found = statistics.reduce(data["num_samples"])
        for key in self._needing("inputs"):
            self._keep(key, data, self._wanda(found, is_mean=key == "wanda_mean"))
        for key in self._needing("activations"):
            means = {layer: total / found.num_tokens for layer, total in found.activation_sums.items()}
            self._keep(key, data, _of_rank_zero(means))
        if needs_maxima:
            self._maxima[name] = found.maxima
            self._described[name] = data

    def _wanda(self, found: SetStatistics, is_mean: bool) -> dict[str, Tensor]:
        by_neuron, norms = self.granularity == "neuron", found.squared_norms
        divisor = found.num_samples if is_mean else 1
        return scores_of_weights(
            self.model,
            self.names,
            by_neuron,
            lambda name, weight: wanda_scores(weight, norms[name] / divisor, by_neuron),
        )

    def _attribute(self, key: str, method: str, sign: Sign, data: dict[str, Any], batches: Batches) -> None:
        reshard(self.model)
        variant = METHODS[method].variant
        assert variant is not None
        attribution = Attribution(
            self.model, granularity=self.granularity, sign=sign, target=self.target, modules=self.modules,
            variant=variant, kernel=self.kernel, activation_checkpointing=self.activation_checkpointing,
        )  # fmt: skip
        check_accumulates(attribution)
        explained: list[Tensor] = []
        with attribution:
            for batch in batches(key):
                step = partial(attribution.step, batch["input_ids"], batch["lengths"], batch["weights"])
                ids = raise_together(step, FloatingPointError, self.device)
                # They stay on the device until the set ends: a copy to the host would wait for the batch.
                explained.append(torch.stack([batch["indices"].to(ids), ids]))
            pairs = torch.cat(explained, dim=1).T.tolist()
            seen = [(index, target_id) for index, target_id in pairs if index != PADDING]
            reduced = reduce_scores(attribution, seen, data["num_samples"])
        options = attribution_options(attribution, self.modules)
        name, data = data["name"], {**data, "target_ids": reduced.target_ids}
        # Only relevance is in logits.
        self._take(key, name, self._score_set(options, data, reduced.scores, reduced.total))

    def _keep(self, key: str, data: dict[str, Any], scores: Mapping[str, Tensor]) -> None:
        raise_together(lambda: check_scores(scores, self.keys[key][1]), ValueError, self.device)
        self._take(key, data["name"], self._score_set(self._options(key), data, scores))

    def _take(self, key: str, name: str, scores: ScoreSet) -> None:
        self.found[key].sets[name] = self.keep(key, name, scores)

    def _options(self, key: str) -> Options:
        method, sign = self.keys[key]
        modules = self.modules if isinstance(self.modules, str) else list(self.modules)
        options = Options(method=method, sign=sign, granularity=self.granularity, modules=modules)
        if METHODS[method].neurons_only:
            options["granularity"], options["modules"] = "neuron", "neurons"
        if method == "wanda_sequential":
            options["granularity"], options["modules"], options["sparsity"] = "weight", "blocks", self.sparsity
        return options

    def _score_set(
        self, options: Options, data: dict[str, Any], scores: Mapping[str, Tensor], total: float | None = None
    ) -> ScoreSet:
        manifest = make_manifest(
            base_model=self.identity,
            options=options,
            left_out=self.left_out,
            data=data,
            model_dtype=str(self.model_dtype).removeprefix("torch."),
            relevance_per_sample=total,
            tokenizer_hash=self.tokenizer_hash,
        )
        return ScoreSet(scores, manifest)

    def finish(self) -> dict[str, MethodScores]:
        """All that was found, rankings included, by the key of the method."""
        rankings = {"auroc": self._auroc, "magnitude": self._magnitude, "random": self._random}
        for key, rank in rankings.items():
            if key in self.keys:
                self.found[key].ranking = self.keep(key, "", rank())
        return self.found

    def _magnitude(self) -> ScoreSet:
        by_neuron = self.granularity == "neuron"
        scores = scores_of_weights(
            self.model, self.names, by_neuron, lambda _, weight: magnitude_scores(weight, by_neuron)
        )
        return self._ranking(self._options("magnitude"), scores)

    def _random(self) -> ScoreSet:
        options = self._options("random")
        options["seed"] = self.seed
        shapes = score_shapes(self.model, self.names, self.granularity == "neuron")
        drawn = random_scores(shapes, self.seed)
        # Of weights each rank draws its own share when it writes them.
        return self._ranking(options, drawn if self.granularity == "weight" else _of_rank_zero(dict(drawn)))

    def _auroc(self) -> ScoreSet:
        assert self.behaviour is not None
        behaviour, general = self._maxima[self.behaviour], [self._maxima[name] for name in self.general]
        ties = TIES.get(self.model_dtype, TIES_OF_HALVES)
        scores = {
            name: 0.5 - auroc(behaviour[name], torch.cat([maxima[name] for maxima in general]), ties)
            for name in self.neurons
        }
        ranking = self._ranking(self._options("auroc"), _of_rank_zero(scores))
        # Below 0 means specific to the behaviour, as in a differential.
        ranking.manifest["kind"] = "differential"
        ranking.manifest["inputs"] = {
            "general": [self._described[name] for name in self.general],
            "behaviour": self._described[self.behaviour],
        }
        return ranking

    def _ranking(self, options: Options, scores: Mapping[str, Tensor]) -> ScoreSet:
        ranking = self._score_set(options, {}, scores)
        ranking.manifest["kind"] = "ranking"
        del ranking.manifest["data"]
        return ranking


def _of_rank_zero(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """What every rank has made belongs to rank 0."""
    return scores if is_rank_zero() else {}
