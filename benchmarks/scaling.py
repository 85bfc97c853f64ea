"""Bytes sent and memory of several processes on a CPU, beside the closed forms that `sparc3 plan` computes with.

    python benchmarks/scaling.py [--json FILE] [--ranks 1 2 4]

A LLaMA of hidden 192, 512 neurons, 8 layers, 6 heads, 2 kv heads, vocabulary 1024, random weights, bfloat16; 16 samples
of 128 tokens in batches of 2, through Lightning's predict loop over gloo: replicated and under FSDP2, scores of neurons
and of all weights. Bytes are counted at every collective, as if it were done in a ring; memory after every operation,
of all tensors that live then. A rank sent so much in the mean, and held so much at most. "of it" is what was counted,
divided by the closed form.

Below that what is read and held of whole score sets, in sets of all weights of a smaller model; see score_sets.py.
"""

import argparse
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from counters import CountHeld, CountSent
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from rich import box
from rich.console import Console
from rich.table import Column, Table
from score_sets import measure_score_sets

from callbacks import RelevanceCallback
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.samples import LoadContext, ReferenceSamples, ReferenceSet
from sparc3_lightning.module import SparC3Module
from sparc3_lightning.plan.command import amount
from sparc3_lightning.plan.memory import CONTEXT_BYTES, gpu_bytes, set_bytes, step_bytes
from sparc3_lightning.plan.needs import Settings
from sparc3_lightning.plan.sizes import Sizes, model_config

ROOT = Path(__file__).resolve().parent.parent
MODEL: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 8,
    "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 1024, "max_position_embeddings": 128,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
NUM_SAMPLES, TOKENS, BATCH = 16, 128, 2


@dataclass(frozen=True)
class Case:
    """One predict run."""

    strategy: str
    granularity: str
    num_ranks: int

    def settings(self) -> Settings:
        """As `sparc3 plan` would read them from a config."""
        return Settings(
            strategy=self.strategy, ranks_per_node=self.num_ranks, num_nodes=1, dtype="bfloat16",
            granularity=self.granularity, modules=self.modules, batch_size=BATCH, max_tokens=None,
        )  # fmt: skip

    @property
    def modules(self) -> str:
        """Neurons, or every linear layer."""
        return "neurons" if self.granularity == "neuron" else "all"


def cases(num_ranks: int) -> list[Case]:
    """What is run with so many processes."""
    strategies = ("single",) if num_ranks == 1 else ("replicated", "FSDP2")
    return [Case(strategy, kind, num_ranks) for strategy in strategies for kind in ("neuron", "weight")]


class RandomSamples(ReferenceSet):
    """Random token ids."""

    def load(self, context: LoadContext) -> ReferenceSamples:
        generator = torch.Generator().manual_seed(0)
        ids = [torch.randint(0, MODEL["vocab_size"], (TOKENS,), generator=generator) for _ in range(NUM_SAMPLES)]
        return ReferenceSamples(ids, self.describe(), [str(index) for index in range(NUM_SAMPLES)])


class Watch(Callback):
    """Counts what the batches of a run send and hold, and apart from them what the end of the set sends."""

    def __init__(self) -> None:
        self.batches, self.end = CountSent(), CountSent()
        self.num_batches = self.peak_bytes = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.held = CountHeld(pl_module)
        self.held.__enter__()

    def on_predict_end(self, *args: Any) -> None:
        self.held.__exit__(None, None, None)

    def on_predict_batch_start(self, *args: Any) -> None:
        self.held.peak = 0
        self.batches.__enter__()

    def before_the_end(self) -> None:
        self.batches.__exit__(None, None, None)
        self.peak_bytes = max(self.peak_bytes, self.held.peak)
        self.end.__enter__()
        self.num_batches += 1

    def after_the_end(self) -> None:
        self.end.__exit__(None, None, None)


class Before(Callback):
    """Listed before the relevance callback: a batch is over, what follows is the end of a set."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_predict_batch_end(self, *args: Any) -> None:
        self.watch.before_the_end()


class After(Callback):
    """Listed after it."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_predict_batch_end(self, *args: Any) -> None:
        self.watch.after_the_end()


