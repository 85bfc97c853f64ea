"""RelevanceLinear and its sinks: absolute value per sample, accumulation in float32, ordinary gradients passed on."""

import pytest
import torch
from torch import Tensor, nn

from sparc3_lightning.lrp import linear as linear_room
from sparc3_lightning.lrp.linear import Sink, add_relevance_, relevance_forward

B, T, I, O = 5, 4, 6, 8  # noqa: E741


def inputs(dtype: torch.dtype = torch.float64, tokens: int = T) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, tokens, I), (B, tokens, O), (O, I))
    x, d, weight = (torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return x, d, weight


def by_hand(x: Tensor, d: Tensor, weight: Tensor, sign: str) -> Tensor:
    """Shape: (O, I); one weight, one sample, one token at a time, in float64."""
    total = torch.zeros(O, I, dtype=torch.float64)
    for o in range(O):
        for i in range(I):
            for s in range(x.shape[0]):
                gradient = sum(d[s, t, o].double() * x[s, t, i].double() for t in range(x.shape[1]))
                relevance = weight[o, i].double() * gradient
                total[o, i] += abs(relevance) if sign == "abs" else relevance
    return total


@pytest.mark.parametrize("tokens", [1, T])
@pytest.mark.parametrize("sign", ["abs", "signed"])
def test_against_loops(sign: str, tokens: int) -> None:
    x, d, weight = inputs(tokens=tokens)
    weights, rows = torch.zeros(O, I, dtype=torch.float64), torch.zeros(O, dtype=torch.float64)
    add_relevance_(weights, x, d, weight, sign)
    add_relevance_(rows, x, d, weight, sign)
    expected = by_hand(x, d, weight, sign)
    assert (weights - expected).abs().max() <= 1e-12
    assert (rows - expected.sum(1)).abs().max() <= 1e-12


@pytest.mark.parametrize("sign", ["abs", "signed"])
@pytest.mark.parametrize("shape", [(O, I), (O,)])
def test_tiles_change_nothing(sign: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x, d, weight = inputs()
    whole, tiled = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    add_relevance_(whole, x, d, weight, sign)
    monkeypatch.setattr(linear_room, "_TILE_NUMEL", 3 * I)  # three rows a tile: the last one is shorter
    add_relevance_(tiled, x, d, weight, sign)
    assert torch.allclose(tiled, whole, rtol=1e-14)


def test_absolute_value_is_taken_per_sample() -> None:
    # Trap 1: two samples with opposite gradients; any sum before the absolute value gives 0.
    x, d, weight = inputs()
    x, d = torch.cat([x, x]), torch.cat([d, -d])
    once, both = torch.zeros(O, dtype=torch.float64), torch.zeros(O, dtype=torch.float64)
    add_relevance_(once, x[:B], d[:B], weight, "abs")
    add_relevance_(both, x, d, weight, "abs")
    assert torch.allclose(both, 2 * once, rtol=1e-12)
    signed = torch.zeros(O, dtype=torch.float64)
    add_relevance_(signed, x, d, weight, "signed")
    assert signed.abs().max() <= 1e-12


def test_absolute_value_is_taken_after_the_token_sum() -> None:
    x = torch.tensor([[[1.0], [-1.0]]])  # one sample, two tokens that cancel
    out = torch.zeros(1, 1)
    add_relevance_(out, x, torch.ones(1, 2, 1), torch.ones(1, 1), "abs")
    assert out.item() == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("sign", ["abs", "signed"])
def test_low_precision_accumulates_in_float32(dtype: torch.dtype, tokens: int, sign: str) -> None:
    # Traps 6, 7: 1,000 additions of 1 stall at 256 (bfloat16) or are fine only up to 2,048 (float16).
    num = 3000
    sink = Sink(sign, torch.zeros(1, 1), torch.zeros(2))
    linear = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.ones_(linear.weight).requires_grad_(False)
    forward = relevance_forward(linear, sink, torch.zeros((), requires_grad=True))
    ones = torch.full((1, tokens, 1), 1 / tokens, dtype=dtype)
    for _ in range(num // 10):
        forward(ones.expand(10, -1, -1)).sum().backward()
    assert sink.accumulator is not None
    assert sink.accumulator.dtype == torch.float32
    assert sink.accumulator.item() == pytest.approx(num, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 2])
def test_low_precision_sums_within_a_batch_in_float32(dtype: torch.dtype, tokens: int) -> None:
    num = 3001  # no number of bfloat16's, nor reached there by additions of 1
    out, x = torch.zeros(1, 1), torch.full((num, tokens, 1), 1 / tokens, dtype=dtype)
    add_relevance_(out, x, torch.ones(num, tokens, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype), "abs")
    assert out.item() == num


def test_autocast_does_not_reach_the_sums() -> None:
    num = 3001
    linear = nn.Linear(1, 1, bias=False)
    nn.init.ones_(linear.weight).requires_grad_(False)
    sink = Sink("abs", torch.zeros(1, 1), torch.zeros(2))
    with torch.autocast("cpu", torch.bfloat16):
        out = relevance_forward(linear, sink, torch.zeros((), requires_grad=True))(torch.ones(num, 1, 1))
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
    assert sink.accumulator is not None
    assert sink.accumulator.item() == num


def test_rows_of_low_precision_weights_are_summed_in_float32() -> None:
    weight = torch.ones(1, 4096, dtype=torch.bfloat16)
    out = torch.zeros(1)
    add_relevance_(out, torch.ones(1, 1, 4096).bfloat16(), torch.ones(1, 1, 1).bfloat16(), weight, "abs")
    assert out.item() == 4096.0


@pytest.mark.parametrize("sign", ["abs", "signed"])
def test_float16_products_keep_their_range(sign: str) -> None:
    half, weight = torch.ones(1, 2, 1, dtype=torch.float16), torch.ones(1, 1, dtype=torch.float16)
    for factor in (300.0, 1e-4):  # the squares are above float16's largest number, or below its smallest
        out = torch.zeros(1, 1)
        add_relevance_(out, factor * half, factor * half, weight, sign)
        assert out.item() == pytest.approx(2 * factor**2, rel=1e-2)


@pytest.mark.parametrize("bias", [True, False])
def test_input_gradient_and_output_are_the_layers_own(bias: bool) -> None:
    x, d, _ = inputs(torch.float32)
    linear = nn.Linear(I, O, bias=bias)
    x.requires_grad_()
    sink = Sink("abs", torch.zeros(O), torch.zeros(2))
    out = linear(x)
    (expected,) = torch.autograd.grad(out, x, d)
    ours = relevance_forward(linear, sink, torch.zeros((), requires_grad=True))(x)
    assert torch.equal(ours, out)
    assert torch.equal(torch.autograd.grad(ours, x, d)[0], expected)
    assert sink.num_backwards == 1


def test_bias_takes_no_part_of_the_weights_relevance() -> None:
    x, d, weight = inputs()
    scores = []
    for bias in (True, False):
        linear = nn.Linear(I, O, bias=bias, dtype=torch.float64)
        linear.weight.data = weight
        linear.requires_grad_(False)
        sink = Sink("abs", torch.zeros(O, I, dtype=torch.float64), torch.zeros(2))
        relevance_forward(linear, sink, torch.zeros((), requires_grad=True))(x).backward(d)
        scores.append(sink.accumulator)
        assert linear.bias is None or linear.bias.grad is None
    assert torch.equal(*scores)


def test_frozen_layer_with_frozen_input_is_recorded() -> None:
    x, d, weight = inputs()
    linear = nn.Linear(I, O, bias=False, dtype=torch.float64).requires_grad_(False)
    linear.weight.data = weight
    sink = Sink("abs", torch.zeros(O, I, dtype=torch.float64), torch.zeros(2))
    relevance_forward(linear, sink, torch.zeros((), requires_grad=True))(x).backward(d)
    assert sink.accumulator is not None
    assert (sink.accumulator - by_hand(x, d, weight, "abs")).abs().max() <= 1e-12
    assert linear.weight.grad is None


def test_without_accumulator_relevance_is_the_weights_gradient() -> None:
    """The sink of sharded weights: FSDP2 reduces it as it reduces gradients."""
    x, d, weight = inputs()
    linear = nn.Linear(I, O, bias=False, dtype=torch.float64)
    linear.weight.data = weight
    sink = Sink("abs", None, torch.zeros(2))
    forward = relevance_forward(linear, sink, torch.zeros((), requires_grad=True))
    for s in range(B):
        forward(x[s : s + 1]).backward(d[s : s + 1])
    assert linear.weight.grad is not None
    assert (linear.weight.grad - by_hand(x, d, weight, "abs")).abs().max() <= 1e-12


def test_flags_of_numbers_that_are_not_finite() -> None:
    linear = nn.Linear(I, O, bias=False, dtype=torch.float64)
    for place in (0, 1):
        x, d, _ = inputs()
        (x if place == 0 else d)[2, 1, 3] = torch.inf
        sink = Sink("abs", torch.zeros(O, dtype=torch.float64), torch.zeros(2))
        relevance_forward(linear, sink, torch.zeros((), requires_grad=True))(x).backward(d)
        assert sink.checks.isfinite().tolist() == [place != 0, place != 1]


def test_large_finite_numbers_are_finite() -> None:
    # their sum leaves float16's range
    linear = nn.Linear(2, 2, bias=False, dtype=torch.float16)
    linear.weight.data = torch.eye(2, dtype=torch.float16)
    sink = Sink("abs", torch.zeros(2), torch.zeros(2))
    x = torch.full((1, 2, 2), 6e4, dtype=torch.float16)
    relevance_forward(linear, sink, torch.zeros((), requires_grad=True))(x).backward(x)
    assert sink.checks.isfinite().all()
