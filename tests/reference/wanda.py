"""Wanda written from the paper, slow and obvious, in float64; it imports nothing of the package.

Sun et al., ICLR 2024, Sec. 3 and Algorithm 1: the importance of W_ij is |W_ij| * ||X_j||_2, X_j the j-th input feature
over all N x L tokens; weights compete within their output row; blocks are pruned in order, and a block sees what the
pruned blocks before it put out.
"""

from typing import Any

import torch
from torch import Tensor

from tests.reference.llama import Reference

PARTS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
         "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}  # fmt: skip


def row_mask(weight: Tensor, inputs: Tensor, sparsity: float) -> list[list[bool]]:
    """Which weights go; ties go to the lower index.

    Shape: weight (O, I), inputs (N, I).
    """
    norms = [sum(float(x) ** 2 for x in column) ** 0.5 for column in inputs.T.tolist()]
    mask = []
    for row in weight.tolist():
        importance = [abs(w) * norm for w, norm in zip(row, norms, strict=True)]
        order = sorted(range(len(row)), key=lambda j: (importance[j], j))
        gone = set(order[: int(len(row) * sparsity)])
        mask.append([j in gone for j in range(len(row))])
    return mask


def sequential_masks(
    config: Any, state: dict[str, Tensor], samples: list[Tensor], sparsity: float
) -> dict[str, Tensor]:
    """Masks of every linear layer in the blocks, each sample passed alone, without padding.

    Args:
        config: The model's config.
        state: Its state dict in float64; pruned in place.
        samples: Token ids, (T,) each.
        sparsity: Share of each row that goes.
    """
    hidden = [state["model.embed_tokens.weight"][ids] for ids in samples]
    masks: dict[str, Tensor] = {}
    for layer in range(config.num_hidden_layers):
        records = [Reference(config, state)._forward_block(layer, x) for x in hidden]
        for short, name in PARTS.items():
            full = f"model.layers.{layer}.{name}"
            inputs = torch.cat([record[short].x for record in records])
            masks[full] = torch.tensor(row_mask(state[f"{full}.weight"], inputs, sparsity))
        for short in PARTS.values():
            full = f"model.layers.{layer}.{short}"
            state[f"{full}.weight"][masks[full]] = 0.0
        hidden = [Reference(config, state)._forward_block(layer, x)["out"] for x in hidden]
    return masks
