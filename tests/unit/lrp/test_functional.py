"""The rules as arithmetic, one by one."""

import math

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from sparc3_lightning.lrp.functional import IdentityRule, RMSNormRule, activation_ratio
from sparc3_lightning.lrp.lxt_rules import divide_gradient, stop_gradient
from tests.reference import rules

KNOWN = sorted(rules.ACTIVATIONS)


def backward(activation: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    IdentityRule.apply(x, activation.forward, activation_ratio(activation)).sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize("name", KNOWN)
def test_identity_rule_is_f_of_x_over_x(name: str) -> None:
    points = [-30.0, -7.5, -1.0, -1e-3, 1e-3, 0.5, 3.0, 40.0]
    ours = backward(ACT2FN[name], torch.tensor(points, dtype=torch.float64))
    reference = torch.tensor([rules.ACTIVATIONS[name](x) / x for x in points], dtype=torch.float64)
    assert (ours - reference).abs().max() <= 1e-9


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_identity_rule_where_lxt_divides_by_zero(name: str, dtype: torch.dtype) -> None:
    # LXT divides by x + 1e-10: -inf at x = -1e-10, and nan in float16, where 1e-10 is 0.
    ours = backward(ACT2FN[name], torch.tensor([-1e-10, 0.0, 1e-10], dtype=dtype))
    assert torch.isfinite(ours).all()
    limit = 0.0 if name == "relu" else 0.5
    assert ours[0].item() == pytest.approx(limit, abs=1e-6)


def test_lxt_itself_still_divides_by_zero() -> None:
    """The reason for the closed forms; when this fails, LXT's own rule may do."""
    from sparc3_lightning.lrp import lxt_rules

    for x in (torch.tensor([-1e-10]), torch.zeros(1, dtype=torch.float16)):
        x.requires_grad_()
        lxt_rules._rules.identity_rule_implicit(torch.nn.functional.silu, x).sum().backward()
        assert x.grad is not None
        assert not torch.isfinite(x.grad).all(), "LXT's identity rule no longer divides by zero"


@pytest.mark.parametrize("name", KNOWN)
def test_native_forward_is_kept(name: str) -> None:
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    activation = ACT2FN[name]
    assert torch.equal(IdentityRule.apply(x, activation.forward, activation_ratio(activation)), activation(x))


def test_large_values_in_float16_stay_finite() -> None:
    for name in KNOWN:
        assert torch.isfinite(backward(ACT2FN[name], torch.tensor([-6e4, 6e4], dtype=torch.float16))).all(), name


def test_torch_gelu_follows_its_approximation() -> None:
    x = torch.tensor([1.5], dtype=torch.float64)
    exact, approximate = backward(nn.GELU(), x), backward(nn.GELU(approximate="tanh"), x)
    assert exact.item() == pytest.approx(rules.gelu(1.5) / 1.5, abs=1e-12)
    assert approximate.item() == pytest.approx(rules.gelu_tanh(1.5) / 1.5, abs=1e-12)
    assert exact.item() != approximate.item()


@pytest.mark.parametrize("activation", [nn.Mish(), nn.Tanh(), ACT2FN["quick_gelu"]])
def test_activation_without_closed_form_is_refused(activation: nn.Module) -> None:
    with pytest.raises(ValueError, match="no identity rule is known"):
        activation_ratio(activation)


def norm_gradients(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    upstream = torch.arange(1.0, x.numel() + 1, dtype=x.dtype).reshape(x.shape)
    out = RMSNormRule.apply(x, weight, eps, lambda v: rules.rms_norm(v, weight, eps))
    (out * upstream).sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    return x.grad, weight.grad


def test_norm_rule_takes_the_root_as_a_constant() -> None:
    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)).double()
    weight, eps = torch.linspace(-1, 2, 8).double(), 1e-5
    ours, of_weight = norm_gradients(x, weight, eps)
    upstream = torch.arange(1.0, x.numel() + 1).double().reshape(x.shape)
    for index in torch.cartesian_prod(torch.arange(3), torch.arange(4)).tolist():
        row, up = x[tuple(index)], upstream[tuple(index)]
        root = math.sqrt(sum(v * v for v in row.tolist()) / 8 + eps)
        assert torch.allclose(ours[tuple(index)], up * weight / root, rtol=0, atol=1e-9)
        # the identity rule: relevance in is relevance out, channel by channel
        out = row / root * weight
        assert torch.allclose(row * ours[tuple(index)], out * up, rtol=0, atol=1e-9)
    assert torch.allclose(of_weight, (upstream * x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)).sum((0, 1)))


def test_norm_rule_differs_from_autograd() -> None:
    x, weight = torch.randn(2, 8).double().requires_grad_(), torch.ones(8).double()
    (rules.rms_norm(x, weight, 1e-5) * torch.arange(8.0)).sum().backward()
    rule_x = x.detach().clone().requires_grad_()
    out = RMSNormRule.apply(rule_x, weight, 1e-5, lambda v: rules.rms_norm(v, weight, 1e-5))
    (out * torch.arange(8.0)).sum().backward()
    assert x.grad is not None
    assert rule_x.grad is not None
    assert (x.grad - rule_x.grad).abs().max() > 0.1


def test_uniform_rule_halves_exactly() -> None:
    # method.md, trap 12: assert AttnLRP's factors, never its sum.
    a, b = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    (divide_gradient(a * b, 2)).sum().backward()
    assert a.grad is not None
    assert torch.equal(a.grad, b.detach() / 2)
    relevance = (a * b).detach()
    of_a, of_b = rules.product(relevance)
    assert torch.allclose(a.detach() * a.grad, of_a)
    assert torch.equal(of_a + of_b, relevance)


def test_stop_gradient_stops() -> None:
    assert not stop_gradient(torch.ones(1, requires_grad=True)).requires_grad
