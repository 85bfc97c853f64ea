"""benchmarks/scaling.py counts on two processes what the closed forms of `sparc3 plan` say."""

import importlib
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.runs import ROOT


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("scaling")


def test_counted_is_computed(scaling: ModuleType) -> None:
    found = [scaling.compare(case) for case in scaling.measure(2)]
    assert [(case["strategy"], case["granularity"]) for case in found] == [
        ("replicated", "neuron"),
        ("replicated", "weight"),
        ("FSDP2", "neuron"),
        ("FSDP2", "weight"),
    ]
    for case in found:
        closed = case["closed_form"]
        sent = sum(case["batches"].values()) / case["num_batches"]
        assert sent == pytest.approx(closed["batch"], rel=1e-9), case
        # Beside the sums, ranks tell one another which samples they saw.
        assert sum(case["end"].values()) == pytest.approx(closed["end"], rel=0.01, abs=2000), case
        assert case["peak_bytes"] == pytest.approx(closed["peak_bytes"], rel=0.04), case


def test_held_is_all_that_lives(scaling: ModuleType) -> None:
    module = nn.Linear(10, 10, bias=False)
    with scaling.CountHeld(module) as held:
        first = torch.zeros(1000)
        view, other = first[:10], torch.zeros(500)
        del first
        assert held.peak == 4 * (100 + 1000 + 500)
        held.peak = 0
        del view
        torch.zeros(1)
        assert held.peak == 4 * (100 + 500 + 1)
        # FSDP2 frees what it gathered so, and keeps the tensor.
        other.untyped_storage().resize_(0)
        held.peak = 0
        torch.zeros(1)
        assert held.peak == 4 * (100 + 1)
