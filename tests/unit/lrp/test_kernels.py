"""The fused kernel without a GPU: what it computes, in Triton's interpreter; that it compiles, for an H100."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

triton = pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds")

from sparc3_lightning.lrp import kernels  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
SHARED_MEMORY = 227 * 1024  # bytes that one program may have on an H100 or H200
POINTERS = {"x", "d", "weight"}
TYPES = {"bf16": kernels._HALF_ONE_SAMPLE, "fp16": kernels._HALF_ONE_SAMPLE, "fp32": kernels._SINGLE}


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


@pytest.mark.skipif(
    release(triton.__version__) < (3, 7) and release(np.__version__) >= (2, 4),
    reason="an older Triton's interpreter does not run under this numpy",
)
def test_under_the_interpreter() -> None:
    """In a process of its own: Triton reads the variable when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/unit/lrp/interpreted.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]


def compiled(config: Any, dtype: str, **flags: bool) -> Any:
    """The kernel for compute capability 9.0, as for the tensors of a linear layer with sizes that 16 divides."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = kernels._kernel.fn
    constants = {**flags, **config.kwargs, "out_i": 1, "x_i": 1, "d_o": 1, "weight_i": 1}
    types = {name: f"*{dtype}" if name in POINTERS else "i32" for name in kernel.arg_names} | {"out": "*fp32"}
    signature = {name: "constexpr" if name in constants else kind for name, kind in types.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, kind) in enumerate(signature.items())
        if kind != "constexpr" and name not in ("num_samples", "num_tokens", "token_class")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize(("dtype", "config"), [("bf16", kernels._HALF[0]), ("fp32", kernels._SINGLE[0])])
def test_compiles_for_hopper(dtype: str, config: Any) -> None:
    check(compiled(config, dtype, SIGNED=False, ROWS=True, ONE_SAMPLE=False), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
def test_every_config_compiles_for_hopper(dtype: str) -> None:
    for config in TYPES[dtype]:
        for rows in (True, False):
            for flags in ({"SIGNED": False, "ONE_SAMPLE": False}, {"SIGNED": False, "ONE_SAMPLE": True},
                          {"SIGNED": True, "ONE_SAMPLE": False}):  # fmt: skip
                check(compiled(config, dtype, ROWS=rows, **flags), dtype)


def check(kernel: Any, dtype: str) -> None:
    assert kernel.asm["cubin"]
    assert kernel.metadata.shared <= SHARED_MEMORY
    code = kernel.asm["ptx"]
    # Halves: tensor cores of this generation, fed by copies that do not wait. float32: neither they nor tf32.
    assert ("wgmma.mma_async" in code) == (dtype != "fp32")
    assert "cp.async" in code
    assert "tf32" not in code
