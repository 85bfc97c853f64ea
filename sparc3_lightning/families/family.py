"""What the method needs to know about an architecture, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Family:
    """One supported architecture: names of its parts inside a decoder block, and the rule of its norms.

    Attributes:
        model_type: `config.model_type` of the models it describes.
        blocks: Name of the list of decoder blocks; these are also the units that FSDP2 shards.
        attention: Name of the attention module inside a block.
        mlp: Name of the feed-forward module inside a block.
        up: Name of the linear layer whose row i is neuron i, inside the feed-forward module.
        gate: Name of the gate layer, or None where the feed-forward module has no gate.
        down: Name of the linear layer whose column i reads neuron i.
        activation: Name of the activation module inside the feed-forward module.
        norm_class: Class name of the norms.
        norms_per_block: How many of them a decoder block holds; there is one more after the last block.
        linears_per_block: How many linear layers a decoder block holds; there is one more, lm_head.
        per_token: Names inside a block that treat every token by itself and end in a residual add: in the last block
            only the explained token needs them.
        query: Name inside a block of the linear layer that makes queries: in the last block only the explained token's
            query is used.
        cp_lrp_unreached: Names inside a block that get no relevance under CP-LRP (method.md, section 1).
    """

    model_type: str
    norm_class: str
    blocks: str = "model.layers"
    attention: str = "self_attn"
    mlp: str = "mlp"
    up: str = "up_proj"
    gate: str | None = "gate_proj"
    down: str = "down_proj"
    activation: str = "act_fn"
    norms_per_block: int = 2
    linears_per_block: int = 7
    per_token: tuple[str, ...] = ("self_attn.o_proj", "mlp")
    query: str = "self_attn.q_proj"
    cp_lrp_unreached: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj")

    def block_modules(self, model: PreTrainedModel) -> list[nn.Module]:
        """The decoder blocks, in order."""
        return list(model.get_submodule(self.blocks).children())

    def last_token_modules(self, model: PreTrainedModel) -> list[nn.Module]:
        """What need see no token but the explained one: the last block's per-token parts, and lm_head."""
        last = self.block_modules(model)[-1]
        return [*(last.get_submodule(name) for name in self.per_token), model.get_output_embeddings()]

    def last_query(self, model: PreTrainedModel) -> str:
        """Full name of the last block's query layer."""
        return f"{self.blocks}.{len(self.block_modules(model)) - 1}.{self.query}"

    def neuron_module(self, layer: int) -> str:
        """Full name of the linear layer whose rows are the neurons of `layer`."""
        return f"{self.blocks}.{layer}.{self.mlp}.{self.up}"

    def neuron_modules(self, model: PreTrainedModel) -> list[str]:
        """Full names of the neuron modules of all layers, in order."""
        return [self.neuron_module(layer) for layer in range(len(self.block_modules(model)))]

    def layer_of(self, name: str) -> int | None:
        """The layer whose neurons are the rows of module `name`; None where `name` is no neuron module."""
        pattern = rf"{re.escape(self.blocks)}\.(\d+)\.{re.escape(self.mlp)}\.{re.escape(self.up)}"
        match = re.fullmatch(pattern, name)
        return int(match[1]) if match else None

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
                "its architecture is not the one that families/ describes, so the rules would not cover it."
            )
        return found

    def check_linears(self, model: PreTrainedModel) -> None:
        """Refuse a model in which a linear layer is something else: "all" would leave it out without a word.

        Raises:
            ValueError: Their number is not what the family's table says.
        """
        from torch import nn

        found = sum(isinstance(module, nn.Linear) for module in model.modules())
        expected = self.linears_per_block * len(self.block_modules(model)) + 1
        if found != expected:
            raise ValueError(
                f"`model` of type {self.model_type!r} must have {expected} linear layers, got {found}: some are "
                "quantised, or were added. Load the plain model (`model.dtype`), or name layers in `model.modules`."
            )

    def unreached(self, variant: str, name: str) -> bool:
        """Whether the rules of `variant` send no relevance to module `name`, so that its score is exactly zero."""
        return variant == "cp_lrp" and name.endswith(tuple("." + part for part in self.cp_lrp_unreached))
