"""A whole LLaMA-like model, and relevance through it, in float64 from the equations; it imports nothing of the package.

One sample at a time. Relevance travels as relevance (see rules.py) through every operation, so that a mistake in a
gradient-based rule cannot repeat itself here. Biases, sliding windows and norms of queries and keys included: Mistral,
Qwen2 and Qwen3 fit too; so do Gemma 2 and 3 (norms by 1 + weight, also after each branch; soft caps; scaled
embeddings), Phi-3 (fused layers, taken apart first) and Granite (factors, which hand relevance on as it is).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.reference import rules

# Which layers a fused one holds, in the order of its rows.
FUSED = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


def rotary(length: int, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    # transformers computes the angles in float32 whatever the model's dtype.
    inverse = 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    angles = torch.arange(length, dtype=torch.float32)[:, None] * inverse
    both = torch.cat((angles, angles), -1)
    return both.cos().double(), both.sin().double()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first channels turn, as many as there are angles."""
    width, half = cos.shape[-1], cos.shape[-1] // 2
    first, rest = x[..., :width], x[..., width:]
    turned = first * cos + torch.cat((-first[..., half:], first[..., :half]), -1) * sin
    return torch.cat((turned, rest), -1)


def unrotate(relevance: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """LRP-0 of the rotation: it is a linear map of each pair of channels."""
    width, half = cos.shape[-1], cos.shape[-1] // 2
    share = (relevance / rotate(x, cos, sin))[..., :width]
    turned = torch.cat((share[..., half:] * sin[..., half:], -share[..., :half] * sin[..., :half]), -1)
    return torch.cat((x[..., :width] * (share * cos + turned), relevance[..., width:]), -1)


@dataclass
class Layer:
    name: str
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    out: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.out = self.x @ self.weight.T + (0.0 if self.bias is None else self.bias)


@dataclass
class Reference:
    """Logits and relevance of one sample.

    Args:
        config: The model's config.
        state: Its state dict, in float64.
        variant: "attnlrp" or "cp_lrp".
    """

    config: Any
    state: dict[str, Tensor]
    variant: str = "attnlrp"
    relevance: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.is_gemma = self.config.model_type.startswith("gemma")
        # Granite's: of embeddings, and of each branch before its sum.
        scale = self.config.hidden_size**0.5 if self.is_gemma else 1.0
        self.embedded = getattr(self.config, "embedding_multiplier", scale)
        self.added = getattr(self.config, "residual_multiplier", 1.0)
        self.heads = self.config.num_attention_heads
        self.head_dim = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.heads

    def run(self, ids: Tensor, targets: list[tuple[int, float]] | None = None) -> float:
        """Fill `relevance` (layer name to (O, I)); returns the relevance that reaches the embeddings.

        Args:
            ids: Token ids, (T,).
            targets: Logits explained and their factors; default: the largest one.
        """
        fused = self._take_apart()
        x = self.state["model.embed_tokens.weight"][ids] * self.embedded
        trace = []
        for layer in range(self.config.num_hidden_layers):
            record = self._forward_block(layer, x)
            trace.append(record)
            x = record["out"]
        head = self._linear("lm_head", self._norm("model.norm", x))
        scaled = head.out / getattr(self.config, "logits_scaling", 1.0)
        self.logits = rules.soft_cap(scaled, getattr(self.config, "final_logit_softcapping", None))
        last = torch.zeros_like(head.out)
        for token, factor in targets or [(int(self.logits[-1].argmax()), 1.0)]:
            last[-1, token] = factor * self.logits[-1, token]
        relevance = rules.identity(self._linear_back(head, rules.identity(last)))
        for record in reversed(trace):
            relevance = self._backward_block(record, relevance)
        for name, parts in fused.items():
            shapes = [self.state[f"{part}.weight"] for part in parts]
            rows = [self.relevance.pop(part, torch.zeros_like(w)) for part, w in zip(parts, shapes, strict=True)]
            self.relevance[name] = torch.cat(rows)
        return float(relevance.sum())

    def _take_apart(self) -> dict[str, list[str]]:
        """Give each part of a fused layer its own weight; returns the parts by the fused layer's name."""
        key, neurons = self.config.num_key_value_heads * self.head_dim, self.config.intermediate_size
        sizes = {"self_attn.qkv_proj": [self.heads * self.head_dim, key, key], "mlp.gate_up_proj": [neurons, neurons]}
        found, self.state = {}, dict(self.state)
        for layer in range(self.config.num_hidden_layers):
            for name, parts in FUSED.items():
                prefix = f"model.layers.{layer}."
                if f"{prefix}{name}.weight" in self.state:
                    found[prefix + name] = [prefix + part for part in parts]
                    rows = self.state[f"{prefix}{name}.weight"].split(sizes[name])
                    self.state.update({f"{prefix}{part}.weight": w for part, w in zip(parts, rows, strict=True)})
        return found

    def _linear(self, name: str, x: Tensor) -> Layer:
        return Layer(name, x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def _linear_back(self, layer: Layer, relevance: Tensor) -> Tensor:
        self.relevance[layer.name] = rules.weight_relevance(layer.x, layer.weight, relevance, layer.bias)
        share = relevance / layer.out
        return layer.x * (share @ layer.weight)  # rules.linear for all tokens at once; tests/unit/lrp compares the two

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.state.get(f"{name}.weight")
        if weight is None:  # a norm that this architecture does not have
            return x
        return rules.rms_norm(x, 1.0 + weight if self.is_gemma else weight, self.config.rms_norm_eps)

    def _visible(self, layer: int, length: int) -> Tensor:
        distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        types = getattr(self.config, "layer_types", None)
        window = getattr(self.config, "sliding_window", None)
        if window is None or (types is not None and types[layer] == "full_attention"):
            return distance >= 0
        return (distance >= 0) & (distance < window)

    def _forward_block(self, layer: int, x: Tensor) -> dict[str, Any]:
        prefix = f"model.layers.{layer}."
        before, after = "post_attention_layernorm", "post_feedforward_layernorm"
        h = self._norm(prefix + "input_layernorm", x)
        q, k, v = (self._linear(f"{prefix}self_attn.{part}_proj", h) for part in "qkv")
        mixed = self._attend(layer, q.out, k.out, v.out)
        o = self._linear(prefix + "self_attn.o_proj", mixed)
        attended = o.out
        if self.is_gemma:  # the name that LLaMA gives to the norm before its feed-forward
            attended, before = self._norm(prefix + before, o.out), "pre_feedforward_layernorm"
        attended = self.added * attended
        middle = x + attended
        h2 = self._norm(prefix + before, middle)
        gate, up = (self._linear(f"{prefix}mlp.{part}_proj", h2) for part in ("gate", "up"))
        name = self.config.hidden_activation if self.is_gemma else self.config.hidden_act
        activation = rules.ACTIVATIONS[name]
        act = torch.tensor([[activation(value) for value in row] for row in gate.out.tolist()], dtype=torch.float64)
        down = self._linear(prefix + "mlp.down_proj", act * up.out)
        fed = self.added * self._norm(prefix + after, down.out)
        return {**locals(), "out": middle + fed}

    def _heads(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor, Tensor, int]]:
        """Each query head with its key and value heads, normed where the architecture does."""
        group, attention = self.heads // self.config.num_key_value_heads, f"model.layers.{layer}.self_attn."
        queries, keys, values = (t.split(self.head_dim, -1) for t in (q, k, v))
        queries, keys = (
            [self._norm(f"{attention}{part}_norm", head) for head in heads]
            for part, heads in (("q", queries), ("k", keys))
        )
        return [(queries[n], keys[n // group], values[n // group], n // group) for n in range(self.heads)]

    def _scale_and_cap(self) -> tuple[float, float | None]:
        scale = getattr(self.config, "query_pre_attn_scalar", self.head_dim) ** -0.5
        scale = getattr(self.config, "attention_multiplier", scale)
        # Gemma 3's config has the second field, and its attention does not read it.
        return scale, self.config.attn_logit_softcapping if self.config.model_type == "gemma2" else None

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs = []
        for q_h, k_h, v_h, _ in self._heads(layer, q, k, v):
            cos, sin = self._angles(layer, len(q))
            visible = self._visible(layer, len(q))
            turned = rotate(q_h, cos, sin), rotate(k_h, cos, sin)
            outs.append(torch.softmax(rules.attention_scores(*turned, visible, *self._scale_and_cap()), -1) @ v_h)
        return torch.cat(outs, -1)

    def _angles(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        parameters = self.config.rope_parameters
        if "rope_theta" not in parameters:  # one for each kind of layer
            parameters = parameters[self.config.layer_types[layer]]
        turning = int(self.head_dim * parameters.get("partial_rotary_factor", 1.0))
        return rotary(length, turning, parameters["rope_theta"])

    def _backward_block(self, r: dict[str, Any], relevance: Tensor) -> Tensor:
        # residual add, epsilon rule: each summand takes its part
        share = relevance / r["out"]
        of_product = self._linear_back(r["down"], rules.identity(share * r["fed"]))
        of_gate, of_up = rules.product(of_product) if self.variant == "attnlrp" else (None, of_product)
        of_h2 = self._linear_back(r["up"], of_up)
        if of_gate is not None:
            of_h2 = of_h2 + self._linear_back(r["gate"], rules.identity(of_gate))
        of_middle = share * r["middle"] + rules.identity(of_h2)
        share = of_middle / r["middle"]
        of_mixed = self._linear_back(r["o"], rules.identity(share * r["attended"]))
        return share * r["x"] + rules.identity(self._attention_back(r, of_mixed))

    def _attention_back(self, r: dict[str, Any], relevance: Tensor) -> Tensor:
        q, k, v, dim = r["q"], r["k"], r["v"], self.head_dim
        of_q, of_k, of_v = [], torch.zeros_like(k.out), torch.zeros_like(v.out)
        parts, options = relevance.split(dim, -1), self._scale_and_cap()
        for (q_h, k_h, v_h, kv), part in zip(self._heads(r["layer"], q.out, k.out, v.out), parts, strict=True):
            cos, sin = self._angles(r["layer"], len(q_h))
            q_r, k_r, visible = rotate(q_h, cos, sin), rotate(k_h, cos, sin), self._visible(r["layer"], len(q_h))
            columns = slice(kv * dim, (kv + 1) * dim)
            if self.variant == "cp_lrp":
                of_v[:, columns] += rules.attention_cp(q_r, k_r, v_h, part, visible, *options)
                continue
            head_q, head_k, head_v = rules.attention(q_r, k_r, v_h, part, visible, *options)
            # The norms of queries and keys hand it on.
            of_q.append(rules.identity(unrotate(head_q, q_h, cos, sin)))
            of_k[:, columns] += rules.identity(unrotate(head_k, k_h, cos, sin))
            of_v[:, columns] += head_v
        of_h = self._linear_back(v, of_v)
        if self.variant == "attnlrp":
            of_h = of_h + self._linear_back(q, torch.cat(of_q, -1)) + self._linear_back(k, of_k)
        return of_h
