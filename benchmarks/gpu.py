"""Attribution on one GPU: seconds, TFLOP/s, bytes and peak memory, beside the goals.

    python benchmarks/gpu.py [--json FILE] [--rounds N] [--samples N] [--no-naive] [--tiny]

LLaMA-3-8B's exact shape with random bf16 weights made on the device: nothing is downloaded. "long": samples of 2048
tokens, one a batch; "long x 2": two a batch; seconds are a sample's. "short": 93 prompts of 20 to 50 tokens, batched by
length; seconds are all 93 prompts'. All in the steady state: what is tuned once is tuned before. The median over the
rounds is given. The naive loop (LXT's own patch, plain gradients, one sample at a time) runs in a process of its own.

`--tiny` runs the same on a tiny model, on a CPU too: it tests this script and measures nothing.
Needs torch with CUDA and Triton, transformers, rich, and lxt for the rules (`pip install --no-deps lxt` is enough).
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from measure import peak_bytes, seconds
from naive import serve_once
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from work import Work, attribution_work, product_work

from sparc3_lightning.data.batches import Batch, pad_right, plan_batches
from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.lrp.linear import add_relevance_
from sparc3_lightning.models.families.llama import LLAMA_3_8B

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TINY = {**LLAMA_3_8B, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 256}  # fmt: skip
SETS = ("long", "long x 2", "short")
# Seconds a sample ("long") or for all prompts ("short"), and peak gigabytes: on one H200 with LLaMA-3-8B.
GOALS = {("long", "neuron"): 0.13, ("long", "weight"): 0.22, ("short", "neuron"): 0.5}
GOALS |= {("long x 2", kind): GOALS["long", kind] for kind in ("neuron", "weight")}
MEMORY_GOALS = {"neuron": 40.0, "weight": 75.0}


@dataclass
class Row:
    """One kind of run on one set of samples."""

    samples: str
    kind: str
    kernel: str
    seconds: float
    tflops: float
    gigabytes: float
    peak_gigabytes: float
    goal_seconds: float | None = None
    goal_gigabytes: float | None = None
    verdict: str = ""


def build_model(shape: dict[str, Any]) -> PreTrainedModel:
    """Random weights, made on the device."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=torch.bfloat16, attn_implementation="sdpa")
    return model.eval()


def make_batches(name: str, args: argparse.Namespace, vocab_size: int) -> tuple[list[Batch], list[int]]:
    """The batches of a set on the device, and the samples' lengths."""
    draw = random.Random(0)
    longest = 64 if args.tiny else 2048
    lengths = [longest] * args.samples if name != "short" else [draw.randint(20, 50) for _ in range(93)]
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, vocab_size, (length,), generator=generator) for length in lengths]
    plans = plan_batches(lengths, batch_size=128, max_tokens=longest if name == "long" else 4096)
    batches = [pad_right(ids, plan) for plan in plans]
    return [{key: value.to(DEVICE) for key, value in batch.items()} for batch in batches], lengths  # type: ignore[misc]


def forward_pass(model: PreTrainedModel, batches: list[Batch]) -> None:
    """Forward passes alone, with one token's logits."""
    with torch.no_grad():
        for batch in batches:
            model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=1)


