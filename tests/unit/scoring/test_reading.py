"""Sets of all weights are read and held module by module, and each module is read once: counted by the benchmark."""

import importlib
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from sparc3_lightning import ScoreSet, differential
from sparc3_lightning.scoring import lazy as room
from sparc3_lightning.scoring.combine import as_shares, seed_variation
from sparc3_lightning.scoring.lazy import LazyScores, check_modules, count_scores
from sparc3_lightning.scoring.weights import random_scores
from tests.runs import ROOT

NUM_SETS = 4


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with mock.patch.object(sys, "path", [str(ROOT / "benchmarks"), *sys.path]):
        benchmark = importlib.import_module("score_sets")
    result: dict[str, Any] = benchmark.measure_score_sets(tmp_path_factory.mktemp("sets"))
    neurons = benchmark.TINY["num_hidden_layers"] * benchmark.TINY["intermediate_size"] * benchmark.TINY["hidden_size"]
    return {**result, "neuron_modules": 4 * neurons}


def test_attribution_holds_its_scores_once(found: dict[str, Any]) -> None:
    assert found["set"] <= found["steps"]["attribute"]["peak"] < 1.1 * found["set"]


def test_selection_holds_one_module_of_each_set_and_reads_what_neurons_need_once(found: dict[str, Any]) -> None:
    step = found["steps"]["sparc3 select"]
    assert step["read"] == NUM_SETS * found["neuron_modules"]
    # And the module that is made of them, block by block.
    assert step["peak"] < (NUM_SETS + 3) * found["largest_module"]


def test_inspection_holds_one_module_and_reads_each_once(found: dict[str, Any]) -> None:
    step = found["steps"]["sparc3 inspect"]
    assert step["read"] == found["set"]
    assert step["peak"] < 2.5 * found["largest_module"]


def test_random_scores_are_drawn_when_they_are_asked_for(found: dict[str, Any]) -> None:
    assert found["steps"]["random"]["peak"] < found["largest_module"]


def test_a_run_reads_each_module_of_each_set_once(found: dict[str, Any]) -> None:
    """For the differential; selection, validation and report know the rest. (On a CPU the sums are there, too.)"""
    step = found["steps"]["predict, selection and evaluation"]
    assert step["read"] == NUM_SETS * found["set"]
    assert step["peak"] < 2.6 * found["set"]


def test_no_baseline_s_scores_are_kept(found: dict[str, Any]) -> None:
    step = found["steps"]["predict, 3 baselines"]
    assert step["read"] == 0
    assert step["peak"] < 2.6 * found["set"]


def test_draws_do_not_depend_on_the_order_in_which_they_are_asked_for() -> None:
    shapes = {"a": (5,), "b": (2, 3), "c": (4,)}
    generator = torch.Generator().manual_seed(7)
    wanted = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    for order in ("abc", "cba", "bacab"):
        drawn = random_scores(shapes, 7)
        assert all(torch.equal(drawn[name], wanted[name]) for name in order)


def lazily(scores: dict[str, torch.Tensor], asked: list[str]) -> ScoreSet:
    def get(name: str) -> torch.Tensor:
        asked.append(name)
        return scores[name]

    return ScoreSet(LazyScores({name: tuple(score.shape) for name, score in scores.items()}, get))


def some_sets(num: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"a": torch.randn(7, 5, generator=generator), "b": torch.randn(9, generator=generator)} for _ in range(num)]


@pytest.mark.parametrize("num_general", [1, 2, 5, 9])
@pytest.mark.parametrize("block", [1, 12])
def test_blocks_change_no_score(num_general: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    *general, behaviour = [ScoreSet(scores) for scores in some_sets(num_general + 1)]
    whole = differential(general, behaviour, 3.0, "abs")
    wanted = seed_variation(general)
    stacked = {name: torch.stack([one.scores[name].double() for one in general]).mean(0) for name in ("a", "b")}
    by_hand = {name: (3.0 * mean.abs() - behaviour.scores[name].double()).float() for name, mean in stacked.items()}
    monkeypatch.setattr(room, "BLOCK", block)
    blocks = differential(general, behaviour, 3.0, "abs")
    for name in ("a", "b"):
        assert torch.equal(whole.scores[name], by_hand[name])
        assert torch.equal(blocks.scores[name], by_hand[name])
        assert torch.equal(blocks.summary(name).rows, by_hand[name].reshape(len(by_hand[name]), -1).double().sum(1))
        assert blocks.summary(name).total == pytest.approx(by_hand[name].double().sum().item(), rel=1e-12)
    assert seed_variation(general) == (None if wanted is None else pytest.approx(wanted, rel=1e-12))


def test_what_was_read_is_not_read_again() -> None:
    asked: list[str] = []
    *general, behaviour = [lazily(scores, asked) for scores in some_sets(3)]
    contrast = differential(general, behaviour)
    assert asked == []
    dict(contrast.scores)
    assert sorted(asked) == ["a"] * 3 + ["b"] * 3
    for score_set in (*general, behaviour, contrast):
        assert count_scores(score_set.scores)["num_scores"] == 44
        assert score_set.total == pytest.approx(sum(score.sum().item() for score in some_values(score_set)), rel=1e-5)
    num_asked = len(asked)
    as_shares(behaviour)
    contrast.summary("a")
    assert len(asked) == num_asked


def some_values(score_set: ScoreSet) -> list[torch.Tensor]:
    return [score_set.summary(name).rows for name in score_set.shapes]


def test_scores_that_are_not_finite_are_refused_when_they_are_read(tmp_path: Path) -> None:
    """The file is whole, its scores are not: whoever wrote them did not check."""
    with mock.patch("sparc3_lightning.scoring.score_set.check_scores"):
        ScoreSet({"a": torch.tensor([1.0, float("nan")])}).save(tmp_path / "set")
    stored = ScoreSet.open(tmp_path / "set")
    with pytest.raises(ValueError, match="scores of a must be finite"):
        stored.summary("a")


def test_counts() -> None:
    scores = {
        "a": torch.tensor([1.0, float("nan"), float("inf"), -float("inf")]),
        "b": torch.tensor([[-1.0, 0.0], [float("nan"), -2.0]]),
    }
    assert count_scores(scores) == {
        "num_modules": 2,
        "num_scores": 8,
        "num_nan": 2,
        "num_inf": 2,
        "num_negative": 3,
    }


def test_expected_layers() -> None:
    # Trap 14: every expected layer, and no other.
    check_modules(["a", "b"], ["b", "a"])
    with pytest.raises(ValueError, match=r"missing: \['c'\], not expected: \['b'\]"):
        check_modules(["a", "b"], ["a", "c"])
    with pytest.raises(ValueError, match="every expected layer once"):
        check_modules(["a", "a"], ["a"])
