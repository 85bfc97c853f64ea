"""The fused kernel against eager PyTorch in float32, on the shapes of LLaMA-3-8B and on crooked ones."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds")

from sparc3_lightning.lrp import kernels
from sparc3_lightning.lrp.dispatch import uses_triton
from sparc3_lightning.lrp.linear import add_relevance_

HALVES = (torch.bfloat16, torch.float16)
# Products of halves are exact in float32, and tensor cores add them up without rounding to nearest.
HALF_TOLERANCE = 1e-4
# B, T, O, I
LLAMA = [
    (1, 2048, 14336, 4096),  # up and gate, one long sample
    (2, 2048, 4096, 14336),  # down
    (80, 50, 14336, 4096),  # short prompts
    (3, 65, 4096, 4096),  # q and o
    (2, 128, 1024, 4096),  # k and v
    (93, 1, 14336, 4096),  # one token a sample: the last block
]
CROOKED = [(3, 77, 1000, 520), (1, 33, 45, 37), (5, 20, 129, 257), (2, 64, 64, 64), (4, 1, 33, 50), (1, 1, 5, 3)]


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    num_samples, num_tokens, num_out, num_in = shape
    sizes = ((num_samples, num_tokens, num_in), (num_samples, num_tokens, num_out), (num_out, num_in))
    x, d, weight = (torch.randn(size, device="cuda").to(dtype) for size in sizes)
    return x, d, weight


def added(x: Tensor, d: Tensor, weight: Tensor, sign: str, granularity: str) -> Tensor:
    """What the kernel adds to an accumulator that lies amid NaN and holds something already."""
    size = weight.shape if granularity == "weight" else weight.shape[:1]
    around = torch.full([n + 2 for n in size], torch.nan, device="cuda")
    accumulator = around[tuple(slice(1, -1) for _ in size)]
    accumulator.fill_(3.0)
    kernels.add_relevance_(accumulator, x, d, weight, sign)
    assert int(around.isfinite().sum()) == accumulator.numel(), "written beside the accumulator, or NaN in it"
    return accumulator - 3.0


def expected(x: Tensor, d: Tensor, weight: Tensor, sign: str, granularity: str) -> Tensor:
    out = torch.zeros(weight.shape if granularity == "weight" else weight.shape[:1], device="cuda")
    add_relevance_(out, x.float(), d.float(), weight.float(), sign)  # type: ignore[arg-type]
    return out


def error(a: Tensor, b: Tensor) -> float:
    """Relative, by norm; NaN where there is one."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
@pytest.mark.parametrize("shape", [*LLAMA, *CROOKED])
@pytest.mark.parametrize("dtype", HALVES)
def test_halves(dtype: torch.dtype, shape: tuple[int, int, int, int], granularity: str) -> None:
    x, d, weight = inputs(shape, dtype)
    found = added(x, d, weight, "abs", granularity)
    assert error(found, expected(x, d, weight, "abs", granularity)) < HALF_TOLERANCE


@pytest.mark.parametrize("sign", ["abs", "signed"])
@pytest.mark.parametrize("granularity", ["neuron", "weight"])
@pytest.mark.parametrize("shape", [(2, 300, 1024, 4096), *CROOKED])
def test_float32(shape: tuple[int, int, int, int], granularity: str, sign: str) -> None:
    x, d, weight = inputs(shape, torch.float32)
    assert error(added(x, d, weight, sign, granularity), expected(x, d, weight, sign, granularity)) < 1e-5


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
@pytest.mark.parametrize("shape", [(2, 300, 1024, 4096), *CROOKED])
def test_signed_halves(shape: tuple[int, int, int, int], granularity: str) -> None:
    x, d, weight = inputs(shape, torch.bfloat16)
    found = added(x, d, weight, "signed", granularity)
    assert error(found, expected(x, d, weight, "signed", granularity)) < HALF_TOLERANCE


def test_eager_in_bfloat16_is_near() -> None:
    x, d, weight = inputs((2, 512, 1024, 1024), torch.bfloat16)
    eager = torch.zeros(weight.shape, device="cuda")
    add_relevance_(eager, x, d, weight, "abs")
    assert error(added(x, d, weight, "abs", "weight"), eager) < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_any_strides(dtype: torch.dtype) -> None:
    x, d, weight = inputs((3, 70, 200, 136), dtype)
    crooked = (
        x.transpose(1, 2).contiguous().transpose(1, 2),
        torch.stack([d, torch.full_like(d, torch.nan)], dim=-1)[..., 0],
        weight.T.contiguous().T,
    )
    for granularity in ("neuron", "weight"):
        assert error(added(*crooked, "abs", granularity), expected(x, d, weight, "abs", granularity)) < HALF_TOLERANCE
    shifted = x.new_empty(x.numel() + 1)[1:].view_as(x).copy_(x)  # no address that 16 bytes divide
    assert error(added(shifted, d, weight, "abs", "weight"), expected(x, d, weight, "abs", "weight")) < HALF_TOLERANCE


def test_more_numbers_than_32_bits_count() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 40e9:
        pytest.skip("needs 40 GB")
    num_tokens, num_out, num_in = 17000, 128256, 64
    x, d, weight = inputs((1, num_tokens, num_out, num_in), torch.bfloat16)
    assert d.numel() > 2**31
    out = torch.zeros(num_out, device="cuda")
    kernels.add_relevance_(out, x, d, weight, "abs")
    tail = slice(num_out - 300, num_out)
    assert error(out[tail], expected(x, d[..., tail], weight[tail], "abs", "neuron")) < HALF_TOLERANCE


def test_float16_products_keep_their_range() -> None:
    half = torch.ones(2, 70, 64, dtype=torch.float16, device="cuda")
    weight = torch.ones(64, 64, dtype=torch.float16, device="cuda")
    for factor in (300.0, 1e-4):  # the squares are above float16's largest number, or below its smallest
        out = torch.zeros(64, 64, device="cuda")
        kernels.add_relevance_(out, factor * half, factor * half, weight, "abs")
        assert torch.allclose(out, torch.full_like(out, 2 * 70 * factor**2), rtol=1e-2)


@pytest.mark.parametrize("granularity", ["neuron", "weight"])
def test_twice_is_the_same_bit_for_bit(granularity: str) -> None:
    x, d, weight = inputs((4, 200, 3000, 1000), torch.bfloat16)
    first = added(x, d, weight, "abs", granularity)
    assert torch.equal(added(x, d, weight, "abs", granularity), first)


def test_auto_takes_the_kernel_here() -> None:
    device = torch.device("cuda", 0)
    assert uses_triton("auto", device, torch.bfloat16)
    assert not uses_triton("auto", device, torch.float32)
