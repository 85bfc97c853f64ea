"""RelevanceLinear: relevance computed where training would compute the weight's gradient (method.md, section 5)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import Function

from sparc3_lightning.lrp.dispatch import Kernel, uses_triton
from sparc3_lightning.models.families.layers import out_in

Sign = Literal["abs", "signed"]
SIGNS: tuple[str, ...] = ("abs", "signed")
Operation = Callable[[Tensor], Tensor]

# Numbers in one tile of the per-sample product on a CPU, a thread: 1 MB in float32, so that a batch's products stay in
# the core's cache. A single sample is read and written once: then one large product is quicker than many small ones.
_TILE_NUMEL = 2**18


def _products(x: Tensor, d: Tensor, sign: Sign, dtype: torch.dtype) -> Tensor:
    """Sum over the samples of d_s^T x_s, or of its absolute value per sample, after the token sum.

    A single sample's comes as it is, with its signs: |W * G| is taken after the weights, and is |W| * |G| bit for bit.

    Shape: x (B, T, I), d (B, T, O); returns (O, I) in `dtype`.
    """
    if sign == "signed":
        return (d.flatten(0, 1).T @ x.flatten(0, 1)).to(dtype)
    if x.shape[1] == 1:  # one token a sample: abs of an outer product is the outer product of absolute values
        return d[:, 0].abs().to(dtype).T @ x[:, 0].abs().to(dtype)
    first = torch.mm(d[0].T, x[0])
    if len(x) == 1:
        return first.to(dtype)
    total, product = first.abs_().to(dtype), torch.empty_like(first)
    for x_s, d_s in zip(x[1:], d[1:], strict=True):
        torch.mm(d_s.T, x_s, out=product)
        total.add_(product.abs_())
    return total


def add_relevance_(out: Tensor, x: Tensor, d: Tensor, weight: Tensor, sign: Sign) -> None:
    """Add the relevance of one batch to `out`, in place.

    Args:
        out: Accumulator; its shape is the granularity: (O, I) for weights, (O,) for neurons (row sums).
        x: Input of the layer.
        d: Gradient of the explained target with respect to the layer's output.
        weight: The layer's weight.
        sign: "abs": abs(W * G_s) per sample, then summed; "signed": W * G_s summed.

    Shape: x (B, T, I), d (B, T, O), weight (O, I), out (O, I) or (O,).
    Units: relevance, in logits, summed over the samples.
    Source: SparC3 (arXiv 2506.13727), Eq. 1, 7, 8 (signed); the document (abs).
    """
    if x.dtype == torch.float16:  # products of two halves leave the range of a half, at both ends
        x, d = x.float(), d.float()
    is_tiled = x.device.type == "cpu" and len(x) > 1
    num_rows = max(1, _TILE_NUMEL * torch.get_num_threads() // weight.shape[1]) if is_tiled else weight.shape[0]
    for start in range(0, weight.shape[0], num_rows):
        rows = slice(start, start + num_rows)
        relevance = _products(x, d[..., rows], sign, out.dtype).mul_(weight[rows])
        if sign == "abs":
            relevance.abs_()
        out[rows].add_(relevance if out.ndim == 2 else relevance.sum(1))


@dataclass
class Sink:
    """Where the relevance of one linear layer goes, and what is known about its passes.

    Attributes:
        sign: Sign option of the relevance.
        accumulator: Sum over samples, (O,) or (O, I), on the layer's device; None: relevance is returned as the
            weight's gradient, for FSDP2 to reduce.
        checks: Sum of all forward outputs and of all output gradients of a batch, (2,), on the device, in float32 or
            wider: not finite where one of what they sum is not.
        kernel: What computes relevance, as `uses_triton` takes it.
        positions: The one token of each sample whose output has a gradient, (B, 1, 1); None: any token's may.
        num_samples: Samples of the batch, B: for layers that see the tokens of all samples in one row, (B * T, I).
        num_backwards: Backward passes seen.
    """

    sign: Sign
    accumulator: Tensor | None
    checks: Tensor
    kernel: Kernel = "auto"
    positions: Tensor | None = None
    num_samples: int = 1
    num_backwards: int = 0


def _check(values: Tensor, total: Tensor) -> None:
    """Add the sum of all values to `total`, which is not finite from then on if one of them is not.

    Two small operations and no decision: these checks stand in every layer, twice a batch.
    """
    total.add_(values.sum(dtype=total.dtype))


class RelevanceLinear(Function):
    """A linear layer whose backward passes the usual input gradient on and puts relevance into a sink."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, stored: Tensor, tape: Tensor, layout: Operation, native: Operation, sink: Sink
    ) -> Tensor:
        """Run the layer's own forward.

        Args:
            ctx: Autograd's.
            x: Input.
            stored: The layer's weight as it lies.
            tape: Makes autograd record a layer with frozen inputs.
            layout: From `stored` to (O, I), and back.
            native: The layer's own forward.
            sink: Where relevance goes.

        Shape: x (B, T, I) or (B * T, I).
        """
        ctx.save_for_backward(x, stored)
        ctx.layout, ctx.sink = layout, sink
        y = native(x)
        _check(y, sink.checks[0])
        return y

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        """Shape: d (B, T, O) or (B * T, O)."""
        x, stored = ctx.saved_tensors
        sink: Sink = ctx.sink
        weight = ctx.layout(stored)
        sink.num_backwards += 1
        _check(d, sink.checks[1])
        # Under autocast x and weight are as stored, and d is what the layer computed in: products are taken in that.
        with torch.autocast(x.device.type, enabled=False):
            grad_x = (d @ weight.to(d.dtype)).to(x.dtype) if ctx.needs_input_grad[0] else None
            grad_weight = _put(sink, x.to(d.dtype), d, stored, ctx.layout)
        return grad_x, grad_weight, None, None, None, None


def _put(sink: Sink, x: Tensor, d: Tensor, stored: Tensor, layout: Operation) -> Tensor | None:
    """Add to the accumulator, or return relevance as the weight's gradient where there is none."""
    weight = layout(stored)
    if x.ndim == 2:
        x, d = (tokens.reshape(sink.num_samples, -1, tokens.shape[-1]) for tokens in (x, d))
    if sink.positions is not None:
        x, d = (torch.take_along_dim(tokens, sink.positions, dim=1) for tokens in (x, d))
    add_ = _fused if uses_triton(sink.kernel, d.device, d.dtype) else add_relevance_
    if sink.accumulator is not None:
        add_(sink.accumulator, x, d, weight, sink.sign)
        return None
    relevance = torch.zeros(stored.shape, dtype=torch.promote_types(weight.dtype, torch.float32), device=x.device)
    add_(layout(relevance), x, d, weight, sink.sign)
    return relevance.to(weight.dtype)


def _fused(out: Tensor, x: Tensor, d: Tensor, weight: Tensor, sign: Sign) -> None:
    from sparc3_lightning.lrp import kernels  # needs Triton, which not every torch brings

    kernels.add_relevance_(out, x, d, weight, sign)


def relevance_forward(layer: nn.Module, sink: Sink, tape: Tensor) -> Callable[[Tensor], Tensor]:
    """The forward to put on one linear layer so that its backward fills `sink`."""
    native, layout = layer.forward, partial(out_in, layer)

    def forward(x: Tensor) -> Tensor:
        # Read the weight at call time: under FSDP2 it is the gathered tensor only then.
        return RelevanceLinear.apply(x, layer.weight, tape, layout, native, sink)  # type: ignore[no-any-return]

    return forward
