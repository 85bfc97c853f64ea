"""A whole LLaMA-like model, and relevance through it, in float64 from the equations; it imports nothing of the package.

One sample at a time. Relevance travels as relevance (see rules.py) through every operation, so that a mistake in a
gradient-based rule cannot repeat itself here. Biases and sliding windows included: Mistral and Qwen2 fit too.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.reference import rules


def _rotary(length: int, dim: int, theta: float) -> tuple[Tensor, Tensor]:
    # transformers computes the angles in float32 whatever the model's dtype.
    inverse = 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    angles = torch.arange(length, dtype=torch.float32)[:, None] * inverse
    both = torch.cat((angles, angles), -1)
    return both.cos().double(), both.sin().double()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def _unrotate(relevance: Tensor, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """LRP-0 of the rotation: it is a linear map of each pair of channels."""
    half = x.shape[-1] // 2
    share = relevance / _rotate(x, cos, sin)
    turned = torch.cat((share[..., half:] * sin[..., half:], -share[..., :half] * sin[..., :half]), -1)
    return x * (share * cos + turned)


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

    def run(self, ids: Tensor, targets: list[tuple[int, float]] | None = None) -> float:
        """Fill `relevance` (layer name to (O, I)); returns the relevance that reaches the embeddings.

        Args:
            ids: Token ids, (T,).
            targets: Logits explained and their factors; default: the largest one.
        """
        self.tape: list[Any] = []
        state, config = self.state, self.config
        x = state["model.embed_tokens.weight"][ids]
        trace = []
        for layer in range(config.num_hidden_layers):
            record = self._forward_block(layer, x)
            trace.append(record)
            x = record["out"]
        normed = rules.rms_norm(x, state["model.norm.weight"], config.rms_norm_eps)
        head = self._linear("lm_head", normed)
        self.logits = head.out
        last = torch.zeros_like(head.out)
        for token, factor in targets or [(int(head.out[-1].argmax()), 1.0)]:
            last[-1, token] = factor * head.out[-1, token]
        relevance = rules.identity(self._linear_back(head, last))
        for record in reversed(trace):
            relevance = self._backward_block(record, relevance)
        return float(relevance.sum())

    def _linear(self, name: str, x: Tensor) -> Layer:
        return Layer(name, x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def _linear_back(self, layer: Layer, relevance: Tensor) -> Tensor:
        self.relevance[layer.name] = rules.weight_relevance(layer.x, layer.weight, relevance, layer.bias)
        share = relevance / layer.out
        return layer.x * (share @ layer.weight)  # rules.linear for all tokens at once; tests/unit/lrp compares the two

    def _visible(self, layer: int, length: int) -> Tensor:
        distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        types = getattr(self.config, "layer_types", None)
        window = getattr(self.config, "sliding_window", None)
        if window is None or (types is not None and types[layer] == "full_attention"):
            return distance >= 0
        return (distance >= 0) & (distance < window)

    def _forward_block(self, layer: int, x: Tensor) -> dict[str, Any]:
        prefix, eps = f"model.layers.{layer}.", self.config.rms_norm_eps
        h = rules.rms_norm(x, self.state[prefix + "input_layernorm.weight"], eps)
        q, k, v = (self._linear(f"{prefix}self_attn.{part}_proj", h) for part in "qkv")
        mixed = self._attend(layer, q.out, k.out, v.out)
        o = self._linear(prefix + "self_attn.o_proj", mixed)
        middle = x + o.out
        h2 = rules.rms_norm(middle, self.state[prefix + "post_attention_layernorm.weight"], eps)
        gate, up = (self._linear(f"{prefix}mlp.{part}_proj", h2) for part in ("gate", "up"))
        activation = rules.ACTIVATIONS[self.config.hidden_act]
        act = torch.tensor([[activation(value) for value in row] for row in gate.out.tolist()], dtype=torch.float64)
        down = self._linear(prefix + "mlp.down_proj", act * up.out)
        return {**locals(), "out": middle + down.out}

    def _heads(self, q: Tensor, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor, Tensor, int]]:
        dim = self.config.hidden_size // self.config.num_attention_heads
        group = self.config.num_attention_heads // self.config.num_key_value_heads
        cut = [t.split(dim, -1) for t in (q, k, v)]
        return [(cut[0][n], cut[1][n // group], cut[2][n // group], n // group) for n in range(len(cut[0]))]

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outs = []
        for q_h, k_h, v_h, _ in self._heads(q, k, v):
            cos, sin = self._angles(q_h)
            scores = _rotate(q_h, cos, sin) @ _rotate(k_h, cos, sin).T / q_h.shape[1] ** 0.5
            visible = self._visible(layer, len(q))
            outs.append(torch.softmax(scores.masked_fill(~visible, -torch.inf), -1) @ v_h)
        return torch.cat(outs, -1)

    def _angles(self, q: Tensor) -> tuple[Tensor, Tensor]:
        return _rotary(q.shape[0], q.shape[1], self.config.rope_parameters["rope_theta"])

    def _backward_block(self, r: dict[str, Any], relevance: Tensor) -> Tensor:
        # residual add, epsilon rule: each summand takes its part
        share = relevance / r["out"]
        of_product = self._linear_back(r["down"], share * r["down"].out)
        of_gate, of_up = rules.product(of_product) if self.variant == "attnlrp" else (None, of_product)
        of_h2 = self._linear_back(r["up"], of_up)
        if of_gate is not None:
            of_h2 = of_h2 + self._linear_back(r["gate"], rules.identity(of_gate))
        of_middle = share * r["middle"] + rules.identity(of_h2)
        share = of_middle / r["middle"]
        of_mixed = self._linear_back(r["o"], share * r["o"].out)
        return share * r["x"] + rules.identity(self._attention_back(r, of_mixed))

    def _attention_back(self, r: dict[str, Any], relevance: Tensor) -> Tensor:
        q, k, v = r["q"], r["k"], r["v"]
        dim = self.config.hidden_size // self.config.num_attention_heads
        of_q, of_k, of_v = [], torch.zeros_like(k.out), torch.zeros_like(v.out)
        parts = relevance.split(dim, -1)
        for (q_h, k_h, v_h, kv), part in zip(self._heads(q.out, k.out, v.out), parts, strict=True):
            cos, sin = self._angles(q_h)
            q_r, k_r, visible = _rotate(q_h, cos, sin), _rotate(k_h, cos, sin), self._visible(r["layer"], len(q_h))
            columns = slice(kv * dim, (kv + 1) * dim)
            if self.variant == "cp_lrp":
                of_v[:, columns] += rules.attention_cp(q_r, k_r, v_h, part, visible)
                continue
            head_q, head_k, head_v = rules.attention(q_r, k_r, v_h, part, visible)
            of_q.append(_unrotate(head_q, q_h, cos, sin))
            of_k[:, columns] += _unrotate(head_k, k_h, cos, sin)
            of_v[:, columns] += head_v
        of_h = self._linear_back(v, of_v)
        if self.variant == "attnlrp":
            of_h = of_h + self._linear_back(q, torch.cat(of_q, -1)) + self._linear_back(k, of_k)
        return of_h
