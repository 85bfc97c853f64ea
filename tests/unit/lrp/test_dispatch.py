"""Which code computes relevance, and what is refused."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from sparc3_lightning import attribute
from sparc3_lightning.lrp import dispatch
from sparc3_lightning.lrp.dispatch import uses_triton
from tests.tiny import tiny_llama, tiny_samples

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    for function in (dispatch._obstacle, dispatch._trial):
        function.cache_clear()
    yield
    for function in (dispatch._obstacle, dispatch._trial):
        function.cache_clear()


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(dispatch, "_trial", cache(lambda device, dtype, told: None))


@pytest.mark.usefixtures("hopper")
def test_auto_is_the_kernel_on_a_gpu_in_half_precision() -> None:
    dtypes = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    assert [uses_triton("auto", GPU, dtype) for dtype in dtypes] == [True, True, False, False]
    assert [uses_triton("triton", GPU, dtype) for dtype in dtypes[:3]] == [True, True, True]
    assert not any(uses_triton("eager", GPU, dtype) for dtype in dtypes)
    with pytest.raises(ValueError, match=r"bfloat16, float16 or float32, got torch\.float64.*`model\.kernel: auto`"):
        uses_triton("triton", GPU, torch.float64)


def test_a_kernel_that_does_not_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from sparc3_lightning.lrp import kernels

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("\nno C compiler was found\n")

    # Without a GPU the first would fail as well, in words of its own.
    monkeypatch.setattr(torch, "ones", fail)
    monkeypatch.setattr(kernels, "add_relevance_", fail)
    monkeypatch.setattr(dispatch, "_obstacle", cache(lambda *arguments: None))
    with pytest.warns(UserWarning, match=r"without the fused kernel, which needs a working Triton, .*no C compiler"):
        assert not uses_triton("auto", GPU, torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not uses_triton("auto", GPU, torch.bfloat16), "told once"
    with pytest.raises(ValueError, match=r"`kernel: triton` needs a working Triton, .*no C compiler"):
        uses_triton("triton", GPU, torch.bfloat16)


def test_auto_is_eager_on_a_cpu() -> None:
    assert not uses_triton("auto", CPU, torch.bfloat16)


def test_what_cannot_run_is_refused() -> None:
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match=r"`kernel: triton` needs an NVIDIA GPU, got device cpu.*`model\.kernel"):
        attribute(tiny_llama(), tiny_samples(), kernel="triton")
    with pytest.raises(ValueError, match=r"`kernel` must be one of .*, got 'cuda'"):
        attribute(tiny_llama(), tiny_samples(), kernel="cuda")


def test_old_gpus_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert not uses_triton("auto", GPU, torch.float16)
    with pytest.raises(ValueError, match=r"compute capability 8\.0, got \(7, 0\)"):
        uses_triton("triton", GPU, torch.float16)


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "find_spec", lambda name: None)
    assert not uses_triton("auto", GPU, torch.bfloat16)
    with pytest.raises(ValueError, match="Triton, which is not installed"):
        uses_triton("triton", GPU, torch.bfloat16)


def test_attribution_never_imports_triton_where_it_is_missing(tmp_path: Path) -> None:
    """As under a CPU build of torch: any import of Triton fails."""
    (tmp_path / "triton.py").write_text("raise ImportError('hidden')\n")
    program = (
        "import importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'triton' else found(name, package)\n"
        "from sparc3_lightning import attribute; from tests.tiny import tiny_llama, tiny_samples\n"
        "print(attribute(tiny_llama(), tiny_samples()).total)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert float(run.stdout) > 0
