"""Rates of one GPU from what benchmarks/gpu.py has measured on it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparc3_lightning.files import read_json
from sparc3_lightning.plan.estimate import elapsed, step_seconds
from sparc3_lightning.plan.rates import GPUS, Rates
from sparc3_lightning.plan.settings import Settings
from sparc3_lightning.plan.shape import shape_of

LLAMA_3_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
"""Shape of the model that the benchmark runs."""
TOKENS = 2048
"""Length of its samples "long", one a batch."""


def measured_rates(path: Path, base: Rates | None, granularity: str) -> Rates:
    """Rates with which the plan takes as long as the benchmark's long samples took.

    Arithmetic and bandwidth of `base` are scaled by one factor: the closed forms' time, divided by the measured one.

    Args:
        path: What `benchmarks/gpu.py --json` has written.
        base: Rates to scale; None: those of the GPU that the file names, or else an H100's.
        granularity: "neuron" or "weight": which of its runs counts.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds no such run, or only that of a tiny model.
    """
    content = read_json(path, "result of benchmarks/gpu.py")
    seconds = _seconds(content, granularity) if isinstance(content, dict) else None
    if seconds is None:
        raise ValueError(
            f"`--rates` must be what `benchmarks/gpu.py --json FILE` has written on a GPU, with a run of long samples "
            f"and granularity {granularity!r}, got {path}."
        )
    device = str(content["device"])
    base = base or next((rates for name, rates in GPUS.items() if name in device.lower()), GPUS["h100"])
    factor = _computed(base, granularity) / seconds
    return replace(
        base,
        half_flops=base.half_flops * factor,
        float32_flops=base.float32_flops * factor,
        bandwidth=base.bandwidth * factor,
        source=f"measured on {device} ({path}): LLaMA-3-8B's shape took {seconds:.4g} s a sample of {TOKENS} tokens",
    )


def _seconds(content: Mapping[str, Any], granularity: str) -> float | None:
    if "tiny" in str(content.get("model", "tiny")) or "device" not in content:
        return None
    runs = [row for row in content.get("runs", []) if (row["samples"], row["kind"]) == ("long", granularity)]
    return min((float(row["seconds"]) for row in runs), default=None)


def _computed(rates: Rates, granularity: str) -> float:
    shape = shape_of(LLAMA_3_8B)
    modules = "neurons" if granularity == "neuron" else "all"
    settings = Settings(
        strategy="single", ranks_per_node=1, num_nodes=1, dtype="bfloat16", granularity=granularity, modules=modules,
        num_layers=shape.layers, batch_size=1, max_tokens=None, sets=(),
    )  # fmt: skip
    return elapsed(step_seconds(settings, shape, shape.attributed(modules), rates, TOKENS, 1))
