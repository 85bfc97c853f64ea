"""benchmarks/scaling.py counts on two processes what the closed forms of `sparc3 plan` say."""

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.runs import ROOT


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_counted_is_computed(scaling: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a child process imports by name.
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setitem(sys.modules, "scaling", scaling)
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
        assert case["peak_bytes"] == pytest.approx(closed["peak_bytes"], rel=0.06), case
