"""A model's sizes, from one on the meta device; and what an attribution of it computes, moves and keeps, counted."""

from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.lrp.modules import select_modules
from sparc3_lightning.models.checkpoint import check_attention, check_rope
from sparc3_lightning.models.families import get_family
from sparc3_lightning.models.families.layers import weight_of
from sparc3_lightning.models.hub import reason
from sparc3_lightning.models.load import context_length, give_memory

# Lengths at which an attribution is counted: what it needs is a polynomial of a sample's tokens, of the second degree
# where attention keeps all of its T x T weights.
_LENGTHS = (64, 128, 192)
# What moves no memory of its own; and products, whose traffic is inside their arithmetic's time.
_UNCOUNTED = (
    "view", "transpose", "expand", "slice.", "select.", "unsqueeze", "detach", "alias", "t.", "_unsafe_view", "permute",
    "empty", "mm", "bmm", "_scaled_dot_product",
)  # fmt: skip
# Without memory transformers cannot see that a batch needs no mask but "causal".
_PLAIN_CAUSAL = "sparc3_plain_causal"
AttentionInterface.register(_PLAIN_CAUSAL, sdpa_attention_forward)
AttentionMaskInterface.register(_PLAIN_CAUSAL, lambda *args, **kwargs: None)


class Work(NamedTuple):
    """What the attribution of one sample needs.

    Attributes:
        forward_flops: Operations of matrix products in the forward pass; attention is causal.
        backward_flops: Those of the backward pass, relevance products included.
        forward_bytes: What all but matrix products read and write in the forward pass, and
        backward_bytes: In the backward pass; without what adds relevance up, which does not grow with the sample.
        kept_bytes: Activations that the backward pass needs.
    """

    forward_flops: float
    backward_flops: float
    forward_bytes: float
    backward_bytes: float
    kept_bytes: float


WorkOf = Callable[[float], Work]
"""What one sample's attribution needs, by its tokens."""


@dataclass(frozen=True)
class Linear:
    """One linear layer.

    Attributes:
        name: Full module name.
        stored: Shape of its weight as it lies; shards are of its first dimension.
        num_out: Output features, O.
        num_in: Input features, I.
        block: Number of its decoder block; of a layer outside them, their number.
        explains_last_token: Only the explained token's output has a gradient.
    """

    name: str
    stored: tuple[int, ...]
    num_out: int
    num_in: int
    block: int
    explains_last_token: bool

    @property
    def numel(self) -> int:
        """Weights, without a bias."""
        return self.num_out * self.num_in


def model_config(fields: dict[str, Any], where: str = "config.json") -> PreTrainedConfig:
    """The config of a known family that fields describe.

    Args:
        fields: Of a Hugging Face config, with `model_type`.
        where: What messages call it.

    Raises:
        ValueError: An unknown `model_type`, or fields that its table or transformers does not take.
    """
    family = get_family(str(fields.get("model_type", "")))
    check_rope(fields, where, "model.model")
    try:
        config: PreTrainedConfig = AutoConfig.for_model(**{**fields, "model_type": family.model_type})
    except Exception as error:
        raise ValueError(f"{where} must describe a {family.model_type} model: {reason(error)}") from error
    family.check_config(config)
    return config


