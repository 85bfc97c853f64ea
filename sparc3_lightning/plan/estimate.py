"""A run's needs: memory, disk, bytes sent, seconds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparc3_lightning.plan.memory import disk_bytes, evaluation_bytes, gpu_bytes, host_bytes, num_scores
from sparc3_lightning.plan.rates import Rates
from sparc3_lightning.plan.sent import set_bytes, step_bytes
from sparc3_lightning.plan.settings import PlannedSet, Settings
from sparc3_lightning.plan.shape import Linear, Shape
from sparc3_lightning.plan.work import (
    elementwise_bytes,
    forward_flops,
    input_gradient_flops,
    kernel_tokens,
    product_flops,
    relevance_bytes,
)

SENDING = "sending, beside the rest"


@dataclass(frozen=True)
class Assumed:
    """What stands in for numbers that no config holds.

    Attributes:
        num_prompts: Samples of a set whose config names no number.
        prompt_tokens: Length of samples whose config names none.
    """

    num_prompts: int = 100
    prompt_tokens: int = 32


def step_seconds(
    settings: Settings, shape: Shape, attributed: Sequence[Linear], rates: Rates, tokens: int, batch: int
) -> dict[str, float]:
    """Seconds of one batch on one rank, by what they go into; sending overlaps with all of the others.

    A phase of matrix products takes as long as its arithmetic, or as reading the weights once.

    Args:
        settings: The run.
        shape: Its model.
        attributed: The layers attributed.
        rates: The GPU's.
        tokens: Length of each sample.
        batch: Samples.
    """
    flops, read = rates.flops(settings.dtype), settings.itemsize * shape.num_parameters / rates.bandwidth
    sent = sum(step_bytes(settings, shape, attributed).values())
    again = 2 if settings.checkpoints_activations else 1
    traffic = batch * elementwise_bytes(shape, tokens, attributed, settings.itemsize)
    return {
        "forward pass": again * max(batch * forward_flops(shape, tokens) / flops, read),
        "input gradients": max(batch * input_gradient_flops(shape, tokens, attributed) / flops, read),
        "relevance products": batch * product_flops(shape, kernel_tokens(tokens), attributed) / flops,
        "accumulation": relevance_bytes(attributed, settings.granularity) / rates.bandwidth,
        "norms, activations, residuals": traffic / rates.bandwidth,
        SENDING: sent / rates.ring_link(settings.ranks_per_node, settings.num_nodes),
    }


def elapsed(step: dict[str, float]) -> float:
    """Seconds of a step whose sending overlaps with its computing."""
    return max(step[SENDING], sum(step.values()) - step[SENDING])


def _longest(step: dict[str, float]) -> str:
    """What sets the pace: sending, where the rest is over before it; or else the longest of the rest."""
    rest = {name: seconds for name, seconds in step.items() if name != SENDING}
    return SENDING if step[SENDING] > sum(rest.values()) else max(rest, key=rest.__getitem__)


@dataclass(frozen=True)
class SetPlan:
    """One reference set: its numbers, the seconds of one full batch, and of all of it."""

    planned: PlannedSet
    num_samples: int
    tokens: int
    batch: int
    step: dict[str, float]
    sent_a_sample: float
    seconds: float

    @property
    def seconds_a_sample(self) -> float:
        """Of one GPU."""
        return elapsed(self.step) / self.batch


def plan_set(
    planned: PlannedSet, settings: Settings, shape: Shape, attributed: Sequence[Linear], rates: Rates, assumed: Assumed
) -> SetPlan:
    """Plan one reference set.

    Raises:
        ValueError: Its samples are longer than the model's context.
    """
    number, tokens = planned.num_samples or assumed.num_prompts, planned.tokens or assumed.prompt_tokens
    if shape.context is not None and tokens > shape.context:
        raise ValueError(
            f"`length` must be at most the model's context of {shape.context} tokens, got {tokens}. Set "
            f"`{planned.key}.init_args.length`."
        )
    ranks, batch = settings.num_ranks, settings.samples_a_batch(tokens, number)

    def seconds(samples: int) -> float:
        return elapsed(step_seconds(settings, shape, attributed, rates, tokens, samples))

    full, rest = divmod(number, batch * ranks)
    link = rates.ring_link(settings.ranks_per_node, settings.num_nodes)
    spent = full * seconds(batch) + (seconds(math.ceil(rest / ranks)) if rest else 0.0)
    return SetPlan(
        planned=planned,
        num_samples=number,
        tokens=tokens,
        batch=batch,
        step=step_seconds(settings, shape, attributed, rates, tokens, batch),
        sent_a_sample=sum(step_bytes(settings, shape, attributed).values()) / batch,
        seconds=spent + set_bytes(settings, attributed) / link,
    )


def estimate(settings: Settings, shape: Shape, rates: Rates, assumed: Assumed) -> dict[str, Any]:
    """Everything that `sparc3 plan` says, as JSON.

    Args:
        settings: The run.
        shape: Its model.
        rates: The GPU's.
        assumed: What stands in for numbers that no config holds.

    Raises:
        ValueError: The config names no reference set; samples longer than the context; a type without known rates.
    """
    if not settings.sets:
        raise ValueError("there is no set to attribute. Set `data.general` and `data.behaviours`.")
    attributed = shape.attributed(settings.modules)
    sets = [plan_set(planned, settings, shape, attributed, rates, assumed) for planned in settings.sets]
    memory = gpu_bytes(settings, shape, attributed, max(item.batch * item.tokens for item in sets))
    attribution = sum(memory.values())
    window = min(settings.window, shape.context or settings.window)
    evaluation = evaluation_bytes(settings, shape, window, settings.windows_a_batch(window))
    total = sum(item.seconds for item in sets)
    phases = {name: sum(item.step[name] * item.seconds / elapsed(item.step) for item in sets) for name in sets[0].step}
    return {
        "model": {
            "num_parameters": shape.num_parameters,
            "num_attributed_layers": len(attributed),
            "num_attributed_weights": sum(linear.numel for linear in attributed),
            "num_scores": num_scores(attributed, settings.granularity),
        },
        "run": {
            "strategy": settings.strategy, "devices": settings.ranks_per_node, "num_nodes": settings.num_nodes,
            "dtype": settings.dtype, "granularity": settings.granularity,
        },
        "gpu": {"name": rates.name, "memory_bytes": rates.memory, "source": rates.source},
        "gpu_bytes": memory,
        "gpu_bytes_attribution": attribution,
        "gpu_bytes_evaluation": evaluation if settings.evaluates else None,
        "host_bytes": host_bytes(settings, shape, attributed),
        "disk_bytes": disk_bytes(settings, shape, attributed),
        "sets": [_describe(item) for item in sets],
        "seconds": total,
        "gpu_hours": total * settings.num_ranks / 3600,
        "seconds_by_phase": phases,
        "dominated_by": {"memory": max(memory, key=memory.__getitem__), "time": _longest(phases)},
        "warnings": [*settings.warnings, *_warnings(settings, rates, memory, evaluation)],
    }  # fmt: skip


def _describe(item: SetPlan) -> dict[str, Any]:
    assumed = [name for name in ("num_samples", "tokens") if getattr(item.planned, name) is None]
    return {
        "name": item.planned.name,
        "num_samples": item.num_samples,
        "tokens": item.tokens,
        "assumed": assumed,
        "batch": item.batch,
        "seconds_a_sample_and_gpu": item.seconds_a_sample,
        "bytes_sent_a_sample": item.sent_a_sample,
        "seconds": item.seconds,
    }


def _warnings(settings: Settings, rates: Rates, memory: dict[str, float], evaluation: float) -> list[str]:
    found = []
    if (needed := sum(memory.values())) > rates.memory:
        found.append(
            f"attribution does not fit: {needed / 1e9:.1f} GB of {rates.memory / 1e9:.0f} GB a GPU, most of it "
            f"{max(memory, key=memory.__getitem__)}. {_remedy(settings, rates, memory)}"
        )
    if settings.evaluates and evaluation > rates.memory:
        found.append(
            f"the evaluation does not fit: {evaluation / 1e9:.1f} GB of {rates.memory / 1e9:.0f} GB a GPU. Lower "
            "`model.evaluator.init_args.max_tokens`."
        )
    return found


def _remedy(settings: Settings, rates: Rates, memory: dict[str, float]) -> str:
    """Which key to change first: the cheapest that makes room."""
    moving = memory["activations"] + memory["temporaries"]
    if sum(memory.values()) - moving < rates.memory and settings.batch_size > 1:
        return "Lower `data.max_tokens` or `data.batch_size`, or set `model.activation_checkpointing: true`."
    if not settings.is_sharded:
        smaller = " or, for neurons only, `model.granularity: neuron`" if settings.granularity == "weight" else ""
        return f"Shard the model: add `--config configs/trainer/fsdp.yaml`{smaller}."
    return "Use more GPUs: `trainer.num_nodes`, and `trainer.strategy.init_args.data_parallel_size` with it."
