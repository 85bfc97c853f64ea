"""FSDP2 and the families that are not built as LLaMA: the same scores; what cannot be done is said."""

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import RelevanceCallback
from sparc3_lightning.models.families import get_family
from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.recipe import Recipe
from tests.distributed.jobs import LENGTHS, Case, local_weights, make_module, make_trainer, predict, reduced_scores
from tests.distributed.test_invariance import TOLERANCE, alone, largest_difference
from tests.launch import run_distributed
from tests.tiny import GATED, LAYERS, PARTS, TINY, neuron_rows, rows_of, tiny_samples
from tests.tiny_files import tiny_tokenizer

# LLaMA and those built exactly as it are compared elsewhere; Granite scales what LLaMA does not.
FAMILIES = tuple(family for family in TINY if family == "granite" or family not in GATED)
# Eager attention, the only one that Gemma 2 has, is float32 inside whatever the model is.
OPTIONS: dict[str, dict[str, Any]] = {"gemma2": {"attn_implementation": "eager"}}
# Two ranks hold 11 and 10 of a layer's neurons.
SIZE: dict[str, dict[str, Any]] = {"gpt2": {"n_inner": 21}, "opt": {"ffn_dim": 21}}
SIZE = {family: SIZE.get(family, {"intermediate_size": 21}) for family in FAMILIES}
CASES = [Case("sharded", granularity) for granularity in ("neuron", "weight")]
GONE = [(1, 20), (0, 0), (1, 3)]


def score(directory: str) -> None:
    for family in FAMILIES:
        home = Path(directory) / family
        for case in CASES:
            module, trainer = (
                make_module(str(home), case, **OPTIONS.get(family, {})),
                make_trainer(case.strategy, RelevanceCallback()),
            )
            with reduced_scores() as found:
                predict(trainer, module)
            if trainer.is_global_zero:
                torch.save(found, home / f"{case.name}.pt")
        before = local_weights(module)
        with apply_recipe(module.lm, Recipe(GONE)):
            pruned = {name: value.full_tensor() for name, value in module.lm.state_dict().items()}
        assert all(torch.equal(value, before[name]) for name, value in local_weights(module).items())
        if trainer.is_global_zero:
            torch.save(pruned, home / "pruned.pt")
        if family == "gpt2":
            with pytest.raises(ValueError, match=r"compression needs whole rows .*'gpt2'.*replicated\.yaml"):
                get_family(module.lm.config.model_type).block_linears(module.lm)
        else:
            found = get_family(module.lm.config.model_type).block_linears(module.lm)
            assert len(found) == LAYERS * len(PARTS[family].linears)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    for family in FAMILIES:
        TINY[family](**SIZE[family]).save_pretrained(directory / family)
        tiny_tokenizer().save_pretrained(directory / family)
    run_distributed(score, 2, str(directory))
    return directory


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_scores(family: str, case: Case, runs: Path) -> None:
    model = TINY[family](dtype=torch.float64, **SIZE[family])
    options: dict[str, Any] = {"granularity": case.granularity, "sign": case.sign, "modules": "all"}
    found = torch.load(runs / family / f"{case.name}.pt", weights_only=True)
    for scores, seed in zip(found, (0, 1), strict=True):
        wanted = alone(model, tiny_samples(LENGTHS, seed), options)
        assert {name: score.shape for name, score in scores.items()} == {n: s.shape for n, s in wanted.items()}
        assert largest_difference(scores, wanted) < TOLERANCE["float32" if family == "gemma2" else case.dtype]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_weights_are_zeroed(family: str, runs: Path) -> None:
    wanted, parts = TINY[family](dtype=torch.float64, **SIZE[family]).state_dict(), PARTS[family]
    for layer, index in GONE:
        block = f"{parts.blocks}.{layer}"
        for part in parts.rows:
            rows = neuron_rows(family, index, neurons=21)
            rows_of(family, part, wanted[f"{block}.{part}.weight"])[rows] = 0.0
            if (bias := f"{block}.{part}.bias") in wanted:
                wanted[bias][rows] = 0.0
        rows_of(family, parts.column, wanted[f"{block}.{parts.column}.weight"])[:, index] = 0.0
    found = torch.load(runs / family / "pruned.pt", weights_only=True)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())
