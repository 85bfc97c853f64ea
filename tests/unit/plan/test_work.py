"""The closed forms of arithmetic and traffic: method.md's numbers, and what is counted."""

import json

import pytest
import torch

from sparc3_lightning.plan.shape import shape_of
from sparc3_lightning.plan.work import (
    attention_flops,
    elementwise_bytes,
    forward_flops,
    input_gradient_flops,
    product_flops,
    relevance_bytes,
)
from tests.runs import ROOT
from tests.unit.plan.count import flops, model_of, traffic

LLAMA = shape_of(json.loads((ROOT / "configs/shapes/llama3_8b.json").read_text()))
ALL, NEURONS = LLAMA.attributed("all"), LLAMA.attributed("neurons")


def test_known_numbers_of_llama3_8b() -> None:
    """TFLOP of one sample of 2048 tokens, every token counted in every block; of the traffic, ms at 4.3 TB/s."""
    known = {
        29.7: forward_flops(LLAMA, 2048, full=True),
        31.3: input_gradient_flops(LLAMA, 2048, ALL, full=True),
        28.6: product_flops(LLAMA, 2048, ALL, full=True),
        7.7: product_flops(LLAMA, 2048, NEURONS, full=True),
    }
    for wanted, found in known.items():
        assert found / 1e12 == pytest.approx(wanted, abs=0.05)
    blocks = [linear for linear in ALL if linear.name != "lm_head"]
    assert relevance_bytes(blocks, "weight") / 4.3e9 == pytest.approx(16, abs=0.5)
    assert relevance_bytes(NEURONS, "neuron") / 4.3e9 == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("modules", ["neurons", "all", ["*layers.1.*o_proj", "*layers.2.*"], "*down_proj"])
def test_arithmetic_is_what_is_counted(modules: str | list[str]) -> None:
    """But for attention, which the counter does not see on a CPU: one operation, of another name than on a GPU."""
    tokens, batch = 24, 2
    model, shape = model_of(torch.float32, num_hidden_layers=3, num_attention_heads=4)
    attributed = shape.attributed(modules)
    num_reached = sum((layer, 0) >= min(linear.place for linear in attributed) for layer in range(shape.layers))
    wanted = batch * (
        forward_flops(shape, tokens)
        + input_gradient_flops(shape, tokens, attributed)
        + product_flops(shape, tokens, attributed)
        - (shape.layers + 2.5 * num_reached) * attention_flops(shape, tokens)
    )
    assert flops(model, tokens, batch, "weight", modules) == wanted


@pytest.mark.parametrize(("granularity", "modules"), [("neuron", "neurons"), ("weight", "all")])
@pytest.mark.parametrize("width", [{}, {"hidden_size": 96}, {"intermediate_size": 320}, {"num_key_value_heads": 8}])
def test_traffic_is_what_is_counted(granularity: str, modules: str, width: dict[str, int]) -> None:
    """Of one inner block, a token: what more blocks and tokens add, so that neither ends nor sums count."""
    base = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8, "num_key_value_heads": 4, **width}
    found, wanted = {}, {}
    for layers in (3, 4):
        model, shape = model_of(num_hidden_layers=layers, **base)
        for tokens in (32, 64):
            found[layers, tokens] = traffic(model, tokens, granularity, modules)
            wanted[layers, tokens] = elementwise_bytes(shape, tokens, shape.attributed(modules), 2)

    def per_token(of: dict[tuple[int, int], float]) -> float:
        return (of[4, 64] - of[3, 64] - of[4, 32] + of[3, 32]) / 32

    assert per_token(found) == pytest.approx(per_token(wanted), rel=0.03)
