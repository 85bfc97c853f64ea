"""GPT-2, OPT and GPT-NeoX, and relevance through them, in float64 from the equations; imports nothing of the package.

Learned positions (or, in GPT-NeoX, some channels that turn, and branches side by side), LayerNorm, biases, no gate. As
in llama.py relevance travels as relevance, one sample at a time.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.reference import rules
from tests.reference.llama import Layer, Reference, rotary, rotate, unrotate

EPS = 1e-5


class Names(NamedTuple):
    """Where the parts lie; how many positions there are before the first token's; whether weights are (I, O).

    `positions` is empty where channels turn instead; then q, k and v lie head by head.
    """

    prefix: str
    tokens: str
    positions: str
    blocks: str
    norms: tuple[str, str]
    qkv: tuple[str, ...]
    o: str
    fc: tuple[str, str]
    last_norm: str
    activation: str
    offset: int
    transposed: bool


NAMES = {
    "gpt2": Names(
        prefix="transformer.", tokens="wte", positions="wpe", blocks="h", norms=("ln_1", "ln_2"),
        qkv=("attn.c_attn",), o="attn.c_proj", fc=("mlp.c_fc", "mlp.c_proj"), last_norm="ln_f",
        activation="gelu_new", offset=0, transposed=True,
    ),
    "opt": Names(
        prefix="model.decoder.", tokens="embed_tokens", positions="embed_positions", blocks="layers",
        norms=("self_attn_layer_norm", "final_layer_norm"),
        qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), o="self_attn.out_proj", fc=("fc1", "fc2"),
        last_norm="final_layer_norm", activation="relu", offset=2, transposed=False,
    ),
    "gpt_neox": Names(
        prefix="gpt_neox.", tokens="embed_in", positions="", blocks="layers",
        norms=("input_layernorm", "post_attention_layernorm"), qkv=("attention.query_key_value",), o="attention.dense",
        fc=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"), last_norm="final_layer_norm", activation="gelu", offset=0,
        transposed=False,
    ),
}  # fmt: skip


class AbsoluteReference(Reference):
    """As `Reference`, for these families."""

    def __post_init__(self) -> None:
        self.heads = self.config.num_attention_heads
        self.head_dim = self.config.hidden_size // self.heads
        # Where q, k and v lie, in this order, among the outputs of what makes them.
        places = torch.arange(3 * self.config.hidden_size)
        by_head = places.view(self.heads, 3, self.head_dim).transpose(0, 1).flatten()
        self.order = places if self.names.positions else by_head
        self.side_by_side = getattr(self.config, "use_parallel_residual", False)

    @property
    def names(self) -> Names:
        family = self.config.model_type
        assert family in NAMES, f"no reference for {family!r} yet: a line in NAMES of tests/reference/absolute.py"
        return NAMES[family]

    def run(self, ids: Tensor, targets: list[tuple[int, float]] | None = None) -> float:
        """As `Reference.run`."""
        prefix, first = self.names.prefix, self.names.offset
        x = self.state[f"{prefix}{self.names.tokens}.weight"][ids]
        if self.names.positions:
            x = x + self.state[f"{prefix}{self.names.positions}.weight"][first : first + len(ids)]
        trace = []
        for layer in range(self.config.num_hidden_layers):
            trace.append(self._forward_block(layer, x))
            x = trace[-1]["out"]
        head = Layer("lm_head", self._norm(prefix + self.names.last_norm, x), self.state["lm_head.weight"], None)
        self.logits = head.out
        last = torch.zeros_like(head.out)
        for token, factor in targets or [(int(head.out[-1].argmax()), 1.0)]:
            last[-1, token] = factor * head.out[-1, token]
        relevance = self._norm_back(prefix + self.names.last_norm, x, self._linear_back(head, last))
        for record in reversed(trace):
            relevance = self._backward_block(record, relevance)
        return float(relevance.sum())

    def _linear(self, name: str, x: Tensor) -> Layer:
        weight = self.state[f"{name}.weight"]
        return Layer(name, x, weight.T if self.names.transposed else weight, self.state[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return rules.layer_norm(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], EPS)

    def _norm_back(self, name: str, x: Tensor, relevance: Tensor) -> Tensor:
        return rules.layer_norm_back(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], EPS, relevance)

    def _forward_block(self, layer: int, x: Tensor) -> dict[str, Any]:
        prefix = f"{self.names.prefix}{self.names.blocks}.{layer}."
        h = self._norm(prefix + self.names.norms[0], x)
        qkv = [self._linear(prefix + name, h) for name in self.names.qkv]
        q, k, v = torch.cat([part.out for part in qkv], -1)[:, self.order].chunk(3, -1)
        visible = torch.ones(len(x), len(x)).tril().bool()
        weights = [
            torch.softmax((self._turn(a) @ self._turn(b).T / a.shape[1] ** 0.5).masked_fill(~visible, -torch.inf), -1)
            for a, b in zip(self._split(q), self._split(k), strict=True)
        ]
        mixed = torch.cat([w @ c for w, c in zip(weights, self._split(v), strict=True)], -1)
        o = self._linear(prefix + self.names.o, mixed)
        middle = x + o.out
        source = x if self.side_by_side else middle
        up = self._linear(prefix + self.names.fc[0], self._norm(prefix + self.names.norms[1], source))
        activation = rules.ACTIVATIONS[self.names.activation]
        act = torch.tensor([[activation(value) for value in row] for row in up.out.tolist()], dtype=torch.float64)
        down = self._linear(prefix + self.names.fc[1], act)
        return {**locals(), "out": middle + down.out}

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.head_dim, -1)

    def _turning(self, length: int) -> tuple[Tensor, Tensor]:
        parameters = self.config.rope_parameters
        return rotary(length, int(self.head_dim * parameters["partial_rotary_factor"]), parameters["rope_theta"])

    def _turn(self, x: Tensor) -> Tensor:
        return x if self.names.positions else rotate(x, *self._turning(len(x)))

    def _turn_back(self, relevance: Tensor, x: Tensor) -> Tensor:
        return relevance if self.names.positions else unrotate(relevance, x, *self._turning(len(x)))

    def _backward_block(self, r: dict[str, Any], relevance: Tensor) -> Tensor:
        # residual add, epsilon rule: each summand takes its part
        share = relevance / r["out"]
        of_act = self._linear_back(r["down"], share * r["down"].out)
        of_norm = self._linear_back(r["up"], rules.identity(of_act))
        of_source = self._norm_back(r["prefix"] + self.names.norms[1], r["source"], of_norm)
        of_middle, of_x = share * r["middle"], torch.zeros_like(of_source)
        of_middle, of_x = (of_middle, of_source) if self.side_by_side else (of_middle + of_source, of_x)
        share = of_middle / r["middle"]
        of_mixed = self._linear_back(r["o"], share * r["o"].out)
        of_h = self._attention_back(r, of_mixed)
        return of_x + share * r["x"] + self._norm_back(r["prefix"] + self.names.norms[0], r["x"], of_h)

    def _attention_back(self, r: dict[str, Any], relevance: Tensor) -> Tensor:
        heads = zip(*(self._split(r[part]) for part in ("q", "k", "v")), self._split(relevance), strict=True)
        if self.variant == "cp_lrp":
            # What made queries and keys gets nothing.
            found = [
                (
                    torch.zeros_like(q),
                    torch.zeros_like(k),
                    rules.attention_cp(self._turn(q), self._turn(k), v, part, r["visible"]),
                )
                for q, k, v, part in heads
            ]
        else:
            found = []
            for q, k, v, part in heads:
                of_q, of_k, of_v = rules.attention(self._turn(q), self._turn(k), v, part, r["visible"])
                found.append((self._turn_back(of_q, q), self._turn_back(of_k, k), of_v))
        of_qkv = torch.cat([torch.cat(parts, -1) for parts in zip(*found, strict=True)], -1)
        of_qkv = of_qkv[:, self.order.argsort()]
        parts = of_qkv.split([layer.out.shape[1] for layer in r["qkv"]], -1)
        return sum(
            (self._linear_back(layer, part) for layer, part in zip(r["qkv"], parts, strict=True)),
            torch.zeros_like(r["x"]),
        )