class Sizes:
    """What is counted of a model, none of whose weights has memory.

    Args:
        config: The model's, of a known family.
        attn_implementation: Attention implementation.

    Raises:
        ValueError: Transformers makes no model of the config.
    """

    def __init__(self, config: PreTrainedConfig, attn_implementation: str | None = "sdpa") -> None:
        check_attention(config, attn_implementation)
        self.config, self.attn_implementation = config, attn_implementation
        self.model = self._on_meta(torch.float32)
        self._counted: dict[tuple[str, ...], np.ndarray] = {}
        self.family = get_family(config.model_type)
        self.layers = self.family.num_layers(config)
        self.neurons = self.family.num_neurons(config)
        self.width, self.vocab = self.family.width(config), int(config.vocab_size)
        self.query_width, self.key_width = self.family.query_width(config), self.family.key_width(config)
        self.context = context_length(self.model)

    def _on_meta(self, dtype: torch.dtype) -> PreTrainedModel:
        try:
            with torch.device("meta"):
                model: PreTrainedModel = AutoModelForCausalLM.from_config(
                    deepcopy(self.config), dtype=dtype, attn_implementation=self.attn_implementation
                )
        except Exception as error:
            raise ValueError(
                f"the model's config must describe a model: {reason(error)} Set `model.model`, or "
                "`model.attn_implementation`."
            ) from error
        return model.eval()

    @cached_property
    def block_parameters(self) -> list[list[tuple[int, ...]]]:
        """Shape of each parameter of each decoder block, as it lies."""
        return [
            [tuple(parameter.shape) for parameter in block.parameters()]
            for block in self.family.block_modules(self.model)
        ]

    @cached_property
    def root_parameters(self) -> list[tuple[int, ...]]:
        """Shape of each parameter outside the blocks; of those that are shared, once."""
        blocks = self.family.block_modules(self.model)
        inside = {id(parameter) for block in blocks for parameter in block.parameters()}
        return [tuple(parameter.shape) for parameter in self.model.parameters() if id(parameter) not in inside]

    @cached_property
    def num_parameters(self) -> int:
        """Parameters of the model, shared ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @cached_property
    def linears(self) -> list[Linear]:
        """Every linear layer in the model's order."""
        return [self._linear(name) for name in self.family.linear_modules(self.model)]

    def _linear(self, name: str) -> Linear:
        layer = self.model.get_submodule(name)
        (num_out, num_in), inner = weight_of(layer).shape, name.removeprefix(f"{self.family.blocks}.")
        number, _, part = inner.partition(".")
        block = int(number) if inner != name else self.layers
        alone = (*self.family.per_token, *self.family.one_token)
        is_alone = part.startswith(alone) and block == self.layers - 1 if inner != name else True
        return Linear(name, tuple(layer.weight.shape), num_out, num_in, block, is_alone)

    def attributed(self, modules: str | Sequence[str]) -> list[Linear]:
        """The layers that `model.modules` names; a tied lm_head is left out.

        Raises:
            ValueError: As `select_modules`.
        """
        names = set(select_modules(self.model, modules)[0])
        return [linear for linear in self.linears if linear.name in names]

    def forward_flops(self, tokens: float, logits: float = 1) -> float:
        """Floating-point operations of one sample's plain forward pass; attention is causal.

        Args:
            tokens: Length of the sample.
            logits: At how many of them the next token is predicted.
        """
        head = sum(2 * logits * linear.numel for linear in self.linears if linear.block == self.layers)
        blocks = sum(2 * tokens * linear.numel for linear in self.linears if linear.block < self.layers)
        return blocks + head + self.layers * self.attention_flops(tokens)

    def attention_flops(self, tokens: float) -> float:
        """Two products of (T, T) by (T, head_dim) a head of one block, half of them masked."""
        return 2 * tokens**2 * self.query_width

    def count(self, modules: str | Sequence[str], dtype: str, variant: str = "attnlrp") -> WorkOf:
        """What one sample's attribution computes, moves and keeps.

        Blocks of one kind (what of them is attributed, whether a layer before them is, how they attend; the last) need
        alike: one of each is counted in a model without the others, and where there are more of a kind, what one more
        adds.

        Args:
            modules: The layers attributed.
            dtype: Type that is computed in.
            variant: The rules.

        Returns:
            What gives it for the sample's tokens.
        """
        key = (str(modules), dtype, variant)
        if key not in self._counted:
            self._counted[key] = self._coefficients(self.attributed(modules), dtype, variant)
        coefficients = self._counted[key]
        return lambda tokens: Work(*(coefficients @ np.array([1.0, tokens, tokens**2])).tolist())

    def _coefficients(self, attributed: Sequence[Linear], dtype: str, variant: str) -> np.ndarray:
        of_kind: dict[Any, list[int]] = {}
        for block in range(self.layers):
            of_kind.setdefault(self._kind(block, attributed), []).append(block)
        kept = sorted(blocks[0] for blocks in of_kind.values())
        coefficients = one_of_each = self._count(kept, attributed, dtype, variant)
        for _, *others in of_kind.values():
            if others:
                one_more = self._count(sorted([*kept, others[0]]), attributed, dtype, variant) - one_of_each
                coefficients = coefficients + len(others) * one_more
        # Bytes that do not grow with a sample are the sums' alone.
        coefficients[2:, 0] = 0.0
        return coefficients

    def _kind(self, block: int, attributed: Sequence[Linear]) -> tuple[Any, ...]:
        prefix = f"{self.family.blocks}.{block}."
        parts = tuple(linear.name.removeprefix(prefix) for linear in attributed if linear.block == block)
        is_reached = any(linear.block < block for linear in attributed)
        kind = self.family.kinds_of_attention(self.config)[block]
        return parts, is_reached, kind, block == self.layers - 1

    def _count(self, kept: Sequence[int], attributed: Sequence[Linear], dtype: str, variant: str) -> np.ndarray:
        """Coefficients of each of `Work`'s fields, (5, 3), of a model that has no other blocks."""
        model = self._on_meta(getattr(torch, dtype))
        self.family.keep_blocks(model, kept)
        if self.attn_implementation == "sdpa":
            model.set_attn_implementation(_PLAIN_CAUSAL)
        places = {block: place for place, block in enumerate(kept)}
        names = [
            linear.name.replace(
                f"{self.family.blocks}.{linear.block}.", f"{self.family.blocks}.{places[linear.block]}."
            )
            for linear in attributed
            if linear.block in places
        ] + [linear.name for linear in attributed if linear.block == self.layers]
        # Tensors without memory on a CPU: a meta device knows neither autocast nor which attention would run.
        with FakeTensorMode(allow_non_fake_inputs=True):
            give_memory(model, torch.device("cpu"))
            model.tie_weights()
            counts = [_counts(model, names, variant, tokens) for tokens in _LENGTHS]
        fitted: np.ndarray = np.linalg.solve([[1.0, tokens, tokens**2] for tokens in _LENGTHS], counts)
        return fitted.T


