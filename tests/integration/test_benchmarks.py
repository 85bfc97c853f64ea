"""The benchmarks' scripts run, and count what they say they count; their times are of no interest here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.flop_counter import FlopCounterMode

from sparc3_lightning.lrp.attribution import Attribution
from tests.tiny import tiny_llama, tiny_samples

ROOT = Path(__file__).resolve().parents[2]


def test_gpu_benchmark_on_a_tiny_model(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", "--rounds", "1", "--json", str(tmp_path / "gpu.json")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["naive_missing"] is None
    rows = {(row["samples"], row["kind"], row["kernel"]): row for row in result["runs"]}
    kinds = {(samples, kind) for samples in ("long", "long x 2", "short") for kind in ("forward", "neuron", "weight")}
    assert {key[:2] for key in rows} == kinds | {("long", "naive loop"), ("short", "naive loop")}
    assert all(row["seconds"] > 0 and row["peak_gigabytes"] > 0 for row in rows.values())
    assert all(row["verdict"] == "" for row in rows.values()), "a tiny model meets no goal"
    assert rows["long", "forward", ""]["peak_gigabytes"] < rows["long", "weight", "eager"]["peak_gigabytes"]
    assert len({product["shape"] for product in result["products"]}) == 4
    assert "one layer's relevance" in run.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures")
def test_gpu_benchmark_says_that_it_needs_a_gpu() -> None:
    run = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "--tiny" in run.stderr


@pytest.mark.parametrize("kind", ["forward", "neuron", "weight"])
def test_work_is_what_torch_counts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from work import attribution_work

    model, samples = tiny_llama(), tiny_samples((9, 9))
    ids, lengths = pad_sequence(samples, batch_first=True), torch.tensor([9, 9])
    with FlopCounterMode(display=False) as counter:
        if kind == "forward":
            model(input_ids=ids, logits_to_keep=1)
        else:
            modules = "neurons" if kind == "neuron" else "all"
            with Attribution(model, granularity=kind, modules=modules) as attribution:  # type: ignore[arg-type]
                attribution.step(ids, lengths)
    counted = counter.get_flop_counts()["Global"].items()
    products = sum(flops for operation, flops in counted if str(operation).split(".")[-1] in ("mm", "addmm", "bmm"))
    # The counter does not see it on a CPU. Two samples and layers; below the first neurons nothing needs a gradient.
    passes = {"forward": 2, "neuron": 2 + 2.5, "weight": 2 + 2 * 2.5}[kind]
    attention = 2 * 9**2 * model.config.hidden_size * 2 * passes
    assert attribution_work(model, [9, 9], 1, kind).flops - attention == products
