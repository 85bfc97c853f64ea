"""What a run's config says, as far as its needs depend on it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparc3_lightning.plan.compose import class_and_options

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_SINGLE = ("auto", "SingleDeviceStrategy")
_SHARDED = ("ModelParallelStrategy",)
_REPLICATED = ("DDPStrategy",)
# Sets without a length or a number in their config.
_LENGTHS = {"C4": 2048}
_NUMBERS = {"C4": 128}


@dataclass(frozen=True)
class PlannedSet:
    """One reference set.

    Attributes:
        name: Its name.
        key: Where it stands in the config.
        num_samples: How many; None where the config does not say.
        tokens: Length of each; None where the config does not say.
    """

    name: str
    key: str
    num_samples: int | None
    tokens: int | None


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
        num_layers: Decoder blocks of the model.
        batch_size: Most samples a batch.
        max_tokens: Most tokens a batch; None: no limit.
        checkpoints_activations: Blocks keep their input only, and run again in the backward pass.
        sets: The reference sets.
        has_differential: The run takes the differential of its sets.
        saves_model: It saves the pruned or a compressed model.
        saves_state: It saves a state to resume from.
        evaluates: It evaluates the model, and what it makes of it.
        window: Tokens of a window of the perplexity.
        evaluation_batch_size: Most windows in one forward pass, and
        evaluation_max_tokens: most tokens.
        warnings: What the run would refuse.
    """

    strategy: str
    ranks_per_node: int
    num_nodes: int
    dtype: str
    granularity: str
    modules: str | list[str]
    num_layers: int
    batch_size: int
    max_tokens: int | None
    sets: tuple[PlannedSet, ...]
    has_differential: bool = False
    saves_model: bool = False
    saves_state: bool = False
    evaluates: bool = False
    window: int = 2048
    evaluation_batch_size: int = 256
    evaluation_max_tokens: int = 16_384
    checkpoints_activations: bool = False
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

    def samples_a_batch(self, tokens: int, num_samples: int | None = None) -> int:
        """Samples of one batch on one rank, of a set whose samples are `tokens` long."""
        fit = _that_fit(tokens, self.batch_size, self.max_tokens)
        return fit if num_samples is None else min(fit, math.ceil(num_samples / self.num_ranks))

    def windows_a_batch(self, tokens: int) -> int:
        """Windows of `tokens` in one forward pass of the evaluation."""
        return _that_fit(tokens, self.evaluation_batch_size, self.evaluation_max_tokens)


def settings_of(
    config: Mapping[str, Any], num_layers: int, checkpoint_dtype: str | None, devices: int | None, num_nodes: int | None
) -> Settings:
    """Read the settings of a composed config.

    Args:
        config: As `compose` gives it.
        num_layers: Decoder blocks of the model.
        checkpoint_dtype: Type of the checkpoint's weights.
        devices: Processes a node, in the config's place.
        num_nodes: Nodes, in the config's place.

    Raises:
        ValueError: An option is missing, or the run would refuse it.
    """
    trainer, model, data = (dict(config.get(group) or {}) for group in ("trainer", "model", "data"))
    devices = devices or _devices(trainer.get("devices", "auto"))
    num_nodes = num_nodes or int(trainer.get("num_nodes") or 1)
    callbacks = dict(class_and_options(value) for value in trainer.get("callbacks") or [])
    evaluator = class_and_options(model.get("evaluator") or {})[1]
    dtype = model.get("dtype") or "auto"
    dtype = (checkpoint_dtype or "float32") if dtype == "auto" else dtype
    _check("dtype", dtype, tuple(ITEMSIZE))
    granularity = model.get("granularity") or "neuron"
    strategy, warnings = _strategy(trainer.get("strategy") or "auto", devices * num_nodes)
    _check("granularity", granularity, ("neuron", "weight"))
    return Settings(
        strategy=strategy,
        ranks_per_node=devices,
        num_nodes=num_nodes,
        dtype=dtype,
        granularity=granularity,
        modules=model.get("modules") or "neurons",
        num_layers=num_layers,
        batch_size=int(data.get("batch_size") or 8),
        max_tokens=data.get("max_tokens"),
        sets=tuple(
            _planned(role, name, value)
            for role in ("general", "behaviours", "contrast")
            for name, value in (data.get(role) or {}).items()
        ),
        has_differential="PruningCallback" in callbacks,
        saves_model=any(options.get("save_model") or options.get("save") for options in callbacks.values()),
        saves_state="ResumeCallback" in callbacks,
        evaluates=not {"EvaluationCallback", "CompressionCallback"}.isdisjoint(callbacks)
        and bool(data.get("evaluation_text")),
        window=int(evaluator.get("window") or 2048),
        evaluation_batch_size=int(evaluator.get("batch_size") or 256),
        evaluation_max_tokens=int(evaluator.get("max_tokens") or 16_384),
        checkpoints_activations=bool(model.get("activation_checkpointing", False)),
        warnings=warnings,
    )


def _that_fit(tokens: int, batch_size: int, max_tokens: int | None) -> int:
    """Rows of `tokens` each that make a batch."""
    return batch_size if max_tokens is None else min(batch_size, max(1, max_tokens // tokens))


def _check(option: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"`{option}` must be one of {known}, got {value!r}. Set `model.{option}`.")


def _devices(value: object) -> int:
    if isinstance(value, list):
        return len(value)
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise ValueError(
            f"`trainer.devices` must be a number to plan with, got {value!r}: the plan does not see the machine that "
            "the run will have. Add `--devices N`."
        )
    return int(str(value))


def _strategy(value: object, num_ranks: int) -> tuple[str, tuple[str, ...]]:
    """Its name here, and what the run would refuse."""
    name, options = class_and_options(value)
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


def _planned(role: str, name: str, value: object) -> PlannedSet:
    kind, options = class_and_options(value)
    number = options.get("num_samples", options.get("num_prompts"))
    return PlannedSet(
        name,
        f"data.{role}.{name}",
        _NUMBERS.get(kind) if number is None else int(number),
        options.get("length", _LENGTHS.get(kind)),
    )
