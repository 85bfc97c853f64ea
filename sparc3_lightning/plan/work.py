"""Arithmetic and memory traffic of attribution, in closed form."""

from collections.abc import Sequence

from sparc3_lightning.plan.shape import Linear, Shape

# What everything but matrix products reads and writes, a token and block, in units of the model's 16-bit type: the
# coefficients of hidden size, neurons, query width and key width, counted operation by operation on transformers' own
# modules under the rules (tests/unit/plan/test_work.py counts again).
_ELEMENTWISE = (69, 18, 25, 27)
# Bytes a weight of relevance beside its product, for 16-bit weights and float32 sums (method.md, section 7): inside the
# product's epilogue W is read, and an accumulator of weights read and written, once a batch.
_READ_WEIGHT, _UPDATE_SUM = 2, 8


# The fused kernel takes so many tokens at once: fewer cost as much.
_KERNEL_TOKENS = 64


def forward_flops(shape: Shape, tokens: int, full: bool = False) -> float:
    """Floating-point operations of one sample's forward pass; attention is causal.

    Args:
        shape: The model.
        tokens: Length of the sample.
        full: Count every token of every block, though only the explained one passes the last block's later parts.
    """
    products = sum(2 * _tokens(linear, shape, tokens, full) * linear.numel for linear in shape.linears)
    return products + shape.layers * attention_flops(shape, tokens)


def attention_flops(shape: Shape, tokens: int) -> float:
    """Two products of (T, T) by (T, head_dim) a head, half of them masked."""
    return 2 * tokens**2 * shape.query_width


def input_gradient_flops(shape: Shape, tokens: int, attributed: Sequence[Linear], full: bool = False) -> float:
    """Of one sample's backward pass, without the relevance products.

    A layer passes a gradient on only where an attributed layer lies before it; attention costs five products instead of
    two, because flash attention computes its weights again.

    Args:
        shape: The model.
        tokens: Length of the sample.
        attributed: The layers attributed.
        full: Count every token of every layer.
    """
    first = (-1, 0) if full else min(linear.place for linear in attributed)
    passing = [linear for linear in shape.linears if linear.place > first]
    products = sum(2 * _tokens(linear, shape, tokens, full) * linear.numel for linear in passing)
    num_attention = sum((layer, 0) >= first for layer in range(shape.layers))
    return products + num_attention * 2.5 * attention_flops(shape, tokens)


def product_flops(shape: Shape, tokens: int, attributed: Sequence[Linear], full: bool = False) -> float:
    """Of the products d_s^T x_s of one sample's attributed layers."""

    def seen(linear: Linear) -> int:
        return 1 if linear.explains_last_token and not full else _tokens(linear, shape, tokens, full)

    return sum(2 * seen(linear) * linear.numel for linear in attributed)


def kernel_tokens(tokens: int) -> int:
    """Tokens that the fused kernel computes a product for."""
    return max(tokens, _KERNEL_TOKENS)


def _tokens(linear: Linear, shape: Shape, tokens: int, full: bool) -> int:
    """How many of a sample's tokens pass through a layer."""
    if full and linear.place[0] < shape.layers:
        return tokens
    return 1 if linear.sees_last_token else tokens


def elementwise_bytes(shape: Shape, tokens: int, attributed: Sequence[Linear], itemsize: int) -> float:
    """Memory traffic of one sample beside matrix products: norms, rotations, activations, residual adds, checks."""
    widths = (shape.width, shape.neurons, shape.query_width, shape.key_width)
    of_blocks = shape.layers * sum(count * width for count, width in zip(_ELEMENTWISE, widths, strict=True))
    checks = sum(2 * linear.num_out for linear in attributed if linear.place[0] < shape.layers)
    return float(itemsize * tokens * (of_blocks + checks))


def relevance_bytes(attributed: Sequence[Linear], granularity: str) -> float:
    """Memory traffic of adding one batch's relevance to its sums."""
    per_weight = _READ_WEIGHT + (_UPDATE_SUM if granularity == "weight" else 0)
    return float(per_weight * sum(linear.numel for linear in attributed))
