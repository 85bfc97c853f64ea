"""The rules as arithmetic: native forward, another backward (method.md, section 1)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

SQRT_HALF = 0.5**0.5


def silu_ratio(x: Tensor) -> Tensor:
    """SiLU(x) / x = sigmoid(x), exact at 0."""
    return torch.sigmoid(x)


def gelu_ratio(x: Tensor) -> Tensor:
    """GELU(x) / x = Phi(x), the standard normal's distribution function."""
    return 0.5 * (1.0 + torch.erf(x * SQRT_HALF))


def gelu_tanh_ratio(x: Tensor) -> Tensor:
    """GELU(x) / x in the tanh approximation."""
    return 0.5 * (1.0 + torch.tanh((2.0 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def relu_ratio(x: Tensor) -> Tensor:
    """ReLU(x) / x = 1 where x > 0, else 0."""
    return (x > 0).to(x.dtype)


def tanh_ratio(x: Tensor) -> Tensor:
    """tanh(x) / x, 1 at 0."""
    return torch.where(x == 0, 1.0, torch.tanh(x) / x)


RATIOS: dict[str, Callable[[Tensor], Tensor]] = {
    "SiLU": silu_ratio,
    "SiLUActivation": silu_ratio,
    "GELU": gelu_ratio,
    "GELUActivation": gelu_ratio,
    "NewGELUActivation": gelu_tanh_ratio,
    "GELUTanh": gelu_tanh_ratio,
    "FastGELUActivation": gelu_tanh_ratio,
    "ReLU": relu_ratio,
}


def activation_ratio(activation: nn.Module) -> Callable[[Tensor], Tensor]:
    """The closed form of f(x) / x for an activation module.

    Raises:
        ValueError: The activation has no closed form here.
    """
    name = type(activation).__name__
    if name == "GELU" and getattr(activation, "approximate", "none") == "tanh":
        return gelu_tanh_ratio
    if name not in RATIOS:
        raise ValueError(
            f"the activation must be one of {sorted(RATIOS)}, got {name}: no identity rule is known for it."
        )
    return RATIOS[name]


class IdentityRule(Function):
    """Element-wise activation: native forward; backward multiplies by f(x) / x in closed form.

    Source: AttnLRP (Achtibat et al., ICML 2024), Eq. 9; gradient-times-input form of arXiv 2502.15886.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, native: Callable[[Tensor], Tensor], ratio: Callable[[Tensor], Tensor]) -> Tensor:
        """Run the module's own forward."""
        ctx.save_for_backward(x)
        ctx.ratio = ratio
        return native(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Shape: grad and result like x."""
        (x,) = ctx.saved_tensors
        return grad * ctx.ratio(x), None, None


class SoftCapRule(TorchFunctionMode):
    """Inside, torch.tanh hands relevance on by the identity rule.

    A soft cap, `cap * tanh(x / cap)`, is no module: transformers writes it into its functions, which stay as they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called in the place of every function of torch."""
        if func is torch.tanh:
            return IdentityRule.apply(args[0], func, tanh_ratio)
        return func(*args, **(kwargs or {}))


class RMSNormRule(Function):
    """RMSNorm: native forward; backward treats rsqrt(mean(x^2) + eps) as a constant.

    Source: AttnLRP (Achtibat et al., ICML 2024), Eq. 9 applied to normalisation; arXiv 2502.15886.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, native: Callable[[Tensor], Tensor], offset: float = 0.0
    ) -> Tensor:
        """Run the module's own forward, which multiplies by `offset + weight`."""
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.offset = eps, offset
        return native(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Shape: grad like x (..., D); weight (D,)."""
        x, weight = ctx.saved_tensors
        wide = torch.promote_types(x.dtype, torch.float32)
        gain = ctx.offset + weight.to(wide) if ctx.offset else weight
        # Neither x nor the gradient is copied to the wide type: on a GPU such copies are what these lines cost.
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        scale = torch.rsqrt(norm.square() / x.shape[-1] + ctx.eps)
        grad_x = torch.mul(grad * gain, scale, out=torch.empty_like(x)) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad.to(wide) * x * scale).flatten(0, -2).sum(0).to(weight.dtype)
        return grad_x, grad_weight, None, None, None


class LayerNormRule(Function):
    """LayerNorm: native forward; backward treats the standard deviation as a constant, and keeps the mean subtraction.

    Source: AttnLRP (Achtibat et al., ICML 2024), Eq. 9 applied to normalisation; arXiv 2502.15886.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, native: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Run the module's own forward."""
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return native(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """Shape: grad like x (..., D); weight and bias (D,), or none."""
        x, weight = ctx.saved_tensors
        wide = torch.promote_types(x.dtype, torch.float32)
        grad = grad.to(wide)
        variance, mean = torch.var_mean(x.to(wide), dim=-1, correction=0, keepdim=True)
        scale = torch.rsqrt(variance + ctx.eps)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            scaled = (grad if weight is None else grad * weight) * scale
            grad_x = (scaled - scaled.mean(-1, keepdim=True)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * (x - mean) * scale).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.flatten(0, -2).sum(0).to(weight.dtype)
        return grad_x, grad_weight, grad_bias, None, None
