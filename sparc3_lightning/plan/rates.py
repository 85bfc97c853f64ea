"""How fast a GPU computes, reads and sends: what was measured, what is assumed. (No torch: these are options.)"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparc3_lightning.files import load_yaml

# Of the vendors' peaks, where nothing was measured. The H200's measured 790 of 989 TFLOP/s and 4.3 of 4.8 TB/s are 80
# and 90 %.
_OF_PEAK_FLOPS, _OF_PEAK_BANDWIDTH, _OF_PEAK_LINK = 0.75, 0.9, 0.8
DEFAULT_GPU = "h100"
TOKENS = 2048
"""Length of the samples "long" of benchmarks/gpu.py, one a batch."""


@dataclass(frozen=True)
class Rates:
    """One kind of GPU.

    Attributes:
        name: What it is called.
        half_flops: Operations a second of a large matrix product in bfloat16 or float16.
        float32_flops: The same in float32, without TensorFloat-32.
        bandwidth: Bytes a second, read and written, of its memory.
        memory: Bytes of its memory.
        node_link: Bytes a second that it sends to another GPU of its node.
        network_link: Bytes a second that it sends to another node, over an adapter of its own.
        source: Where the numbers are from.
        launch: Seconds that the host takes at least to start one block's operations: a token generated waits for it.
        texts: Completions a second that a scorer on the GPU judges.
    """

    name: str
    half_flops: float
    float32_flops: float
    bandwidth: float
    memory: float
    node_link: float
    network_link: float
    source: str
    launch: float = 0.5e-3
    texts: float = 500.0

    def flops(self, dtype: str) -> float:
        """Of a large matrix product in `dtype`.

        Raises:
            ValueError: Nothing is known of the type.
        """
        if dtype in ("bfloat16", "float16"):
            return self.half_flops
        if dtype == "float32":
            return self.float32_flops
        raise ValueError(f"seconds are known of float32, bfloat16 and float16, got {dtype!r}. Set `model.dtype`.")

    def ring_link(self, ranks_per_node: int, num_nodes: int) -> float:
        """Bytes a second that each rank sends in a ring over all ranks.

        Between nodes the ring is laid once over each GPU's adapter, so that all of a node's adapters share its traffic.
        """
        if num_nodes == 1:
            return self.node_link
        between = ranks_per_node * self.network_link
        return between if ranks_per_node == 1 else min(self.node_link, between)


RATE_OPTIONS: dict[str, tuple[str, float, str, str]] = {
    "memory": ("GB", 1e9, "memory", "memory of a GPU"),
    "tflops": ("TFLOP/S", 1e12, "half_flops", "arithmetic in 16-bit types that large matrix products reach"),
    "bandwidth": ("TB/S", 1e12, "bandwidth", "memory bandwidth that is reached"),
    "node_link": ("GB/S", 1e9, "node_link", "what a GPU sends to another one of its node"),
    "network_link": ("GB/S", 1e9, "network_link", "what a GPU sends to another node"),
    "launch": ("MS", 1e-3, "launch", "what the host takes to start one block's operations"),
    "texts": ("TEXTS/S", 1.0, "texts", "completions that the scorer judges"),
}
"""Rates that an option or a file may set: unit, what it is in the field's, the field, and the meaning."""


@dataclass(frozen=True)
class Assumed:
    """What stands in for numbers that no config holds.

    Attributes:
        num_prompts: Prompts of a set whose config names no number.
        prompt_tokens: Length of samples whose config names none.
        text_tokens: Length of the text of the perplexity, where it is no local file; WikiText-2's in LLaMA-3's tokens.
    """

    num_prompts: int = 100
    prompt_tokens: int = 32
    text_tokens: int = 289_000


