"""The fused kernel under Triton's interpreter, on the CPU; `test_kernels.py` runs this file with TRITON_INTERPRET=1.

The interpreter has no tensor cores and its tiles are small (32 x 16, 16 tokens at a time); the arithmetic is the GPU's.
"""

from typing import Any

import numpy as np
import pytest
import torch
import triton
from torch import Tensor, nn
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from sparc3_lightning import attribute
from sparc3_lightning.lrp import kernels
from sparc3_lightning.lrp.linear import Sink, relevance_forward
from tests.tiny import tiny_llama, tiny_samples

assert triton.knobs.runtime.interpret, "set TRITON_INTERPRET=1"
SIGNS, GRANULARITIES = ("abs", "signed"), ("weight", "neuron")
# B, T, O, I: one and several blocks of tokens, one and several tiles, whole ones and not.
SHAPES = [
    (3, 20, 45, 37),
    (2, 16, 32, 16),
    (1, 33, 40, 64),
    (4, 1, 33, 50),
    (1, 1, 5, 3),
    (2, 17, 64, 9),
    (2, 3, 1, 70),
]
HALVES = (torch.bfloat16, torch.float16)
CASES = [*((torch.float32, shape) for shape in SHAPES), *((half, shape) for half in HALVES for shape in SHAPES[:4:3])]


@pytest.fixture(autouse=True)
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter keeps a bfloat16 as its 16 bits, and multiplies those as integers."""
    dot = InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != triton.language.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), triton.language.float32)

    monkeypatch.setattr(
        InterpreterBuilder, "create_dot", lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)
    )


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    num_samples, num_tokens, num_out, num_in = shape
    sizes = ((num_samples, num_tokens, num_in), (num_samples, num_tokens, num_out), (num_out, num_in))
    x, d, weight = (torch.randn(size).to(dtype) for size in sizes)
    return x, d, weight


def expected(x: Tensor, d: Tensor, weight: Tensor, sign: str, granularity: str) -> Tensor:
    """In float64, from the equation."""
    relevance = weight.double() * torch.einsum("sto,sti->soi", d.double(), x.double())
    total = (relevance.abs() if sign == "abs" else relevance).sum(0)
    return total if granularity == "weight" else total.sum(1)


def found(x: Tensor, d: Tensor, weight: Tensor, sign: str, granularity: str) -> Tensor:
    """What the kernel adds to an accumulator that lies amid NaN and holds something already."""
    size = weight.shape if granularity == "weight" else weight.shape[:1]
    around = torch.full([n + 2 for n in size], torch.nan)
    accumulator = around[tuple(slice(1, -1) for _ in size)]
    before = torch.randn(size)
    accumulator.copy_(before)
    kernels.add_relevance_(accumulator, x, d, weight, sign)
    assert int(around.isfinite().sum()) == before.numel(), "written beside the accumulator, or NaN in it"
    return accumulator.double() - before.double()


def error(a: Tensor, b: Tensor) -> float:
    """Relative, by norm."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_equals_the_equation(dtype: torch.dtype, shape: tuple[int, int, int, int], sign: str, granularity: str) -> None:
    x, d, weight = inputs(shape, dtype)
    assert error(found(x, d, weight, sign, granularity), expected(x, d, weight, sign, granularity)) < 1e-5


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("num_samples", [1, 3])
def test_any_strides(num_samples: int, granularity: str) -> None:
    x, d, weight = inputs((num_samples, 19, 35, 22))
    crooked = (
        x.transpose(1, 2).contiguous().transpose(1, 2),
        torch.stack([d, torch.full_like(d, torch.nan)], dim=-1)[..., 0],
        weight.T.contiguous().T,
    )
    assert not any(tensor.is_contiguous() for tensor in crooked)
    assert error(found(*crooked, "abs", granularity), expected(x, d, weight, "abs", granularity)) < 1e-5
    ones = torch.ones(1, 1, 22).expand_as(x)
    assert error(found(ones, d, weight, "abs", granularity), expected(ones, d, weight, "abs", granularity)) < 1e-5


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_tokens_may_lie_further_apart_than_32_bits_reach(num_tokens: int) -> None:
    """As in views into batches of long samples; only pages that are written to are there."""
    x, d, weight = inputs((3, num_tokens, 20, 16))
    stride = 2**31 // 2 + 2**20
    far = torch.empty(2 * stride + x[0].numel(), dtype=torch.bfloat16)
    place = (stride, 16, 1) if num_tokens == 1 else (16, stride, 1)
    view = far.as_strided(x.shape, place)
    view.copy_(x)
    x = x.bfloat16().float()
    assert error(found(view, d.bfloat16(), weight, "abs", "weight"),
                 expected(x, d.bfloat16().float(), weight, "abs", "weight")) < 1e-5  # fmt: skip


