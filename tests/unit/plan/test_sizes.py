"""What is counted without memory, of one block of each kind, is what the whole model with real weights needs."""

import json
from itertools import chain
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.lrp.modules import select_modules
from sparc3_lightning.models.families.llama import LLAMA_3_8B
from sparc3_lightning.plan.needs import Settings
from sparc3_lightning.plan.pace import Pace, product_flops
from sparc3_lightning.plan.rates import GPUS
from sparc3_lightning.plan.sizes import Sizes, Work, _counts, model_config
from tests.runs import ROOT
from tests.tiny import TINY

MODULES = ["neurons", "all", "*.1.*"]
TOKENS = 64


def sizes_of(name: str) -> Sizes:
    return Sizes(model_config(json.loads((ROOT / f"configs/shapes/{name}.json").read_text())))


@pytest.fixture(scope="module")
def llama3_8b() -> Sizes:
    return sizes_of("llama3_8b")


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("modules", MODULES)
def test_every_family_is_counted(family: str, modules: str) -> None:
    model = TINY[family](**_long(family)).eval()
    attention = model.config._attn_implementation  # soft caps leave eager attention alone
    sizes = Sizes(model.config, attention)
    assert sizes.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    shapes = chain(*sizes.block_parameters, sizes.root_parameters)
    assert sorted(shapes) == sorted(tuple(parameter.shape) for parameter in model.parameters())
    names = select_modules(model, modules)[0]
    assert [linear.name for linear in sizes.attributed(modules)] == names
    counted = sizes.count(modules, "float32")(TOKENS)
    real = Work(*_counts(model, names, "attnlrp", TOKENS))
    assert (counted.forward_flops, counted.backward_flops) == pytest.approx((real.forward_flops, real.backward_flops))
    # What does not grow with the sample is left out: the samples' explained tokens and sums.
    longer = Work(*_counts(model, names, "attnlrp", 2 * TOKENS))
    twice = sizes.count(modules, "float32")(2 * TOKENS)
    for name in ("forward_bytes", "backward_bytes", "kept_bytes"):
        grown = getattr(longer, name) - getattr(real, name)
        # Where attention needs a mask, the model without memory makes it by other operations, once a pass.
        tolerance = 1e-9 if attention == "sdpa" else 0.05
        assert getattr(twice, name) - getattr(counted, name) == pytest.approx(grown, rel=tolerance), name


def _long(family: str) -> dict[str, Any]:
    """A context for the lengths counted, and windows that no text is longer than: a mask would be made for them."""
    known = TINY[family]().config.to_dict()
    longer = {"n_positions": 512, "max_position_embeddings": 512, "sliding_window": 512}
    return {name: value for name, value in longer.items() if known.get(name) is not None}


@pytest.mark.parametrize("modules", ["neurons", "all"])
def test_arithmetic_is_what_pytorch_counts(modules: str) -> None:
    """But for attention, which its counter does not see on a CPU: one operation, of another name than on a GPU."""
    model = TINY["llama"](max_position_embeddings=512)
    sizes = Sizes(model.config)
    with FlopCounterMode(display=False) as counter, Attribution(model, granularity="weight", modules=modules) as one:
        one.step(torch.zeros(2, TOKENS, dtype=torch.int64), torch.full((2,), TOKENS))
    work = sizes.count(modules, "float32")(TOKENS)
    reached = sizes.layers - (modules == "neurons")
    attention = (sizes.layers + 2.5 * reached) * sizes.attention_flops(TOKENS)
    assert counter.get_total_flops() == 2 * (work.forward_flops + work.backward_flops - attention)


def test_known_numbers_of_llama3_8b(llama3_8b: Sizes) -> None:
    assert llama3_8b.num_parameters == 8_030_261_248
    attributed = llama3_8b.attributed("all")
    assert len(attributed) == 225
    assert sum(linear.numel for linear in attributed) == 7_504_658_432
    assert sum(linear.num_out for linear in llama3_8b.attributed("neurons")) == 458_752
    assert llama3_8b.context == 8192
    assert (llama3_8b.query_width, llama3_8b.key_width) == (4096, 1024)
    # TFLOP of a sample of 2048 tokens, every token in every block (method.md).
    assert llama3_8b.forward_flops(2048) / 1e12 == pytest.approx(29.7, abs=0.05)
    work = llama3_8b.count("neurons", "bfloat16")(2048)
    products = product_flops(llama3_8b.attributed("neurons"), 2048)
    assert work.forward_flops == 28_897_976_516_608
    assert work.backward_flops - products == 29_808_509_583_360
    assert work.kept_bytes == pytest.approx(8.26e9, rel=0.001)
    assert work.forward_bytes + work.backward_bytes == pytest.approx(91.9e9, rel=0.005)


def test_the_benchmarks_shape_is_the_published_one() -> None:
    fields = json.loads((ROOT / "configs/shapes/llama3_8b.json").read_text())
    shared = fields.keys() & LLAMA_3_8B.keys()
    assert len(shared) > 6
    assert {key: fields[key] for key in shared} == {key: LLAMA_3_8B[key] for key in shared}


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"model_type": "bert"}, "model_type"), ({"model_type": "llama", "hidden_size": "wide"}, "here must describe")],
)
def test_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_config(fields, "here")


def test_a_token_that_is_generated_reads_the_weights(llama3_8b: Sizes) -> None:
    settings = Settings("single", 1, 1, "bfloat16", "neuron", "neurons", batch_size=1, max_tokens=None)
    pace = Pace(settings, llama3_8b, GPUS["h200"])
    one, many = pace.generation(1, 32), pace.generation(100, 32)
    assert pace.generation(0, 32) == 0
    assert 49 * pace.read <= one < many < 10 * one, "one batch's weights serve all of its completions"
    assert pace.perplexity(0) == 0


def test_every_weight_lies_somewhere() -> None:
    sizes = sizes_of("llama3_70b")
    assert len(sizes.block_parameters) == 80
    assert sizes.num_parameters == 70_553_706_496
