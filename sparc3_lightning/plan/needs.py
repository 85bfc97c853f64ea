"""What a run is going to do, read from its config: how it is set, what it scores, how often it evaluates."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback

from callbacks import (
    BaselineCallback,
    CircuitCallback,
    CompressionCallback,
    EvaluationCallback,
    PruningCallback,
    ResumeCallback,
    SweepCallback,
)
from sparc3_lightning.data.c4 import C4
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.tasks import held_out_sets, tasks_of
from sparc3_lightning.data.words import WordSet
from sparc3_lightning.metrics.perplexity import PerplexityProtocol
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.pruning.aims import aims_of
from sparc3_lightning.scoring.method import Method, Ranking
from sparc3_lightning.scoring.registry import METHODS, gradient_method, method_key
from sparc3_lightning.trials import CONTROL
from sparc3_lightning.trials.screening import Screen

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_SINGLE = ("auto", "SingleDeviceStrategy")
_SHARDED = ("ModelParallelStrategy",)
_REPLICATED = ("DDPStrategy",)
_BYTES_A_TOKEN = 4


@dataclass(frozen=True)
class PlannedSet:
    """One reference set.

    Attributes:
        name: Its name.
        num_samples: How many; None where the config does not say.
        tokens: Length of each; None where the config does not say.
    """

    name: str
    num_samples: int | None
    tokens: int | None


@dataclass(frozen=True)
class Evaluated:
    """What one evaluation reads, and how.

    Attributes:
        text_tokens: Tokens of the text; None where nothing says, 0 where there is none.
        num_prompts: Prompts; None where the config does not say, 0 where there are none.
        protocols: Names of the perplexities.
        window: Tokens of a window of the perplexity.
        stride: Tokens between two `sliding` windows; None for the evaluator's own.
        num_completions: Completions a prompt.
        max_new_tokens: Their length.
        batch_size: Most windows or completions in one forward pass, and
        max_tokens: Most tokens.
        shared_bytes: Most memory for what blocks of the unchanged model gave.
    """

    text_tokens: int | None = 0
    num_prompts: int | None = 0
    protocols: tuple[PerplexityProtocol, ...] = ()
    window: int = 2048
    stride: int | None = None
    num_completions: int = 1
    max_new_tokens: int = 50
    batch_size: int = 256
    max_tokens: int = 16_384
    shared_bytes: float = 0.0


@dataclass(frozen=True)
class Pass:
    """Passes over all samples of the reference sets beside the run's own attribution.

    Attributes:
        name: What they are for.
        attributions: How many are attributions, and
        forward_passes: How many forward passes alone.
    """

    name: str
    attributions: int = 0
    forward_passes: int = 0


@dataclass(frozen=True)
class Trials:
    """Evaluations of one kind.

    Attributes:
        name: What is evaluated.
        number: How many models, at most: those that lose the same neurons are evaluated once.
        with_prompts: By completions too, not by the text alone.
    """

    name: str
    number: int
    with_prompts: bool = True


@dataclass(frozen=True)
class Settings:
    """The run.

    Attributes:
        strategy: "single", "replicated" or "FSDP2".
        ranks_per_node: Processes a node, one a GPU.
        num_nodes: Nodes.
        dtype: Type that is computed in.
        granularity: "neuron" or "weight".
        modules: Layers attributed.
        batch_size: Most samples a batch.
        max_tokens: Most tokens a batch; None: no limit.
        variant: The rules.
        sets: The reference sets.
        has_differential: The run takes the differential of its sets.
        saves_model: It saves the pruned or a compressed model.
        saves_state: It saves a state to resume from.
        checkpoints_activations: Blocks keep their input only, and run again in the backward pass.
        passes: What else scores the sets.
        screen: What candidates are verified by; None where they are not.
        screened_by: The behaviour whose completions they are verified on; None where its words are.
        num_recipes: Recipes that are made: of several behaviours one each, or more.
        num_neurons: How many are chosen at most, in each.
        compressed_by: Methods that models are compressed by, by their keys.
        trials: What is evaluated.
        evaluated: On what.
        accelerator: What the config runs on.
        warnings: What the run would refuse.
    """

    strategy: str
    ranks_per_node: int
    num_nodes: int
    dtype: str
    granularity: str
    modules: str | list[str]
    batch_size: int
    max_tokens: int | None
    variant: str = "attnlrp"
    sets: tuple[PlannedSet, ...] = ()
    has_differential: bool = False
    saves_model: bool = False
    saves_state: bool = False
    checkpoints_activations: bool = False
    passes: tuple[Pass, ...] = ()
    screen: Screen | None = None
    screened_by: str | None = None
    num_recipes: int = 1
    num_neurons: int = 0
    compressed_by: tuple[str, ...] = ()
    trials: tuple[Trials, ...] = ()
    evaluated: Evaluated = Evaluated()
    accelerator: str = "auto"
    warnings: tuple[str, ...] = ()

    @property
    def num_ranks(self) -> int:
        """Processes of the run, W."""
        return self.ranks_per_node * self.num_nodes

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP2 shards the model."""
        return self.strategy == "FSDP2"

    @property
    def num_shards(self) -> int:
        """Ranks that the parameters are spread over."""
        return self.num_ranks if self.is_sharded else 1

    @property
    def reduced_by_fsdp(self) -> bool:
        """Whether relevance is a sharded gradient (method.md, section 5)."""
        return self.is_sharded and self.granularity == "weight"

    @property
    def itemsize(self) -> int:
        """Bytes a number that is computed in."""
        return ITEMSIZE[self.dtype]

    def samples_a_batch(self, tokens: int, num_samples: int) -> int:
        """Samples of one batch on one rank, of a set of so many that are `tokens` long."""
        return min(_that_fit(tokens, self.batch_size, self.max_tokens), math.ceil(num_samples / self.num_ranks))

    def windows_a_batch(self, tokens: int) -> int:
        """Windows of `tokens`, or completions, in one forward pass of the evaluation."""
        return _that_fit(tokens, self.evaluated.batch_size, self.evaluated.max_tokens)


