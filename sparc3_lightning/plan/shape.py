"""A model's shape, from the fields of its config.json alone: parameters, linear layers, which are attributed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from sparc3_lightning.families import Family, get_family
from sparc3_lightning.families.patterns import matching_names
from sparc3_lightning.rope import constant_context

LM_HEAD = "lm_head"
# Which linear layers of a block wait for which.
_STAGES = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1, "gate_proj": 2, "up_proj": 2, "down_proj": 3}
_REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class Linear:
    """One linear layer.

    Attributes:
        name: Full module name.
        num_out: Output features, O.
        num_in: Input features, I.
        place: Block, and stage inside it: relevance reaches the later place first.
        sees_last_token: Only the explained token of each sample passes through it in attribution.
        explains_last_token: Only that token's output has a gradient.
    """

    name: str
    num_out: int
    num_in: int
    place: tuple[int, int]
    sees_last_token: bool
    explains_last_token: bool

    @property
    def numel(self) -> int:
        """Weights, without a bias."""
        return self.num_out * self.num_in


@dataclass(frozen=True)
class Shape:
    """The numbers of an architecture.

    Attributes:
        family: Its family.
        width: Hidden size, D.
        neurons: Neurons a layer, F.
        layers: Decoder blocks.
        heads: Attention heads.
        kv_heads: Key and value heads.
        head_dim: Width of one head.
        vocab: Vocabulary, V.
        context: Longest sample, in tokens (see `rope.constant_context`); None where the config does not say.
        tied: lm_head shares the embedding's weight.
        qkv_bias: q, k and v have biases.
        o_bias: o has one.
        mlp_bias: gate, up and down have them.
        dtype: Type of the checkpoint's weights; None where the config does not say.
    """

    family: Family
    width: int
    neurons: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int | None
    tied: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    dtype: str | None

    @property
    def block_linears(self) -> dict[str, tuple[int, int]]:
        """Output and input features of each linear layer of a block, by its name inside the block."""
        q, kv, attention = self.query_width, self.key_width, self.family.attention
        shapes = {
            f"{attention}.q_proj": (q, self.width),
            f"{attention}.k_proj": (kv, self.width),
            f"{attention}.v_proj": (kv, self.width),
            f"{attention}.o_proj": (self.width, q),
        }
        up = [name for name in (self.family.gate, self.family.up) if name is not None]
        shapes |= dict.fromkeys(up, (self.neurons, self.width))
        return shapes | {self.family.down: (self.width, self.neurons)}

    @property
    def query_width(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all key (and of all value) heads together."""
        return self.kv_heads * self.head_dim

    @property
    def block_parameters(self) -> list[tuple[int, ...]]:
        """Shape of each parameter of one decoder block."""
        biases = [(num_out,) for name, (num_out, _) in self.block_linears.items() if self._has_bias(name)]
        return [*self.block_linears.values(), *biases, *[(self.width,)] * self.family.norms_per_block]

    @property
    def root_parameters(self) -> list[tuple[int, ...]]:
        """Shape of each parameter outside the decoder blocks: embedding, last norm and, unless tied, lm_head."""
        return [(self.vocab, self.width)] * (1 if self.tied else 2) + [(self.width,)]

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, shared ones once."""
        return self.layers * sum(map(prod, self.block_parameters)) + sum(map(prod, self.root_parameters))

    def _has_bias(self, name: str) -> bool:
        part = name.rpartition(".")[2]
        if part in ("q_proj", "k_proj", "v_proj"):
            return self.qkv_bias
        return self.o_bias if part == "o_proj" else self.mlp_bias

    @property
    def linears(self) -> list[Linear]:
        """Every linear layer in the model's order, lm_head last."""
        found = []
        for layer in range(self.layers):
            for name, (num_out, num_in) in self.block_linears.items():
                last = layer == self.layers - 1 and name.startswith(self.family.per_token)
                place = (layer, _STAGES[name.rpartition(".")[2]])
                one = last or (layer == self.layers - 1 and name in self.family.one_token)
                found.append(Linear(f"{self.family.blocks}.{layer}.{name}", num_out, num_in, place, last, one))
        return [*found, Linear(LM_HEAD, self.vocab, self.width, (self.layers, 0), True, True)]

    def attributed(self, modules: str | Sequence[str]) -> list[Linear]:
        """The layers that `model.modules` names; a tied lm_head is left out.

        Raises:
            ValueError: A pattern matches none, or nothing is left.
        """
        if modules == "neurons":
            chosen = [linear for linear in self.linears if self.family.layer_of(linear.name) is not None]
        elif modules == "all":
            chosen = self.linears
        else:
            patterns = [modules] if isinstance(modules, str) else modules
            matched = set(matching_names([linear.name for linear in self.linears], patterns))
            chosen = [linear for linear in self.linears if linear.name in matched]
        chosen = [linear for linear in chosen if not (self.tied and linear.name == LM_HEAD)]
        if not chosen:
            raise ValueError(
                f"`modules` must name a layer that is not tied to the embedding, got {modules!r}. Set `model.modules`."
            )
        return chosen


def shape_of(fields: Mapping[str, Any], where: str = "config.json") -> Shape:
    """Read a shape.

    Args:
        fields: Of a Hugging Face config.
        where: What messages call it.

    Raises:
        ValueError: An unknown `model_type`, or a field is missing or no positive whole number.
    """
    family = get_family(str(fields.get("model_type", "")))
    if not {name.rpartition(".")[2] for name in family.linears} <= _STAGES.keys():
        raise ValueError(
            f"`model_type` must be one whose blocks the plan's closed forms know, which are built as LLaMA's, got "
            f"{family.model_type!r} in {where}."
        )
    # Only LLaMA's config derives it; the others' defaults fit one checkpoint.
    required = _REQUIRED if family.model_type == "llama" else (*_REQUIRED, "num_key_value_heads")
    for name in required:
        value = fields.get(name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a whole number above 0 in {where}, got {value!r}.")
    width, heads = int(fields["hidden_size"]), int(fields["num_attention_heads"])
    is_llama = family.model_type == "llama"
    attention_bias = is_llama and bool(fields.get("attention_bias", False))
    return Shape(
        family=family,
        width=width,
        neurons=int(fields["intermediate_size"]),
        layers=int(fields["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(fields.get("num_key_value_heads") or heads),
        head_dim=int(fields.get("head_dim") or width // heads),
        vocab=int(fields["vocab_size"]),
        context=constant_context(fields),
        tied=bool(fields.get("tie_word_embeddings", False)),
        qkv_bias=attention_bias or family.model_type == "qwen2",
        o_bias=attention_bias,
        mlp_bias=is_llama and bool(fields.get("mlp_bias", False)),
        dtype=fields.get("dtype") or fields.get("torch_dtype"),
    )
