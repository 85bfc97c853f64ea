"""Counts and checks of scores."""

import pytest
import torch

from sparc3_lightning.scoring.checks import check_modules, count_scores

NAN, INF = float("nan"), float("inf")


def test_counts() -> None:
    scores = {"a": torch.tensor([1.0, NAN, INF, -INF]), "b": torch.tensor([[-1.0, 0.0], [NAN, -2.0]])}
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
