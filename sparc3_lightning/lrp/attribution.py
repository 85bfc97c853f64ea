"""Attribution: the rules on, every chosen layer with a sink, one backward pass a batch."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sparc3_lightning.lrp.attention import warn_of_eager_attention
from sparc3_lightning.lrp.dispatch import Kernel, uses_triton
from sparc3_lightning.lrp.linear import SIGNS, Sign, Sink, relevance_forward
from sparc3_lightning.lrp.modules import select_modules
from sparc3_lightning.lrp.patch import frozen, pre_hook, recomputed, replaced_forward
from sparc3_lightning.lrp.rules import Variant, attnlrp
from sparc3_lightning.lrp.targets import Explain, Target, parse_target
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.families.layers import out_in, weight_of

Granularity = Literal["neuron", "weight"]
GRANULARITIES: tuple[str, ...] = ("neuron", "weight")


class Attribution:
    """Accumulates the relevance of one reference set at a time, inside a `with` block.

    Args:
        model: A causal language model of a known family.
        granularity: "neuron" (row sums) or "weight".
        sign: "abs" or "signed".
        target: What is explained; see `parse_target`.
        explain: "logit" or "logprob" of the target; None for the target's own.
        modules: Which linear layers; see `select_modules`.
        variant: The rules, "attnlrp" or "cp_lrp"; or "gradient", none.
        kernel: What computes relevance: "auto" (the fused kernel on a GPU, in half precision), "eager" or "triton".
        activation_checkpointing: Keep only each block's input for the backward pass and compute the rest again.

    Attributes:
        names: The layers attributed, in the model's order.
        left_out: Layers asked for and left out because they are tied to the input embedding.
        num_batches: Batches accumulated since the last reset.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        granularity: Granularity = "neuron",
        sign: Sign = "abs",
        target: str | int | Sequence[int] | Target = "last_token_argmax",
        explain: Explain | None = None,
        modules: str | Sequence[str] = "neurons",
        variant: Variant = "attnlrp",
        kernel: Kernel = "auto",
        activation_checkpointing: bool = False,
    ) -> None:
        for argument, value, known in (("granularity", granularity, GRANULARITIES), ("sign", sign, SIGNS)):
            if value not in known:
                raise ValueError(f"`{argument}` must be one of {known}, got {value!r}. Set `model.{argument}`.")
        self.model = model
        self.family = get_family(model.config.model_type)
        self.granularity, self.sign, self.variant = granularity, sign, variant
        self.kernel, self.activation_checkpointing = kernel, activation_checkpointing
        self.target = parse_target(target, model.config.vocab_size, explain)
        self.names, self.left_out = select_modules(model, modules)
        uses_triton(kernel, self.device, model.dtype)  # refuses now what could not run later
        warn_of_eager_attention(model, self.device)
        self.num_batches = 0
        self._sinks: dict[str, Sink] = {}
        self._checks = torch.zeros(0, 2)  # of all sinks, a row each
        self._stack = ExitStack()
        self._positions: Tensor | None = None
        self._one_token = set(self.family.one_token_layers(model))

    @property
    def reduced_by_fsdp(self) -> bool:
        """Whether FSDP2 sums relevance over ranks, as gradients of sharded weights (method.md, section 5)."""
        return self.granularity == "weight" and isinstance(self._layer(self.names[0]).weight, DTensor)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def _layer(self, name: str) -> nn.Module:
        module: nn.Module = self.model.get_submodule(name)
        return module

    def __enter__(self) -> Self:
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "attribution needs gradients, which torch.inference_mode forbids. Leave that block first."
            )
        self.num_batches = 0
        with ExitStack() as stack:
            stack.enter_context(attnlrp(self.model, self.variant))
            weights = {id(self._layer(name).weight) for name in self.names} if self.reduced_by_fsdp else set()
            stack.enter_context(frozen(self.model, but=lambda parameter: id(parameter) in weights))
            for module in self.family.last_token_modules(self.model):
                stack.enter_context(pre_hook(module, self._keep_last_tokens))
            if self.activation_checkpointing:
                for block in self.family.block_modules(self.model):
                    stack.enter_context(replaced_forward(block, recomputed(block.forward)))
            # The first attributed layer has an input and a weight that ask for no gradient: the tape makes autograd
            # record it all the same.
            tape = torch.zeros((), device=self.device, requires_grad=True)
            wide = torch.promote_types(self.model.dtype, torch.float32)
            self._checks = torch.zeros(len(self.names), 2, dtype=wide, device=self.device)
            for name, checks in zip(self.names, self._checks, strict=True):
                layer, sink = self._layer(name), self._new_sink(name, checks)
                self._sinks[name] = sink
                stack.enter_context(replaced_forward(layer, relevance_forward(layer, sink, tape)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._clear_gradients()
        self._sinks = {}
        self._stack.close()

    def _new_sink(self, name: str, checks: Tensor) -> Sink:
        weight = weight_of(self._layer(name))
        dtype = torch.promote_types(weight.dtype, torch.float32)
        shape = weight.shape if self.granularity == "weight" else weight.shape[:1]
        accumulator = None if self.reduced_by_fsdp else torch.zeros(shape, dtype=dtype, device=self.device)
        return Sink(self.sign, accumulator, checks, self.kernel)

    def _keep_last_tokens(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Nothing after the last attention is computed for any token but each sample's last real one.

        The residual adds broadcast the one token over all: right where it belongs, never read elsewhere.
        """
        assert self._positions is not None, "inside the context the model is called through `step`"
        return (torch.take_along_dim(args[0], self._positions, dim=1), *args[1:])

    def step(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        weights: Tensor | None = None,
        indices: Tensor | None = None,
        targets: Tensor | None = None,
        against: Tensor | None = None,
    ) -> Tensor:
        """Attribute one batch: one forward and one backward pass, relevance added to the sums.

        Args:
            input_ids: Token ids, padded on the RIGHT with any id.
            lengths: Real tokens of each sample.
            weights: 1 for a real sample, 0 for one that only keeps ranks in step; default all 1.
            indices: Place of each sample in its reference set, for an error to name.
            targets: With `next_token`, the token that follows each sample.
            against: With `next_token`, the token that each is contrasted with, -1 for none; default none.

        Returns:
            The explained token id of each sample.

        Raises:
            FloatingPointError: A layer's output or gradient is not finite; names layer, batch and sample.
            ValueError: `next_token` without targets, or with a real sample's below 0; names the samples.

        Shape: input_ids (B, T), all others and the result (B,).
        """
        missing = self.target.missing(targets, weights)
        ids = self._pass(input_ids, lengths, weights, targets, against)
        good = self._checks.isfinite().all()
        if not (good if missing is None else good & ~missing.any().to(good.device)).item():  # one read from the device
            self._check_targets(missing, indices)
            self._check_finite(input_ids, lengths, indices, targets, against)
        self.num_batches += 1
        return ids

    def _pass(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        weights: Tensor | None,
        targets: Tensor | None,
        against: Tensor | None,
    ) -> Tensor:
        self._positions = (lengths.to(input_ids.device) - 1)[:, None, None]
        self._checks.zero_()
        for name, sink in self._sinks.items():
            sink.num_samples = len(input_ids)
            sink.positions = self._positions if name in self._one_token else None
        with torch.enable_grad():
            # No attention mask: with causal attention, padding on the right cannot reach a real token (trap 8).
            logits = self.model(input_ids=input_ids, use_cache=False).logits[:, 0]
            values, ids = self.target.select(logits, targets, against)
            total = (values if weights is None else values * weights.to(values)).sum()
            # Without a graph no layer asked for is reached (CP-LRP's q, k and gate); `sums` checks which may be.
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
        self._positions = None
        return ids

    def _check_targets(self, missing: Tensor | None, indices: Tensor | None) -> None:
        """Only now, after the pass that all ranks make together."""
        samples = [] if missing is None else missing.nonzero().flatten().tolist()
        if samples:
            places = (
                "" if indices is None else f" ({[int(indices[sample]) for sample in samples]} of the reference set)"
            )
            raise ValueError(
                f"`targets` must hold a token id for each sample under `target: next_token`, got none for samples "
                f"{samples} of batch {self.num_batches}{places}. Nothing was saved."
            )

    def _nonfinite_layer(self) -> str | None:
        """The first layer whose output, or else the last whose gradient, was not finite; one read from the device."""
        if self._checks.isfinite().all().item():
            return None
        forward, backward = (checks.isfinite().logical_not().nonzero().flatten().tolist() for checks in self._checks.T)
        index: int = forward[0] if forward else backward[-1]
        return self.names[index]

    def _check_finite(
        self, input_ids: Tensor, lengths: Tensor, indices: Tensor | None, *targets: Tensor | None
    ) -> None:
        layer = self._nonfinite_layer()
        if layer is None:
            return
        sample = self._replay(input_ids, lengths, indices, *targets)
        raise FloatingPointError(
            f"relevance is not finite: layer {layer}, batch {self.num_batches}, sample {sample}. "
            "Check the model's weights, or use another `model.dtype`. Nothing was saved."
        )

    def _replay(self, input_ids: Tensor, lengths: Tensor, indices: Tensor | None, *targets: Tensor | None) -> str:
        """Find the sample by passing each alone; not where the model is sharded: every rank would have to."""
        if isinstance(self._layer(self.names[0]).weight, DTensor):
            return "unknown (run one process to name it)"
        for index, length in enumerate(lengths.tolist()):
            own = [None if ids is None else ids[index : index + 1] for ids in targets]
            self._pass(input_ids[index : index + 1, :length], lengths[index : index + 1], None, *own)
            if self._nonfinite_layer() is not None:
                place = "" if indices is None else f" ({int(indices[index])} of its reference set)"
                return f"{index} of the batch{place}"
        return "unknown (each sample alone is finite)"

    def sums(self) -> dict[str, Tensor]:
        """Relevance of each layer, summed over the samples of this rank (of all ranks where `reduced_by_fsdp`).

        Raises:
            RuntimeError: A layer that the rules reach took no part in a backward pass.
        """
        for name, sink in self._sinks.items():
            reached = not self.family.unreached(self.variant, name)
            if reached and sink.num_backwards < self.num_batches:
                raise RuntimeError(
                    f"layer {name} took part in {sink.num_backwards} of {self.num_batches} backward passes: "
                    "its relevance is incomplete."
                )
        return {name: self._sum(name) for name in self.names}

    def _sum(self, name: str) -> Tensor:
        accumulator, layer = self._sinks[name].accumulator, self._layer(name)
        if accumulator is not None:
            return accumulator
        weight: nn.Parameter = layer.weight  # type: ignore[assignment]
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        return out_in(layer, weight.grad)

    def parts(self) -> dict[str, Tensor]:
        """This rank's part of each sum: over its own samples, or its shard of the sum over all (`reduced_by_fsdp`)."""
        return {name: _local(total) for name, total in self.sums().items()}

    def restore(self, parts: Iterable[tuple[str, Tensor]], num_batches: int) -> None:
        """Go on where another attribution of the same model and options was.

        Args:
            parts: What its `parts` gave on this rank.
            num_batches: What its `num_batches` was.

        Raises:
            ValueError: The parts are of other layers or shapes; names them.
        """
        missing = set(self.names)
        for name, part in parts:
            own = _local(self._sum(name)) if name in missing else None
            if own is None or own.shape != part.shape or own.dtype != part.dtype:
                raise ValueError(
                    f"a saved sum does not fit this attribution: {name}, {part.dtype} {tuple(part.shape)}."
                )
            own.copy_(part)
            missing.remove(name)
        if missing:
            raise ValueError(f"saved sums must cover every expected layer; missing: {sorted(missing)}.")
        self.num_batches = num_batches
        for sink in self._sinks.values():
            sink.num_backwards = num_batches

    def reset(self) -> None:
        """Forget what was accumulated: a new reference set begins."""
        self.num_batches = 0
        for sink in self._sinks.values():
            sink.num_backwards = 0
            if sink.accumulator is not None:
                # New ones: scores may be made in the old ones.
                sink.accumulator = torch.zeros_like(sink.accumulator)
        self._clear_gradients()

    def _clear_gradients(self) -> None:
        if self.reduced_by_fsdp:
            for name in self.names:
                self._layer(name).weight.grad = None


def _local(total: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor; any other is local as it is."""
    return total.to_local() if isinstance(total, DTensor) else total
