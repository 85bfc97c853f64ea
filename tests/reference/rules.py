"""The rules of AttnLRP and CP-LRP written from their equations, in float64, slow and obvious.

Relevance here is propagated as relevance (R_in from R_out), with loops and divisions as the papers write them, not as
modified gradients. Nothing of the package is imported.

Source: Achtibat et al., ICML 2024 (AttnLRP), equations in brackets; Ali et al., ICML 2022 (CP-LRP).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def linear(x: Tensor, weight: Tensor, relevance: Tensor, bias: Tensor | None = None) -> Tensor:
    """LRP-0 [Eq. 4 without epsilon]: output j shares its relevance among the inputs by their part of z_j.

    Shape: x (I,), weight (O, I), relevance (O,); returns (I,).
    """
    result = torch.zeros_like(x)
    for j in range(weight.shape[0]):
        z = (weight[j] * x).sum() + (0.0 if bias is None else bias[j])
        for i in range(weight.shape[1]):
            result[i] += x[i] * weight[j, i] / z * relevance[j]
    return result


def weight_relevance(x: Tensor, weight: Tensor, relevance: Tensor, bias: Tensor | None = None) -> Tensor:
    """Relevance of each weight [SparC3, Eq. 7]: its own part of z_j, over all tokens.

    Shape: x (T, I), weight (O, I), relevance (T, O); returns (O, I).
    """
    result = torch.zeros_like(weight)
    for t in range(x.shape[0]):
        for j in range(weight.shape[0]):
            z = (weight[j] * x[t]).sum() + (0.0 if bias is None else bias[j])
            result[j] += weight[j] * x[t] / z * relevance[t, j]
    return result


def identity(relevance: Tensor) -> Tensor:
    """Element-wise functions and normalisations hand their relevance on as it is [Eq. 9]."""
    return relevance


def product(relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform rule for a * b: each factor takes half [Eq. 7]."""
    return relevance / 2, relevance / 2


def matmul(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Uniform rule after epsilon rule for a @ b [Eq. 8]: each product a_ji b_ip gives half to either factor.

    Shape: a (J, I), b (I, P), relevance (J, P).
    """
    out = a @ b
    of_a, of_b = torch.zeros_like(a), torch.zeros_like(b)
    for j in range(a.shape[0]):
        for p in range(b.shape[1]):
            for i in range(a.shape[1]):
                share = a[j, i] * b[i, p] / (2 * out[j, p]) * relevance[j, p]
                of_a[j, i] += share
                of_b[i, p] += share
    return of_a, of_b


def softmax(x: Tensor, relevance: Tensor) -> Tensor:
    """Deep Taylor decomposition of the softmax at x [Eq. 13]: R_i = x_i (R_i - s_i sum_j R_j).

    Shape: x (..., I), relevance like it.
    """
    s = torch.softmax(x, -1)
    # x is -inf where attention is masked; no relevance arrives there.
    finite = torch.where(s > 0, x, torch.zeros_like(x))
    return finite * (relevance - s * relevance.sum(-1, keepdim=True))


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(x / cap): element-wise, so that relevance is handed on as it is [Eq. 9]."""
    return x if cap is None else cap * torch.tanh(x / cap)


def attention_scores(q: Tensor, k: Tensor, visible: Tensor, scale: float | None, cap: float | None) -> Tensor:
    """q k^T / sqrt(d), soft-capped where there is a cap; -inf where a token does not see another."""
    scores = q @ k.T * (1 / math.sqrt(q.shape[1]) if scale is None else scale)
    return soft_cap(scores, cap).masked_fill(~visible, -torch.inf)


def attention(
    q: Tensor, k: Tensor, v: Tensor, relevance: Tensor, visible: Tensor,
    scale: float | None = None, cap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One head under AttnLRP: softmax(q k^T / sqrt(d)) v.

    Shape: q (T, d), k (T, d), v (T, d), relevance (T, d), visible (T, T) bool.
    """
    scores = attention_scores(q, k, visible, scale, cap)
    weights = torch.softmax(scores, -1)
    of_weights, of_v = matmul(weights, v, relevance)
    of_scores = softmax(scores, of_weights)
    safe = torch.where(visible, of_scores, torch.zeros_like(of_scores))
    of_q, of_k = matmul(q, k.T, safe)  # a factor changes no one's part, and a cap is handed through
    return of_q, of_k.T, of_v


def attention_cp(
    q: Tensor, k: Tensor, v: Tensor, relevance: Tensor, visible: Tensor,
    scale: float | None = None, cap: float | None = None,
) -> Tensor:  # fmt: skip
    """One head under CP-LRP: the attention weights are constants, v takes all [CP-LRP, Sec. 4].

    Shape: as `attention`; returns the relevance of v (T, d).
    """
    weights = torch.softmax(attention_scores(q, k, visible, scale, cap), -1)
    out, of_v = weights @ v, torch.zeros_like(v)
    for t in range(v.shape[0]):
        for u in range(v.shape[0]):
            of_v[u] += weights[t, u] * v[u] / out[t] * relevance[t]
    return of_v


def silu(x: float) -> float:
    return x / (1 + math.exp(-x))


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def relu(x: float) -> float:
    return max(x, 0.0)


ACTIVATIONS: dict[str, Callable[[float], float]] = {
    "silu": silu,
    "gelu": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "relu": relu,
}


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Shape: x (T, D), weight and bias (D,)."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps) * weight + bias


def layer_norm_back(x: Tensor, weight: Tensor, bias: Tensor, eps: float, relevance: Tensor) -> Tensor:
    """With the standard deviation a constant, LayerNorm is a linear layer: the mean is taken off, then it is scaled.

    Shape: x and relevance (T, D), weight and bias (D,); returns (T, D).
    """
    result, width = torch.zeros_like(x), x.shape[1]
    centre = torch.eye(width, dtype=x.dtype) - 1.0 / width
    for t in range(x.shape[0]):
        std = torch.sqrt((centre @ x[t]).square().mean() + eps)
        matrix = (weight / std)[:, None] * centre
        result[t] = x[t] * ((relevance[t] / (matrix @ x[t] + bias)) @ matrix)
    return result
