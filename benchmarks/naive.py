"""The baseline: LXT's own monkey patch and a loop over single samples, as one would write it without this project.

LXT patches the whole process and has no undo, so this runs in a process of its own, which answers the benchmark's
requests in turn with the other measurements.
"""

import sys
import types
from multiprocessing.connection import Connection
from typing import Any

import torch
from measure import live_bytes, peak_bytes, seconds
from transformers.models.llama import modeling_llama


class _Registry(dict[str, Any]):
    def get_interface(self, name: str, default: Any) -> Any:
        return self.get(name, default)


def patch_llama() -> None:
    """LXT 2.1 under transformers 5: its BERT and ViT files do not import, its attention registry is a plain dict."""
    for name, attributes in {
        "bert": ("modeling_bert", "attnLRP"),
        "vit_torch": ("vision_transformer", "cp_LRP"),
    }.items():
        stub = types.ModuleType(f"lxt.efficient.models.{name}")
        for attribute in attributes:
            setattr(stub, attribute, object())
        sys.modules.setdefault(stub.__name__, stub)
    from lxt.efficient import monkey_patch

    monkey_patch(modeling_llama)
    modeling_llama.ALL_ATTENTION_FUNCTIONS = _Registry(modeling_llama.ALL_ATTENTION_FUNCTIONS)


def naive_scores(model: Any, samples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """abs(W * W.grad) of every linear layer, one sample after the other; the mean over the samples."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    scores = {name: torch.zeros_like(module.weight, dtype=torch.float32) for name, module in linears.items()}
    for ids in samples:
        model.zero_grad()
        logits = model(input_ids=ids[None], use_cache=False).logits[0, -1]
        logits[logits.argmax()].backward()
        for name, module in linears.items():
            scores[name] += (module.weight.detach() * module.weight.grad).abs().float()
    return {name: score / len(samples) for name, score in scores.items()}


def serve(connection: Connection, build: Any, num_threads: int) -> None:
    """Answer ("seconds" or "bytes", samples) until the pipe closes."""
    torch.set_num_threads(num_threads)
    model = build()
    patch_llama()
    connection.send("ready")
    while True:
        try:
            what, samples = connection.recv()
        except EOFError:
            return
        measure = seconds if what == "seconds" else live_bytes
        connection.send(measure(lambda samples=samples: naive_scores(model, samples)))
        model.zero_grad()


def serve_once(connection: Connection, build: Any, shape: dict[str, Any], sets: list[Any], device: str) -> None:
    """Send seconds and peak bytes of the loop over each set of samples, or why there are none."""
    try:
        model = build(shape)
        patch_llama()
        found = []
        for samples in sets:
            on_device = [sample.to(device) for sample in samples]
            naive_scores(model, on_device[:1])
            run = lambda samples=on_device: naive_scores(model, samples)  # noqa: E731
            found.append((seconds(run), peak_bytes(run, model)))
        connection.send(found)
    except (ImportError, RuntimeError) as error:  # out of memory is a RuntimeError
        connection.send(f"{type(error).__name__}: {str(error).splitlines()[0]}")