class _Unchecked(Attribution):
    """Values that are not there cannot be told to be finite."""

    def _check_finite(self, *args: Any) -> None: ...


@dataclass
class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, and what each keeps for the backward pass."""

    parameters: set[int]
    flops: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    kept: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True  # whether positions are those of one text each
        out = func(*args, **(kwargs or {}))
        if func.namespace != "aten":
            return out
        name = str(func).removeprefix("aten.")
        phase = "forward" if torch._C._current_graph_task_id() == -1 else "backward"
        if func.overloadpacket in flop_registry:
            self.flops[phase] += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        elif name.startswith("_scaled_dot_product"):
            _, heads, tokens, width = args[0].shape
            # Its backward pass computes its weights again: five products instead of two.
            self.flops[phase] += 2 * heads * tokens**2 * width * (2.5 if phase == "backward" else 1)
        if name.startswith(_UNCOUNTED):
            return out
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        self.moved[phase] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out

    def pack(self, tensor: Tensor) -> Tensor:
        """Note what is saved; held, so that its address is not used again."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.parameters:
            self.kept[storage._cdata] = storage
        return tensor


def _counts(model: PreTrainedModel, names: Sequence[str], variant: Any, tokens: int) -> list[float]:
    """Fields of `Work`, of one sample; its relevance is signed, which takes the fewest operations to add up."""
    counter = _Counter({parameter.untyped_storage()._cdata for parameter in model.parameters()})
    unchanged: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731
    hooks = torch.autograd.graph.saved_tensors_hooks(counter.pack, unchanged)
    attribution = _Unchecked(model, sign="signed", modules=names, variant=variant, kernel="eager")
    with attribution, counter, hooks:
        attribution.step(torch.zeros(1, tokens, dtype=torch.int64), torch.full((1,), tokens))
    kept = sum(storage.nbytes() for storage in counter.kept.values())
    return [*(of[phase] for of in (counter.flops, counter.moved) for phase in ("forward", "backward")), float(kept)]
