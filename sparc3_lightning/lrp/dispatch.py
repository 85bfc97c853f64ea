"""Which code computes relevance: the fused Triton kernel, or eager PyTorch, its reference."""

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

Kernel = Literal["auto", "eager", "triton"]
KERNELS: tuple[str, ...] = ("auto", "eager", "triton")

_HALVES = (torch.bfloat16, torch.float16)


def uses_triton(kernel: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a layer's relevance goes through the fused kernel; the one place that decides.

    Args:
        kernel: "auto": on a GPU, where the tensor cores take the type (float32 they would round); "eager": never;
            "triton": always.
        device: Where the layer is.
        dtype: What it computes in.

    Raises:
        ValueError: `kernel` is none of these, or is "triton" where the fused kernel cannot run.
    """
    if kernel not in KERNELS:
        raise ValueError(f"`kernel` must be one of {KERNELS}, got {kernel!r}. Set `model.kernel`.")
    if kernel == "eager" or (kernel == "auto" and (device.type != "cuda" or dtype not in _HALVES)):
        return False
    obstacle = _obstacle(device.type, device.index, dtype) or _trial(device, dtype, told=kernel == "auto")
    if kernel == "triton" and obstacle is not None:
        raise ValueError(f"`kernel: triton` needs {obstacle}. Set `model.kernel: auto` (or `eager`).")
    return obstacle is None


@cache
def _trial(device: torch.device, dtype: torch.dtype, told: bool) -> str | None:
    """What is wrong where the fused kernel should run and does not: Triton needs a C compiler and a writable cache."""
    from sparc3_lightning.lrp import kernels

    try:
        x = torch.ones(2, 16, 64, dtype=dtype, device=device)
        kernels.add_relevance_(torch.zeros(64, device=device), x, x, x[:1].expand(4, -1, -1).reshape(64, 64), "abs")
    except Exception as error:  # whatever a compiler, a driver or a file system may say
        said = str(error).strip().splitlines() or ["nothing more"]
        reason = f"a working Triton, got {type(error).__name__}: {said[-1]}"
        if told:
            warnings.warn(f"relevance is computed without the fused kernel, which needs {reason}.", stacklevel=3)
        return reason
    return None


@cache
def _obstacle(device_type: str, device_index: int | None, dtype: torch.dtype) -> str | None:
    """What the fused kernel lacks here; None: nothing."""
    if find_spec("triton") is None:
        return "Triton, which is not installed (it comes with torch's CUDA builds)"
    if dtype not in (*_HALVES, torch.float32):
        return f"bfloat16, float16 or float32, got {dtype}"
    import triton

    if triton.knobs.runtime.interpret:  # TRITON_INTERPRET=1: Triton's own check of a kernel, on any device
        return None if device_type == "cpu" else f"the CPU under Triton's interpreter, got {device_type}"
    if device_type != "cuda" or torch.version.hip is not None:
        return f"an NVIDIA GPU, got {'an AMD GPU' if device_type == 'cuda' else f'device {device_type}'}"
    capability = torch.cuda.get_device_capability(device_index)
    return None if capability >= (8, 0) else f"an NVIDIA GPU of compute capability 8.0, got {capability}"
