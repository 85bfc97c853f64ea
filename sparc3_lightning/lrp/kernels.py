"""The fused CUDA path of RelevanceLinear's backward, in Triton: `linear.add_relevance_` is what it must equal.

One program makes one tile of W's relevance. It walks over the tokens of all samples: the product d_s^T x_s of the
sample at hand is summed in float32 by the tensor cores, and after the sample's last tokens its absolute value is added
to the tile's total. So no product of a sample ever leaves the registers; W is read once a batch, and the accumulator
read and written once.

This file needs Triton; `linear.py` decides whether it is imported.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import Config


def relevance_kernel(  # type: ignore[no-untyped-def]  # Triton reads the types off the arguments
    out, x, d, weight, num_samples, num_tokens, num_out, num_in,
    out_o, out_i, x_s, x_t, x_i, d_s, d_t, d_o, weight_o, weight_i, token_class,
    SIGNED: tl.constexpr, ROWS: tl.constexpr, ONE_SAMPLE: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_T: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Add one tile's relevance to `out`, or with ROWS write its row sums there, in the tile's own column.

    `token_class` only tells the tuner apart what is tuned apart.

    Shape: x (B, T, I), d (B, T, O), weight (O, I), each with strides of its own; out (O, I), or (O, tiles of I).
    """
    # Neighbouring programs share rows of d and columns of x, which the L2 cache then holds.
    tiles_o, tiles_i = tl.cdiv(num_out, BLOCK_O), tl.cdiv(num_in, BLOCK_I)
    program = tl.program_id(0)
    first_o = program // (GROUP * tiles_i) * GROUP
    group = tl.minimum(tiles_o - first_o, GROUP)
    tile_o = first_o + program % (GROUP * tiles_i) % group
    tile_i = program % (GROUP * tiles_i) // group

    # 64-bit: a batch of lm_head's outputs, or its weight, may have more than 2^31 numbers, and so may 64 tokens of a
    # view, such as samples in the place of tokens.
    o = tile_o.to(tl.int64) * BLOCK_O + tl.arange(0, BLOCK_O)
    i = tile_i.to(tl.int64) * BLOCK_I + tl.arange(0, BLOCK_I)
    t = tl.arange(0, BLOCK_T).to(tl.int64)
    has_o, has_i = o < num_out, i < num_in
    d_tile = d + o[:, None] * d_o + t[None, :] * d_t
    x_tile = x + t[:, None] * x_t + i[None, :] * x_i

    total = tl.zeros((BLOCK_O, BLOCK_I), dtype=tl.float32)
    product = tl.zeros((BLOCK_O, BLOCK_I), dtype=tl.float32)
    num_blocks = tl.cdiv(num_tokens, BLOCK_T)
    # One loop, not two: the loads of the next sample are under way while this one is multiplied.
    for block in range(num_samples * num_blocks):
        sample, start = tl.cast(block // num_blocks, tl.int64), tl.cast(block % num_blocks * BLOCK_T, tl.int64)
        has_t = start + t < num_tokens
        d_block = tl.load(d_tile + (sample * d_s + start * d_t), mask=has_o[:, None] & has_t[None, :], other=0.0)
        x_block = tl.load(x_tile + (sample * x_s + start * x_t), mask=has_t[:, None] & has_i[None, :], other=0.0)
        product = tl.dot(d_block, x_block, product, input_precision="ieee")
        if not (SIGNED or ONE_SAMPLE) and block % num_blocks == num_blocks - 1:
            total += tl.abs(product)
            product = tl.zeros((BLOCK_O, BLOCK_I), dtype=tl.float32)
    if SIGNED:
        total = product
    elif ONE_SAMPLE:
        total = tl.abs(product)

    mask = has_o[:, None] & has_i[None, :]
    w = tl.load(weight + o[:, None] * weight_o + i[None, :] * weight_i, mask=mask, other=0.0).to(tl.float32)
    relevance = w * total if SIGNED else tl.abs(w) * total
    if ROWS:
        tl.store(out + o * out_o + tile_i * out_i, tl.sum(relevance, axis=1), mask=has_o)
    else:
        cells = out + o[:, None] * out_o + i[None, :] * out_i
        tl.store(cells, tl.load(cells, mask=mask, other=0.0) + relevance, mask=mask)


def _config(block_o: int, block_i: int, block_t: int, num_warps: int, num_stages: int) -> Config:
    blocks = {"BLOCK_O": block_o, "BLOCK_I": block_i, "BLOCK_T": block_t, "GROUP": 8}
    return Config(blocks, num_warps=num_warps, num_stages=num_stages)


# What a tile holds is bounded by the registers: a product and a total, in float32, of 65,536 registers an SM. A larger
# tile reads x and d less often; a smaller one leaves room for a second program, which works while the first one waits.
_HALF = [
    _config(128, 128, 64, 8, 3),
    _config(128, 128, 64, 8, 4),
    _config(64, 128, 64, 4, 3),
    _config(256, 128, 64, 16, 3),
]
# Without a total there is room for twice the tile.
_HALF_ONE_SAMPLE = [*_HALF, _config(128, 256, 64, 8, 3)]
# float32 is multiplied exactly, so without tensor cores.
_SINGLE = [_config(64, 64, 16, 4, 3), _config(128, 128, 16, 8, 3)]
# The interpreter runs any tile; small ones, so that small tests have several.
_INTERPRETED = [_config(32, 16, 16, 1, 1)]


def _fitting(configs: Sequence[Config], arguments: dict[str, Any], **options: Any) -> Sequence[Config]:
    """Of all configs those for one call: its type, and whether it has one sample."""
    if len(configs) == 1:
        return configs
    if arguments["x"].dtype == torch.float32:
        return _SINGLE
    return _HALF_ONE_SAMPLE if options["ONE_SAMPLE"] else _HALF


def tuned(configs: Sequence[Config], prune: Callable[..., Sequence[Config]] | None = None, **options: Any) -> Any:
    """The kernel, tried with each config once for every shape, kind of batch and type."""
    kernel = triton.jit(relevance_kernel, do_not_specialize=["num_samples", "num_tokens", "token_class"])
    return triton.autotune(
        list(configs),
        key=["num_out", "num_in", "token_class", "SIGNED", "ROWS", "ONE_SAMPLE"],
        # Every trial adds to the accumulator, or leaves other columns of row sums: put back what was there before.
        restore_value=["out"],
        prune_configs_by=None if prune is None else {"early_config_prune": prune},
        **options,
    )(kernel)


_CONFIGS = _INTERPRETED if triton.knobs.runtime.interpret else [*_HALF_ONE_SAMPLE, *_SINGLE]
_MIN_BLOCK_I = min(config.kwargs["BLOCK_I"] for config in _CONFIGS)
_kernel = tuned(_CONFIGS, _fitting)


def add_relevance_(out: Tensor, x: Tensor, d: Tensor, weight: Tensor, sign: str) -> None:
    """Add the relevance of one batch to `out`, in place: as `linear.add_relevance_`, with products kept in float32.

    A sample's padding must have gradient zero, which it has behind causal attention: so no lengths are needed, and up
    to 64 tokens cost as much as one.

    Args:
        out: Accumulator in float32; its shape is the granularity: (O, I) for weights, (O,) for neurons (row sums).
        x: Input of the layer, in bfloat16, float16 or float32.
        d: Gradient of the explained target with respect to the layer's output, in the type of `x`.
        weight: The layer's weight.
        sign: "abs" or "signed".

    Shape: x (B, T, I), d (B, T, O), weight (O, I), out (O, I) or (O,); any strides.
    """
    if x.shape[1] == 1:
        # One token a sample: abs of an outer product is the outer product of absolute values, and their sum over the
        # samples one matrix product. The samples take the place of the tokens of a single sample.
        x, d = x.transpose(0, 1), d.transpose(0, 1)
        if sign == "abs":
            x, d = x.abs(), d.abs()
    num_samples, num_tokens, num_in = x.shape
    num_out = weight.shape[0]
    # Row sums lie a tile apart and are added up in one fixed order: atomic additions would come in any.
    rows = out.ndim == 1
    target = out.new_zeros(num_out, triton.cdiv(num_in, _MIN_BLOCK_I)) if rows else out

    def grid(blocks: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(num_out, blocks["BLOCK_O"]) * triton.cdiv(num_in, blocks["BLOCK_I"]),)

    _kernel[grid](
        target, x, d, weight, num_samples, num_tokens, num_out, num_in,
        *target.stride(), *x.stride(), *d.stride(), *weight.stride(), triton.next_power_of_2(num_tokens),
        SIGNED=sign == "signed", ROWS=rows, ONE_SAMPLE=num_samples == 1,
    )  # fmt: skip
    if rows:
        out.add_(target.sum(1))
