"""Invariant 1: the same samples give the same scores and the same metrics, whatever the world size and the strategy."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparc3_lightning.lrp.attribution import Attribution
from sparc3_lightning.lrp.targets import NEXT_TOKEN
from sparc3_lightning.pruning.select import select_neurons
from sparc3_lightning.scoring.combine import differential
from sparc3_lightning.scoring.plain import attribute
from sparc3_lightning.scoring.score_set import ScoreSet
from tests.distributed.jobs import AGAINST, CASES, LENGTHS, Case, following, predict_cases
from tests.launch import run_distributed
from tests.tiny import tiny_llama, tiny_samples
from tests.tiny_files import tiny_tokenizer

WORLDS = (1, 2, 4)
SIZE = {"intermediate_size": 21}  # four ranks hold 6, 6, 6 and 3 of a layer's neurons
# The largest difference that rounding explains, as a share of a layer's largest score (architecture.md, invariant 1).
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}

Scores = dict[str, Tensor]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every world size found, under its number."""
    directory = tmp_path_factory.mktemp("runs")
    tiny_llama(**SIZE).save_pretrained(directory / "model")
    tiny_tokenizer().save_pretrained(directory / "model")
    for world in WORLDS:
        (directory / str(world)).mkdir()
        run_distributed(predict_cases, world, str(directory / "model"), str(directory / str(world)), CASES)
    return directory


@cache
def expected(case: Case) -> list[Scores]:
    """What plain Python finds in one process, each sample alone."""
    model = tiny_llama(dtype=getattr(torch, case.dtype), **SIZE)
    options: dict[str, Any] = {"granularity": case.granularity, "sign": case.sign, "modules": "all", **case.explains}
    is_next = case.target == NEXT_TOKEN
    words = [{"targets": [int(ids[0]) for ids in following(seed)], "against": AGAINST} for seed in (0, 1)]
    return [alone(model, tiny_samples(LENGTHS, seed), options, words[seed] if is_next else {}) for seed in (0, 1)]


def alone(
    model: PreTrainedModel,
    samples: list[Tensor],
    options: dict[str, Any],
    words: Mapping[str, Sequence[int]] = {},
) -> Scores:
    with Attribution(model, **options) as attribution:
        for index, ids in enumerate(samples):
            own = {name: torch.tensor([tokens[index]]) for name, tokens in words.items()}
            attribution.step(ids[None], torch.tensor([len(ids)]), **own)
        scores = {name: total / len(samples) for name, total in attribution.sums().items()}
    rounded = attribute(model, samples, batch_size=3, **options, **words).scores
    assert largest_difference(rounded, scores) < TOLERANCE["float32"]
    return scores


def largest_difference(found: Scores, wanted: Scores) -> float:
    assert found.keys() == wanted.keys()
    return max(float((found[n] - wanted[n]).abs().max() / wanted[n].abs().max()) for n in wanted)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_scores(case: Case, world: int, runs: Path) -> None:
    found: list[Scores] = torch.load(runs / str(world) / f"{case.name}.pt", weights_only=True)
    wanted = expected(case)
    assert len(found) == 2
    for scores, scores_wanted in zip(found, wanted, strict=True):
        assert len(scores) == 15  # seven linear layers in each of two blocks, and the head
        assert {score.dtype for score in scores.values()} == {getattr(torch, case.dtype)}
        assert largest_difference(scores, scores_wanted) < TOLERANCE[case.dtype]
    assert selected(found) == selected(wanted)


def selected(scores: list[Scores]) -> list[tuple[int, int]]:
    general, toxic = map(ScoreSet, scores)
    return select_neurons(differential([general], toxic), 10).neurons


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("strategy", ["replicated", "sharded"])
def test_the_same_metrics_on_every_rank(strategy: str, world: int, runs: Path) -> None:
    wanted = json.loads((runs / "1" / "replicated-0.json").read_text())
    assert 0.0 < wanted["evaluation"]["toxicity"]["attributes"]["toxicity"]["mean"] < 1.0
    for rank in range(world):
        found = json.loads((runs / str(world) / f"{strategy}-{rank}.json").read_text())
        assert found["evaluation"]["toxicity"] == wanted["evaluation"]["toxicity"]
        for protocol, figures in wanted["evaluation"]["perplexity"].items():
            figures_found = found["evaluation"]["perplexity"][protocol]
            for name in ("perplexity", "mean_loss"):
                assert figures_found.pop(name) == pytest.approx(figures[name], rel=1e-12)
            assert figures_found == {name: figure for name, figure in figures.items() if name in figures_found}
        assert found["logged"] == pytest.approx(wanted["logged"], rel=1e-6)  # Lightning logs in float32
        assert found["logged"]["perplexity/sliding"] > 1.0
