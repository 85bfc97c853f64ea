"""What the method needs to know about an architecture, as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


def nothing(config: Any) -> str | None:
    """Refuse no config."""
    return None


@dataclass(frozen=True)
class Family:
    """One supported architecture. A name is dotted and counts from inside a decoder block, unless it says otherwise.

    Attributes:
        model_type: `config.model_type` of the models it describes.
        norm_class: Class name of the norms.
        norm: Their rule: "rms_norm" or "layer_norm".
        norm_eps: Attribute of a norm that holds its epsilon.
        norm_offset: What an RMSNorm adds to its weight.
        blocks: Name of the list of decoder blocks in the model; these are also the units that FSDP2 shards.
        attention: Name of the attention module.
        up: Name of the linear layer whose row i is neuron i.
        gate: Name of the gate layer, or None where there is none. The same as `up` where one layer makes both: the
            gate's rows come first, then neuron i is row F + i.
        down: Name of the linear layer whose column i reads neuron i.
        after_down: Name of the norm that what `down` gives passes before it is added, or None.
        activation: Name of the feed-forward's activation module.
        norms_per_block: How many norms a decoder block holds, those of queries and keys too; there is one more after
            the last block.
        caps_logits: Whether the model's own forward may pass its logits through a soft cap.
        linears: Names of all linear layers; there is one more, lm_head.
        head_in_files: What checkpoints call lm_head.
        per_token: Names that treat every token by itself, keep the place of each sample, and end in a residual add: in
            the last block only the explained token needs them.
        one_token: Names of linear layers that see every token all the same, though in the last block only the explained
            one's output has a gradient.
        cp_lrp_unreached: Names of layers that get no relevance under CP-LRP (method.md, section 1).
        num_layers: Number of decoder blocks, from a config.
        num_neurons: Neurons of a layer, from a config.
        refuses: What a config says that this table does not cover, in words; None: nothing.
    """

    model_type: str
    norm_class: str
    norm: Literal["rms_norm", "layer_norm"] = "rms_norm"
    norm_eps: str = "variance_epsilon"
    norm_offset: float = 0.0
    blocks: str = "model.layers"
    attention: str = "self_attn"
    up: str = "mlp.up_proj"
    gate: str | None = "mlp.gate_proj"
    down: str = "mlp.down_proj"
    after_down: str | None = None
    activation: str = "mlp.act_fn"
    norms_per_block: int = 2
    caps_logits: bool = False
    linears: tuple[str, ...] = (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )  # fmt: skip
    head_in_files: str = "lm_head"
    per_token: tuple[str, ...] = ("self_attn.o_proj", "mlp")
    one_token: tuple[str, ...] = ("self_attn.q_proj",)
    cp_lrp_unreached: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj")
    num_layers: Callable[[Any], int] = attrgetter("num_hidden_layers")
    num_neurons: Callable[[Any], int] = attrgetter("intermediate_size")
    refuses: Callable[[Any], str | None] = nothing

    def check_config(self, config: PreTrainedConfig) -> None:
        """Refuse a model of this type that the table does not describe.

        Raises:
            ValueError: It is one.
        """
        if (found := self.refuses(config)) is not None:
            raise ValueError(
                f"a model of type {self.model_type!r} must be one that families/ describes, got one with {found}. "
                "Set `model.model` (or `model.config`) to another."
            )

    # By these names transformers knows the sizes in every family's config.

    def width(self, config: PreTrainedConfig) -> int:
        """Features of the residual stream."""
        return int(config.hidden_size)

    def query_width(self, config: PreTrainedConfig) -> int:
        """Features of all heads' queries."""
        return int(config.num_attention_heads) * self._head_width(config)

    def key_width(self, config: PreTrainedConfig) -> int:
        """Features of all heads' keys."""
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        return int(heads) * self._head_width(config)

    def _head_width(self, config: PreTrainedConfig) -> int:
        return int(getattr(config, "head_dim", None) or self.width(config) // int(config.num_attention_heads))

    def kinds_of_attention(self, config: PreTrainedConfig) -> list[str]:
        """Each block's kind of attention, such as `sliding_attention`; "" where a family has but one."""
        return list(getattr(config, "layer_types", None) or [""] * self.num_layers(config))

    def total_neurons(self, config: PreTrainedConfig) -> int:
        """Neurons of all layers."""
        return self.num_layers(config) * self.num_neurons(config)

    def block_modules(self, model: PreTrainedModel) -> list[nn.Module]:
        """The decoder blocks, in order."""
        return list(model.get_submodule(self.blocks).children())

    def keep_blocks(self, model: PreTrainedModel, kept: Sequence[int]) -> None:
        """Leave a model some of its decoder blocks only, in their order."""
        from torch import nn

        blocks, (parent, _, name) = self.block_modules(model), self.blocks.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.ModuleList(blocks[place] for place in kept))
        # By this name transformers knows the number in every family's config.
        model.config.num_hidden_layers = len(kept)

    def last_token_modules(self, model: PreTrainedModel) -> list[nn.Module]:
        """What need see no token but the explained one: the last block's per-token parts, and lm_head."""
        last = self.block_modules(model)[-1]
        return [*(last.get_submodule(name) for name in self.per_token), model.get_output_embeddings()]

    def one_token_layers(self, model: PreTrainedModel) -> list[str]:
        """Full names of the last block's layers whose output has a gradient at the explained token alone."""
        return [f"{self.blocks}.{len(self.block_modules(model)) - 1}.{name}" for name in self.one_token]

    def neuron_module(self, layer: int) -> str:
        """Full name of the linear layer whose rows are the neurons of `layer`."""
        return f"{self.blocks}.{layer}.{self.up}"

    def neuron_modules(self, model: PreTrainedModel) -> list[str]:
        """Full names of the neuron modules of all layers, in order."""
        return [self.neuron_module(layer) for layer in range(len(self.block_modules(model)))]

    def rows(self, config: PreTrainedConfig) -> list[tuple[str, int]]:
        """Names of the layers that make neurons, each with its row of neuron 0."""
        if self.gate == self.up:
            return [(self.up, self.num_neurons(config)), (self.up, 0)]
        return [(name, 0) for name in (self.up, self.gate) if name is not None]

    def neuron_rows(self, base_model: Mapping[str, Any]) -> slice:
        """Where the neurons are among the scores of a neuron module's rows; some methods score them alone.

        Args:
            base_model: The model, as manifests describe it.
        """
        if self.gate != self.up:
            return slice(None)
        return slice(-(base_model["num_neurons"] // base_model["num_layers"]), None)

    def layer_of(self, name: str) -> int | None:
        """The layer whose neurons are the rows of module `name`; None where `name` is no neuron module."""
        match = re.fullmatch(rf"{re.escape(self.blocks)}\.(\d+)\.{re.escape(self.up)}", name)
        return int(match[1]) if match else None

    def place_of(self, name: str) -> tuple[int, str] | None:
        """The decoder block that module `name` lies in, and its name there; None where it lies in none, as lm_head."""
        layer, _, kind = name.removeprefix(f"{self.blocks}.").partition(".")
        return (int(layer), kind) if name.startswith(f"{self.blocks}.") else None

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Names of linear layers in the table's order, block by block, and what lies in no block last."""

        def place(name: str) -> tuple[float, int]:
            layer, kind = self.place_of(name) or (float("inf"), "")
            return layer, self.linears.index(kind) if kind in self.linears else len(self.linears)

        return sorted(names, key=place)

    def norms(self, model: PreTrainedModel) -> list[nn.Module]:
        """All norms of the model.

        Raises:
            ValueError: Their number is not what the family's table says: the architecture has changed.
        """
        found = [module for module in model.modules() if type(module).__name__ == self.norm_class]
        expected = self.norms_per_block * len(self.block_modules(model)) + 1
        if len(found) != expected:
            raise ValueError(
                f"`model` of type {self.model_type!r} must have {expected} {self.norm_class}, got {len(found)}: "
                "its architecture is not the one that models/families/ describes, so the rules would not cover it."
            )
        return found

    def last_norm(self, model: PreTrainedModel) -> nn.Module:
        """The norm after the last block."""
        inside = set(model.get_submodule(self.blocks).modules())
        (last,) = (norm for norm in self.norms(model) if norm not in inside)
        return last

    def linear_modules(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """Every linear layer by its full name, in the model's order, a tied lm_head included."""
        from sparc3_lightning.models.families.layers import is_linear

        return {name: module for name, module in model.named_modules() if is_linear(module)}

    def check_linears(self, model: PreTrainedModel) -> None:
        """Refuse a model in which a linear layer is something else: "all" would leave it out without a word.

        Raises:
            ValueError: Its linear layers are not those that the family's table lists.
        """
        found, blocks = set(self.linear_modules(model)), range(len(self.block_modules(model)))
        expected = {f"{self.blocks}.{layer}.{name}" for layer in blocks for name in self.linears} | {"lm_head"}
        if found != expected:
            raise ValueError(
                f"`model` of type {self.model_type!r} must have {len(expected)} linear layers, got {len(found)}, and "
                f"{min(found ^ expected)} is in one of the two only: some are quantised, or were added. Load the plain "
                "model (`model.dtype`), or name layers in `model.modules`."
            )

    def block_linears(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """Every linear layer of the decoder blocks by its full name: all but lm_head.

        Raises:
            ValueError: A layer is something else (quantised), or this rank holds parts of its rows only.
        """
        from sparc3_lightning.distributed.owners import is_split_by_columns
        from sparc3_lightning.models.families.layers import weight_of

        self.check_linears(model)
        layers = {
            name: layer for name, layer in self.linear_modules(model).items() if name.startswith(f"{self.blocks}.")
        }
        if any(is_split_by_columns(weight_of(layer)) for layer in layers.values()):
            raise ValueError(
                f"compression needs whole rows of the weights, got a sharded model of type {self.model_type!r}, which "
                "stores them as (inputs, outputs). Use `configs/trainer/replicated.yaml`."
            )
        return layers

    def unreached(self, variant: str, name: str) -> bool:
        """Whether the rules of `variant` send no relevance to module `name`, so that its score is exactly zero."""
        return variant == "cp_lrp" and name.endswith(tuple("." + part for part in self.cp_lrp_unreached))
