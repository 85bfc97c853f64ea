"""Seconds and memory of attribution on a CPU, as ratios in one run.

    python benchmarks/attribution.py [--json FILE] [--rounds N] [--threads N]

A LLaMA of hidden 576, 1536 neurons, 8 layers, 9 heads, 3 kv heads, vocabulary 8000, random weights, float32.
"long": 4 samples of 512 tokens, one by one. "short": 16 samples of 32 tokens, ours in one batch, the naive loop one by
one. After a warm-up every measurement is taken once a round, in turn, and the median over the rounds is given: machines
are noisy, so read the ratios.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from measure import live_bytes, seconds
from naive import serve
from rich.console import Console
from rich.table import Table
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from sparc3_lightning.lrp.attribution import Attribution

SETTINGS = {"long": {"num": 4, "length": 512, "batch_size": 1}, "short": {"num": 16, "length": 32, "batch_size": 16}}
KINDS = ("forward", "naive", "neuron", "weight")


def build_model() -> PreTrainedModel:
    """The benchmark's model; the same weights in every process."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=8000, max_position_embeddings=512, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def make_samples(num: int, length: int) -> list[torch.Tensor]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 8000, (length,), generator=generator) for _ in range(num)]


def batches(samples: list[torch.Tensor], batch_size: int) -> list[torch.Tensor]:
    """The samples as padded batches."""
    return [pad_sequence(samples[i : i + batch_size], batch_first=True) for i in range(0, len(samples), batch_size)]


def forward_passes(model: PreTrainedModel, samples: list[torch.Tensor], batch_size: int) -> None:
    """Forward passes alone."""
    with torch.no_grad():
        for batch in batches(samples, batch_size):
            model(input_ids=batch, use_cache=False, logits_to_keep=1)


def attribute_all(model: PreTrainedModel, samples: list[torch.Tensor], batch_size: int, granularity: Any) -> None:
    """Ours, from entering the rules to the sums: neurons, or the weights of every linear layer."""
    modules = "neurons" if granularity == "neuron" else "all"
    with Attribution(model, granularity=granularity, modules=modules) as attribution:
        for batch in batches(samples, batch_size):
            attribution.step(batch, torch.full((len(batch),), batch.shape[1]))
        attribution.sums()


class Bench:
    """The model here, the naive loop in a process of its own; one measurement at a time."""

    def __init__(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self.model = build_model()
        self.pipe, theirs = get_context("spawn").Pipe()
        self.child = get_context("spawn").Process(target=serve, args=(theirs, build_model, num_threads), daemon=True)
        self.child.start()
        assert self.pipe.recv() == "ready"

    def measure(self, kind: str, setting: dict[str, int], what: str) -> float:
        """Seconds or bytes of one kind of run."""
        samples = make_samples(setting["num"], setting["length"])
        if kind == "naive":
            self.pipe.send((what, samples))
            return float(self.pipe.recv())
        run: Callable[[], None]
        if kind == "forward":
            run = lambda: forward_passes(self.model, samples, setting["batch_size"])  # noqa: E731
        else:
            run = lambda: attribute_all(self.model, samples, setting["batch_size"], kind)  # noqa: E731
        return float((seconds if what == "seconds" else live_bytes)(run))


def run(rounds: int, num_threads: int) -> dict[str, Any]:
    """All measurements: medians in seconds, and peak bytes of live tensors beside the model's weights."""
    bench = Bench(num_threads)
    result: dict[str, Any] = {"long": {}, "short": {}, "peak_bytes": {"long": {}, "short": {}}}
    for name, setting in SETTINGS.items():
        taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(rounds + 1):
            for kind in KINDS:
                value = bench.measure(kind, setting, "seconds")
                if number:  # the first round warms up
                    taken[kind].append(value)
        result[name] = {kind: statistics.median(values) for kind, values in taken.items()}
        result["peak_bytes"][name] = {kind: int(bench.measure(kind, setting, "bytes")) for kind in KINDS}
    return result


def show(result: dict[str, Any]) -> None:
    """Print one table a setting."""
    for name, setting in SETTINGS.items():
        title = f"{name}: {setting['num']} x {setting['length']} tokens, ours in batches of {setting['batch_size']}"
        table = Table("", "seconds", "forward passes", "times as fast as naive", "peak MB of live tensors", title=title)
        for kind in KINDS:
            spent, peak = result[name][kind], result["peak_bytes"][name][kind]
            ratios = spent / result[name]["forward"], result[name]["naive"] / spent
            table.add_row(kind, f"{spent:.3f}", f"{ratios[0]:.2f}", f"{ratios[1]:.1f}", f"{peak / 1e6:.1f}")
        Console().print(table)


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    result = run(args.rounds, args.threads)
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