def predict(case: Case) -> dict[str, Any]:
    """One run; what this rank has sent and held."""
    watch = Watch()
    strategy: Any = {"single": "auto", "replicated": "ddp"}.get(case.strategy)
    trainer = Trainer(
        accelerator="cpu", devices=case.num_ranks, strategy=strategy or ModelParallelStrategy(case.num_ranks, 1),
        callbacks=[watch, Before(watch), RelevanceCallback(), After(watch)], use_distributed_sampler=False,
        inference_mode=False, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    torch.manual_seed(0)
    module = SparC3Module(
        config=MODEL, tokenizer=str(ROOT / "configs/tiny/tokenizer"), dtype="bfloat16", granularity=case.granularity,
        modules=case.modules,
    )  # fmt: skip
    data = SparC3DataModule({"random": RandomSamples()}, batch_size=BATCH)
    trainer.predict(module, datamodule=data, return_predictions=False)
    return {"batches": dict(watch.batches.sent), "end": dict(watch.end.sent), "num_batches": watch.num_batches,
            "peak_bytes": watch.peak_bytes}  # fmt: skip


def _child(rank: int, num_ranks: int, port: int, directory: str) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks),
        "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "scaling",
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    found = [asdict(case) | predict(case) for case in cases(num_ranks)]
    (Path(directory) / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def measure(num_ranks: int) -> list[dict[str, Any]]:
    """All cases with so many processes: what the ranks sent in the mean, and what one held at most."""
    # Where the ranks meet, on a port that is free: as torchrun has it.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as directory:
        torch.multiprocessing.start_processes(
            _child, (num_ranks, store.port, directory), nprocs=num_ranks, start_method="forkserver"
        )
        ranks = [json.loads((Path(directory) / f"{rank}.json").read_text("utf-8")) for rank in range(num_ranks)]
    return [_of_all(of_ranks) for of_ranks in zip(*ranks, strict=True)]


def _of_all(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def mean(when: str) -> dict[str, float]:
        kinds = {kind for found in ranks for kind in found[when] if kind}
        return {kind: sum(found[when].get(kind, 0.0) for found in ranks) / len(ranks) for kind in sorted(kinds)}

    peak = max(found["peak_bytes"] for found in ranks)
    return {**ranks[0], "batches": mean("batches"), "end": mean("end"), "peak_bytes": peak}


def compare(found: dict[str, Any]) -> dict[str, Any]:
    """What was counted beside the closed forms."""
    case = Case(found["strategy"], found["granularity"], found["num_ranks"])
    settings, sizes = case.settings(), Sizes(model_config(MODEL))
    attributed = sizes.attributed(settings.modules)
    work = sizes.count(settings.modules, settings.dtype)
    held = gpu_bytes(settings, sizes, work, attributed, [(TOKENS, BATCH)])
    return found | {
        "closed_form": {
            "batch": sum(step_bytes(settings, sizes, attributed).values()),
            "end": set_bytes(settings, attributed),
            "peak_bytes": sum(held.values()) - CONTEXT_BYTES,
            "held": held,
        },
    }


def show(results: list[dict[str, Any]]) -> None:
    """Print one table."""
    columns = ("", "sent a sample", "of it", "at the end", "of it", "peak", "of it")
    table = Table(
        *(Column(name, no_wrap=True) for name in columns),
        box=box.SIMPLE_HEAD,
        title="counted, and as a share of the closed form",
    )
    for found in results:
        closed, num = found["closed_form"], found["num_batches"] * BATCH
        batch, end = sum(found["batches"].values()) / num, sum(found["end"].values())
        name = f"{found['num_ranks']} {found['strategy']} {found['granularity']}"
        table.add_row(
            name, amount(batch), _share(batch, closed["batch"] / BATCH), amount(end), _share(end, closed["end"]),
            amount(found["peak_bytes"]), _share(found["peak_bytes"], closed["peak_bytes"]),
        )  # fmt: skip
    Console().print(table)


def show_score_sets(found: dict[str, Any]) -> None:
    """Print what was read and held, in sets."""
    table = Table(
        *("", "read", "hashed", "held at most"),
        box=box.SIMPLE_HEAD,
        title=f"in sets; the largest module is {found['largest_module'] / found['set']:.2f} of one",
    )
    for name, step in found["steps"].items():
        table.add_row(name, *(f"{step[key] / found['set']:.2f}" for key in ("read", "hashed", "peak")))
    Console().print(table)


def _share(counted: float, closed: float) -> str:
    return f"{counted / closed:.3f}" if closed else "-"


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args()
    results = [compare(found) for num_ranks in args.ranks for found in measure(num_ranks)]
    show(results)
    with tempfile.TemporaryDirectory() as directory:
        score_sets = measure_score_sets(Path(directory))
    show_score_sets(score_sets)
    if args.json:
        args.json.write_text(
            json.dumps({"predict": results, "score_sets": score_sets}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