def test_absolute_value_is_taken_per_sample_after_the_token_sum() -> None:
    # Trap 1
    x, d, weight = inputs((2, 20, 8, 8))
    x, d = x[:1].expand(2, -1, -1), torch.cat([d[:1], -d[:1]])
    assert error(found(x, d, weight, "abs", "weight"), 2 * expected(x[:1], d[:1], weight, "abs", "weight")) < 1e-5
    assert found(x, d, weight, "signed", "weight").abs().max() < 1e-5
    tokens = torch.tensor([[[1.0], [-1.0]]])  # one sample, two tokens that cancel
    assert found(tokens, torch.ones(1, 2, 1), torch.ones(1, 1), "abs", "weight").abs().max() < 1e-6


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("num_tokens", [1, 2])
def test_float16_products_keep_their_range(num_tokens: int, sign: str) -> None:
    half = torch.ones(2, num_tokens, 1, dtype=torch.float16)
    weight = torch.ones(1, 1, dtype=torch.float16)
    for factor in (300.0, 1e-4):  # the squares are above float16's largest number, or below its smallest
        out = torch.zeros(1, 1)
        kernels.add_relevance_(out, factor * half, factor * half, weight, sign)
        assert out.item() == pytest.approx(2 * num_tokens * factor**2, rel=1e-2)


@pytest.mark.parametrize("num_tokens", [1, 2])
def test_bfloat16_sums_do_not_stall(num_tokens: int) -> None:
    # Trap 7
    num = 301
    x = torch.full((num, num_tokens, 1), 1 / num_tokens, dtype=torch.bfloat16)
    out = torch.zeros(1, 1)
    kernels.add_relevance_(out, x, torch.ones_like(x), torch.ones(1, 1, dtype=torch.bfloat16), "abs")
    assert out.item() == num


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_trials_of_the_tuner_leave_nothing(granularity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials add to the accumulator, or to columns of row sums that the chosen config does not write."""
    narrow, wide = (
        triton.Config({"BLOCK_O": 16, "BLOCK_I": block_i, "BLOCK_T": 16, "GROUP": 2}) for block_i in (16, 32)
    )
    tried: list[float] = []

    def bench(call: Any, quantiles: Any) -> list[float]:
        call()
        call()
        tried.append(-float(len(tried)))  # each one quicker than the one before
        return [tried[-1]] * 3

    kernel = kernels.tuned([narrow, wide], do_bench=bench)
    monkeypatch.setattr(kernels, "_kernel", kernel)
    x, d, weight = inputs((2, 20, 45, 70))
    assert error(found(x, d, weight, "abs", granularity), expected(x, d, weight, "abs", granularity)) < 1e-5
    assert len(tried) == 2
    assert kernel.best_config is wide
    found(x[:, :18], d[:, :18], weight, "abs", granularity)
    assert len(tried) == 2, "17 to 32 tokens are tuned once"


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("sign", SIGNS)
def test_scores_of_a_model_in_padded_batches(sign: str, granularity: str) -> None:
    model, samples = tiny_llama(), tiny_samples()
    options: dict[str, Any] = {"granularity": granularity, "sign": sign, "modules": "all", "batch_size": 4}
    fused = attribute(model, samples, kernel="triton", **options).scores
    for name, score in attribute(model, samples, kernel="eager", **options).scores.items():
        assert error(fused[name], score) < 1e-5, name


def test_without_accumulator_relevance_is_the_weights_gradient() -> None:
    """The sink of sharded weights."""
    x, d, weight = inputs((3, 18, 40, 20))
    linear = nn.Linear(20, 40, bias=False)
    linear.weight.data = weight
    sink = Sink("abs", None, torch.zeros(2), "triton")
    forward = relevance_forward(linear, sink, torch.zeros((), requires_grad=True))
    for _ in range(2):
        forward(x).backward(d)
    assert linear.weight.grad is not None
    assert error(linear.weight.grad.double(), 2 * expected(x, d, weight, "abs", "weight")) < 1e-5