def _that_fit(tokens: int, batch_size: int, max_tokens: int | None) -> int:
    """Rows of `tokens` each that make a batch."""
    return batch_size if max_tokens is None else min(batch_size, max(1, max_tokens // tokens))


def settings_of(
    trainer: Mapping[str, Any],
    callbacks: Sequence[Callback],
    module: SparC3Module,
    data: SparC3DataModule,
    checkpoint_dtype: str,
) -> Settings:
    """Read the settings of a run.

    Args:
        trainer: The config's group `trainer`, every default in it.
        callbacks: What it lists.
        module: The config's model, not loaded.
        data: The config's data, not read.
        checkpoint_dtype: Type of the checkpoint's weights.

    Raises:
        ValueError: An option that a plan needs is missing.
    """
    devices, num_nodes = _devices(trainer["devices"]), int(trainer["num_nodes"])
    strategy, warnings = _strategy(trainer["strategy"], devices * num_nodes)
    kinds = [type(callback) for callback in callbacks]
    pruning = [callback for callback in callbacks if isinstance(callback, PruningCallback)]
    options = module.attribution_options
    return Settings(
        strategy=strategy,
        ranks_per_node=devices,
        num_nodes=num_nodes,
        dtype=checkpoint_dtype if module.dtype_name == "auto" else module.dtype_name,
        granularity=options["granularity"],
        modules=options["modules"],
        variant=options["variant"],
        batch_size=data.batch_size,
        max_tokens=data.max_tokens,
        sets=tuple(_planned(name, one, data.reference_sets) for name, one in data.reference_sets.items()),
        has_differential=PruningCallback in kinds,
        saves_model=any(getattr(one, "save_model", None) or getattr(one, "save", None) for one in callbacks),
        saves_state=ResumeCallback in kinds,
        checkpoints_activations=options["activation_checkpointing"],
        passes=tuple(_passes(callbacks, method_key(gradient_method(options["variant"]).name, options["sign"]), data)),
        screen=next((one.screen for one in pruning), None),
        num_recipes=_num_recipes(callbacks, data),
        # Of a set of prompts nothing is known to follow.
        screened_by=next((name for name, one in (data.behaviours or {}).items() if not _has_words(one)), None),
        num_neurons=max((_num_chosen(one) for one in pruning), default=0),
        compressed_by=tuple(key for one in callbacks if isinstance(one, CompressionCallback) for key in one.keys),
        trials=tuple(_trials(callbacks, data)),
        evaluated=_evaluated(module, data),
        accelerator=str(trainer["accelerator"]),
        warnings=warnings,
    )


def _num_chosen(pruning: PruningCallback) -> int:
    """How many a screen chooses at most: of single weights' rows all candidates."""
    return pruning.num_neurons or (pruning.screen.num_candidates if pruning.screen is not None else 0)


def _has_words(source: object) -> bool:
    """Whether it is known what follows its samples."""
    return isinstance(source, WordSet | C4)


def _devices(value: object) -> int:
    if isinstance(value, list):
        return len(value)
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise ValueError(
            f"`trainer.devices` must be a number to plan with, got {value!r}: the plan does not see the machine that "
            "the run will have. Add `--devices N`."
        )
    return int(str(value))


def _strategy(value: Any, num_ranks: int) -> tuple[str, tuple[str, ...]]:
    """Its name here, and what the run would refuse."""
    is_class = isinstance(value, Mapping)
    name = str(value["class_path"] if is_class else value).rpartition(".")[2]
    options = (value.get("init_args") or {}) if is_class else {}
    if name in _SHARDED:
        tensor, data = options.get("tensor_parallel_size", "auto"), options.get("data_parallel_size", "auto")
        refused = (
            f"the run will need `trainer.strategy.init_args.data_parallel_size: {num_ranks}` (devices x num_nodes) and "
            f"`tensor_parallel_size: 1`, got {data!r} and {tensor!r}."
        )
        return "FSDP2", () if (tensor, data) == (1, num_ranks) else (refused,)
    if name in _REPLICATED or name.startswith("ddp") or (name in _SINGLE and num_ranks > 1):
        return "replicated", ()
    if name in _SINGLE:
        return "single", ()
    raise ValueError(
        f"`trainer.strategy` must be auto, ddp or lightning.pytorch.strategies.ModelParallelStrategy, got {name!r}."
    )


def _planned(name: str, source: object, sets: Mapping[str, object]) -> PlannedSet:
    like = sets.get(getattr(source, "length_like", None) or "")  # then as many as that set has, and as long
    source = source if like is None else like
    return PlannedSet(name, _number_of(source), getattr(source, "length", None))


def _number_of(source: object) -> int | None:
    number: int | None = getattr(source, "num_samples", getattr(source, "num_prompts", None))
    return number


def _forward_passes(scored: Iterable[str], each: Iterable[str]) -> int:
    """Forward passes of methods: one for all that a plain pass shows, two for each that passes block by block.

    Args:
        scored: Keys of what is scored.
        each: The same, a key as often as it is scored.
    """
    shared = any(METHODS[key.removesuffix("_signed")].needs for key in scored)
    alone = [method for key in each if _passes_alone(method := METHODS[key.removesuffix("_signed")])]
    return shared + 2 * len(alone)


def _passes_alone(method: type[Method]) -> bool:
    """Whether it needs nothing of a shared pass, and is no ranking of the weights alone: it passes each block twice."""
    return not (method.variant or method.needs or issubclass(method, Ranking))


def _circuit_passes(callback: CircuitCallback, keys: Iterable[str], data: SparC3DataModule) -> int:
    """Forward passes over a task's own samples that its circuits take, with those over the evaluation task's."""
    rankings = 1 + sum(2 if key.endswith("_signed") else 1 for key in set(keys) - {CONTROL})
    circuits = rankings * sum(share < 1 for share in callback.shares) + 2
    held_out = held_out_sets(data.evaluation_task, data.behaviours)
    tasks = tasks_of(data.behaviours)
    own = sum(_number_of(one) or 1 for one in data.behaviours.values())
    more = sum(len(tasks[task]) * (_number_of(one) or 0) for task, (_, one) in held_out.items())
    twice = sum(2 if ablation == "corrupted" else 1 for ablation in callback.ablations)
    passes: int = math.ceil(circuits * twice * (1 + more / max(own, 1)))
    return passes


def _passes(callbacks: Sequence[Callback], own: str, data: SparC3DataModule) -> list[Pass]:
    """What scores the sets beside the run's own attribution, and asks circuits."""
    found, scored = [], [own]
    for callback in callbacks:
        if isinstance(callback, BaselineCallback):
            keys = [key for key in callback.keys if key != own]
            scored += keys
            attributions = sum(METHODS[key.removesuffix("_signed")].variant is not None for key in keys)
            found.append(Pass("baselines", attributions, _forward_passes(keys, keys)))
        if isinstance(callback, CompressionCallback):
            number = _forward_passes(callback.keys, [one.method for one in callback.compressions])
            found.append(Pass("scores to compress by", 0, number))
        if isinstance(callback, CircuitCallback):
            found.append(Pass("circuits", 0, _circuit_passes(callback, scored, data)))
    return [one for one in found if one.attributions or one.forward_passes]


def _trials(callbacks: Sequence[Callback], data: SparC3DataModule) -> list[Trials]:
    """What is evaluated; nothing where there is nothing to evaluate on. The model as it is, once a run."""
    found = []
    for callback in callbacks:
        if isinstance(callback, EvaluationCallback):
            num, recipes = callback.num_control_draws, _num_recipes(callbacks, data)
            several = f"{recipes} recipes, each " if recipes > 1 else ""
            found.append(Trials(f"{several}pruned, {num} controls", recipes * (1 + num)))
        elif isinstance(callback, SweepCallback):
            found.append(Trials("cells of the sweep", len(callback.cells)))
        elif isinstance(callback, CompressionCallback) and data.evaluation_text is not None:
            found.append(Trials("compressed models", len(callback.compressions), with_prompts=False))
    if not found or (data.evaluation_text is None and data.evaluation_prompts is None):
        return []
    return [Trials("the model as it is", 1, any(trials.with_prompts for trials in found)), *found]


def _num_recipes(callbacks: Sequence[Callback], data: SparC3DataModule) -> int:
    """Recipes that a run makes: one, but of several behaviours."""
    pruning = [callback for callback in callbacks if isinstance(callback, PruningCallback)]
    named = data.differentials() if pruning and data.behaviours else {}
    return sum(len(aims_of(named, one.recipes, one.specific_to)) for one in pruning) if named else 1


def _evaluated(module: SparC3Module, data: SparC3DataModule) -> Evaluated:
    evaluator, prompts = module.evaluator, data.evaluation_prompts
    return Evaluated(
        text_tokens=_text_tokens(data.evaluation_text),
        num_prompts=0 if prompts is None else _number_of(prompts),
        protocols=tuple(evaluator.perplexity_protocols),
        window=evaluator.window,
        stride=evaluator.stride,
        num_completions=evaluator.decoding.num_completions,
        max_new_tokens=evaluator.decoding.max_new_tokens,
        batch_size=evaluator.batch_size,
        max_tokens=evaluator.max_tokens,
        shared_bytes=1e9 * evaluator.shared_gigabytes,
    )


def _text_tokens(text: object) -> int | None:
    """Of a file that is here, by its size."""
    if text is None:
        return 0
    path = getattr(getattr(text, "source", None), "path", None)
    if path is None or not Path(cast(str, path)).is_file():
        return None
    return max(2, Path(path).stat().st_size // _BYTES_A_TOKEN)