def with_rates(rates: Rates, given: Mapping[str, float], where: str) -> Rates:
    """Rates, some of them replaced.

    Args:
        rates: All others.
        given: By name in `RATE_OPTIONS`, in its unit.
        where: What the source says of them.

    Raises:
        ValueError: One is no number above 0.
    """
    for name, value in given.items():
        if not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"`{name}` must be a number above 0 ({RATE_OPTIONS[name][0]}), got {value!r}.")
    fields: dict[str, Any] = {RATE_OPTIONS[name][2]: value * RATE_OPTIONS[name][1] for name, value in given.items()}
    return replace(rates, **fields, source=f"{rates.source}; but {', '.join(given)} {where}") if given else rates


# One 400 Gb/s adapter a GPU.
_NETWORK = 50e9 * _OF_PEAK_LINK


def _assumed(name: str, half: float, float32: float, bandwidth: float, memory: float, link: float) -> Rates:
    return Rates(
        name=name,
        half_flops=half * 1e12 * _OF_PEAK_FLOPS,
        float32_flops=float32 * 1e12 * _OF_PEAK_FLOPS,
        bandwidth=bandwidth * 1e12 * _OF_PEAK_BANDWIDTH,
        memory=memory * 1e9,
        node_link=link * 1e9 * _OF_PEAK_LINK,
        network_link=_NETWORK,
        source=f"assumed: {_OF_PEAK_FLOPS:.0%} of the peak arithmetic and {_OF_PEAK_BANDWIDTH:.0%} of the peak "
        "bandwidth that its vendor states",
    )


_H200 = replace(
    _assumed("h200", 989, 67, 4.8, 141, 450),
    half_flops=790e12,
    bandwidth=4.3e12,
    source="arithmetic in bfloat16 and bandwidth as measured once on an H200 (not by this project's benchmarks)",
)
GPUS = {
    rates.name: rates
    for rates in (
        _H200,
        _assumed("h100", 989, 67, 3.35, 80, 450),
        _assumed("a100-80", 312, 19.5, 2.04, 80, 300),
        _assumed("a100-40", 312, 19.5, 1.56, 40, 300),
        _assumed("l40s", 362, 91.6, 0.864, 48, 32),
    )
}


def read_rates(path: Path, base: Rates | None, granularity: str) -> Rates:
    """Rates of a file: names of `RATE_OPTIONS` with their values, or what the benchmark has measured.

    Of the latter, arithmetic and bandwidth of `base` are scaled by one factor, so that the plan takes as long as the
    benchmark's long samples took.

    Args:
        path: YAML or JSON.
        base: Rates to replace or to scale; None: those of the GPU that a benchmark names, or else an H100's.
        granularity: "neuron" or "weight": which of a benchmark's runs counts.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds neither; or only the benchmark of a tiny model.
    """
    content = load_yaml(path.read_text(encoding="utf-8"), str(path))
    if isinstance(content, dict) and content and content.keys() <= RATE_OPTIONS.keys():
        return with_rates(base or GPUS["h100"], content, f"of {path}")
    seconds = _measured_seconds(content, granularity) if isinstance(content, dict) else None
    if seconds is None:
        raise ValueError(
            f"`--rates` must hold rates ({', '.join(RATE_OPTIONS)}) or be what `benchmarks/gpu.py --json FILE` has "
            f"written on a GPU, with a run of long samples and granularity {granularity!r}, got {path}."
        )
    device = str(content["device"])
    base = base or next((rates for name, rates in GPUS.items() if name in device.lower()), GPUS["h100"])
    from sparc3_lightning.plan.pace import benchmark_seconds  # imports torch

    factor = benchmark_seconds(base, granularity, TOKENS) / seconds
    return replace(
        base,
        half_flops=base.half_flops * factor,
        float32_flops=base.float32_flops * factor,
        bandwidth=base.bandwidth * factor,
        source=f"measured on {device} ({path}): LLaMA-3-8B's shape took {seconds:.4g} s a sample of {TOKENS} tokens",
    )


def _measured_seconds(content: Mapping[str, Any], granularity: str) -> float | None:
    if "tiny" in str(content.get("model", "tiny")) or "device" not in content:
        return None
    runs = [row for row in content.get("runs", []) if (row["samples"], row["kind"]) == ("long", granularity)]
    return min((float(row["seconds"]) for row in runs), default=None)
