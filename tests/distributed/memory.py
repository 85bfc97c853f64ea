"""How much memory a block of code takes, as the kernel counts it for this process; and a model that is not tiny."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny import SHAPE

measured = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the kernel's figures")


@dataclass
class Growth:
    """Bytes of resident memory above the start's, at the block's worst moment."""

    bytes: int = 0


def _resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


@contextmanager
def peak_growth() -> Iterator[Growth]:
    """Measure a block; pages of mapped files count too."""
    growth = Growth()
    # What is freed is given back at once, as it is of tensors larger than these: M_MMAP_THRESHOLD of malloc.h.
    ctypes.CDLL(None).mallopt(-3, 2**18)
    # Sets the kernel's own record of the peak back to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    yield growth
    growth.bytes = _resident("VmHWM") - before


WIDE: dict[str, Any] = {
    **SHAPE, "vocab_size": 6000, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 5,
}  # fmt: skip


def save_wide_model(directory: Path) -> None:
    """About 90 million weights in bfloat16, made without waiting for random ones."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**WIDE))
    weights = {n: torch.full(p.shape, 0.5, dtype=torch.bfloat16) for n, p in model.named_parameters()}
    model.config.dtype = torch.bfloat16
    model.config.save_pretrained(directory)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