class Bench:
    """One model, measured in turn."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.shape = TINY if args.tiny else LLAMA_3_8B
        self.model = build_model(self.shape)
        self.rows: list[Row] = []

    def median(self, run: Callable[[], Any]) -> float:
        """Seconds of one call in the steady state."""
        run()
        return statistics.median(seconds(run) for _ in range(self.args.rounds))

    def measure(self, name: str, kind: str, kernel: str = "") -> None:
        """Add the row of one kind of run: "forward", "neuron" or "weight"."""
        batches, lengths = make_batches(name, self.args, self.shape["vocab_size"])
        if kind == "forward":
            spent, peak = self._spent(lambda: forward_pass(self.model, batches))
        else:
            modules = "neurons" if kind == "neuron" else "all"
            attribution = Attribution(self.model, granularity=kind, modules=modules, kernel=kernel)  # type: ignore[arg-type]
            with attribution:
                spent, peak = self._spent(
                    lambda: [attribution.step(b["input_ids"], b["lengths"], b["weights"]) for b in batches]
                )
        work = attribution_work(self.model, lengths, len(batches), kind)  # type: ignore[arg-type]
        self.add(name, kind, kernel, spent, peak, work, len(lengths))

    def _spent(self, run: Callable[[], Any]) -> tuple[float, float]:
        return self.median(run), peak_bytes(run, self.model)

    def add(self, name: str, kind: str, kernel: str, spent: float, peak: float, work: Work | None, num: int) -> None:
        """Note what was measured on a set of `num` samples."""
        share = 1 if name == "short" else num
        rates = (work.flops / spent / 1e12, work.bytes / spent / 1e9) if work else (0.0, 0.0)
        row = Row(name, kind, kernel, spent / share, *rates, peak / 1e9)
        if kind in MEMORY_GOALS and kernel == self.best and not self.args.tiny:
            row.goal_seconds, row.goal_gigabytes = GOALS.get((name, kind)), MEMORY_GOALS[kind]
            met = row.peak_gigabytes <= row.goal_gigabytes
            met = met and (row.goal_seconds is None or row.seconds <= row.goal_seconds)
            row.verdict = "met" if met else "missed"
        self.rows.append(row)

    @property
    def kernels(self) -> list[str]:
        """What can be compared here."""
        return ["eager", "triton"] if DEVICE == "cuda" else ["eager"]

    @property
    def best(self) -> str:
        """The path that the goals are for."""
        return self.kernels[-1]

    def products(self) -> list[dict[str, Any]]:
        """One layer's relevance alone: eager and fused, for the model's shapes."""
        hidden, neurons = self.shape["hidden_size"], self.shape["intermediate_size"]
        kv = hidden // self.shape["num_attention_heads"] * self.shape["num_key_value_heads"]
        sizes = ((1, 64), (3, 20)) if self.args.tiny else ((1, 2048), (2, 2048), (80, 48), (2, 1))
        found = []
        for num_out, num_in in ((neurons, hidden), (hidden, neurons), (hidden, hidden), (kv, hidden)):
            for num, length in sizes:
                for granularity in ("neuron", "weight"):
                    found += [self._product((num_out, num_in), num, length, granularity, k) for k in self.kernels]
        return found

    def _product(self, shape: tuple[int, int], num: int, length: int, granularity: str, kernel: str) -> dict[str, Any]:
        torch.manual_seed(0)

        def draw(*size: int) -> Tensor:
            return torch.randn(size, device=DEVICE).bfloat16()

        x, d, weight = draw(num, length, shape[1]), draw(num, length, shape[0]), draw(*shape)
        out = torch.zeros(shape if granularity == "weight" else shape[:1], device=DEVICE)
        add_ = add_relevance_
        if kernel == "triton":
            from sparc3_lightning.lrp import kernels

            add_ = kernels.add_relevance_
        spent = self.median(lambda: add_(out, x, d, weight, "abs"))
        work = product_work(shape, num * length, granularity, 2)  # type: ignore[arg-type]
        config = kernels._kernel.best_config if kernel == "triton" else ""
        return {
            "shape": f"{shape[0]} x {shape[1]}", "samples": f"{num} x {length}", "granularity": granularity,
            "kernel": kernel, "milliseconds": spent * 1e3, "tflops": work.flops / spent / 1e12,
            "gigabytes": work.bytes / spent / 1e9, "config": str(config),
        }  # fmt: skip


def naive(bench: Bench) -> str | None:
    """Add the naive loop's rows, measured in a process of its own; or say why there are none."""
    ours, theirs = get_context("spawn").Pipe()
    samples = []
    for name in ("long", "short"):
        batches, _ = make_batches(name, bench.args, bench.shape["vocab_size"])
        rows = [(ids, n) for b in batches for ids, n in zip(b["input_ids"].cpu(), b["lengths"].tolist(), strict=True)]
        samples.append([ids[:n] for ids, n in rows][: 2 if name == "long" else 8])
    child = get_context("spawn").Process(target=serve_once, args=(theirs, build_model, bench.shape, samples, DEVICE))
    child.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        answer = "its process died"
    child.join()
    if isinstance(answer, str):
        return answer
    for name, few, (spent, peak) in zip(("long", "short"), samples, answer, strict=True):
        scale = 1.0 if name == "long" else 93 / len(few)  # a few prompts are enough to know what 93 would take
        bench.add(name, "naive loop", "", spent * scale, peak, None, len(few))
    return None


def show(result: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=130)
    columns = ("samples", "kind", "kernel", "seconds", "TFLOP/s", "GB/s", "peak GB", "goal s", "goal GB", "")
    table = Table(*columns, title=f"{result['model']} on {result['device']}")
    for row in result["runs"]:
        goals = ["" if goal is None else f"{goal:g}" for goal in (row["goal_seconds"], row["goal_gigabytes"])]
        rates = [f"{row[k]:.0f}" if row[k] else "" for k in ("tflops", "gigabytes")]
        table.add_row(row["samples"], row["kind"], row["kernel"], f"{row['seconds']:.4f}", *rates,
                      f"{row['peak_gigabytes']:.1f}", *goals, row["verdict"])  # fmt: skip
    console.print(table)
    table = Table("layer", "samples", "granularity", "kernel", "ms", "TFLOP/s", "GB/s", title="one layer's relevance")
    for row in result["products"]:
        table.add_row(row["shape"], row["samples"], row["granularity"], row["kernel"], f"{row['milliseconds']:.3f}",
                      f"{row['tflops']:.0f}", f"{row['gigabytes']:.0f}")  # fmt: skip
    console.print(table)
    if result["naive_missing"]:
        console.print(f"no naive loop: {result['naive_missing']}")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """All measurements."""
    bench = Bench(args)
    for name in SETS:
        bench.measure(name, "forward")
        for kind in ("neuron", "weight"):
            for kernel in bench.kernels:
                bench.measure(name, kind, kernel)
    products = bench.products()
    del bench.model
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
    missing = "left out" if args.no_naive else naive(bench)
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    return {
        "model": "a tiny LLaMA (times mean nothing)" if args.tiny else "LLaMA-3-8B's shape, random bfloat16 weights",
        "device": device, "torch": torch.__version__, "long_samples": args.samples, "rounds": args.rounds,
        "runs": [asdict(row) for row in bench.rows], "products": products, "naive_missing": missing,
    }  # fmt: skip


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=4, help="long samples a round")
    parser.add_argument("--no-naive", action="store_true", help="leave the naive loop out")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: tests the script")
    args = parser.parse_args()
    if DEVICE == "cpu" and not args.tiny:
        parser.error("no CUDA device is here; --tiny runs on a CPU")
    result = run(args)
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
