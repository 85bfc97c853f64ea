"""Circuits over several processes, replicated and sharded: the same that stays, and the same figures, as on one."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from callbacks import BaselineCallback, CircuitCallback, RelevanceCallback, ScoreWriter
from sparc3_lightning.data.datamodule import SparC3DataModule
from sparc3_lightning.data.samples import LoadContext, ReferenceSamples
from sparc3_lightning.distributed.ranks import is_raised_by_all, rank_and_world_size
from sparc3_lightning.evaluation.evaluator import Evaluator
from sparc3_lightning.evaluation.task import TaskMeasure
from sparc3_lightning.files import read_json, write_json
from sparc3_lightning.metrics.measure import Measure
from tests.distributed.jobs import FixedSamples, SameWeights, make_module, make_trainer, predict
from tests.launch import run_distributed
from tests.tiny import tiny_llama, tiny_samples
from tests.tiny_files import save_tiny_model
from tests.unit.evaluation.test_task import samples

CASES = [("neuron", "replicated", 2), ("neuron", "sharded", 2), ("weight", "replicated", 2), ("weight", "sharded", 2)]


class Asked(FixedSamples):
    """Samples with a right and a wrong token, and a twin each."""

    def load(self, context: LoadContext) -> ReferenceSamples:
        samples = super().load(context)
        answers = tiny_samples([2] * len(samples), seed=7)
        return ReferenceSamples(
            samples.ids, samples.source, samples.sample_ids,
            following=[ids[:1] for ids in answers], against=[int(ids[1]) for ids in answers],
            corrupted=[ids.roll(1) for ids in samples.ids],
        )  # fmt: skip


def circuits(model: str, granularity: str, strategy: str, home: str) -> None:
    ablations: list[Any] = ["zero", "mean", "corrupted"] if granularity == "neuron" else ["zero"]
    listed = [
        RelevanceCallback(), ScoreWriter(), BaselineCallback(["gradient", "magnitude"], ["signed"]),
        CircuitCallback([0.05, 0.3], ablations),
    ]  # fmt: skip
    data = SparC3DataModule(behaviours={"asked": Asked(1)}, evaluation_task=Asked(2), batch_size=2)
    trainer = make_trainer(strategy, *listed, SameWeights(), default_root_dir=home)
    modules = "neurons" if granularity == "neuron" else "all"
    options = {"modules": modules, "granularity": granularity, "sign": "signed", "target": "next_token"}
    predict(trainer, make_module(model, **options), data)


def table(home: Path) -> dict[tuple[str, ...], list[float]]:
    (path,) = home.rglob("table.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    names = ("accuracy", "argmax_accuracy", "logit_difference")
    return {
        (row["method"], row["ablation"], row["share"], row["asked"]): [float(row[name]) for name in names]
        for row in rows
    }


def ask(home: str, sharded: bool) -> None:
    """One rank's figures of a task, and how many rows it has passed through the model."""
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    model, passed, rank = tiny_llama(dtype=torch.float64), list[int](), rank_and_world_size()[0]
    if sharded:
        for block in [*model.model.layers, model]:
            fully_shard(block, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))
    model.register_forward_pre_hook(lambda _, args, kwargs: passed.append(len(kwargs["input_ids"])), with_kwargs=True)
    asked = samples()
    measures: list[Measure] = [TaskMeasure(asked), TaskMeasure(asked, "twins", with_twins=True)]
    found = Evaluator(measures=measures).evaluate(model, None, None, None)  # type: ignore[arg-type] # no text
    columns = {name: column.values.tolist() for name, column in found.columns.items()}
    write_json(Path(home) / f"{rank}.json", {"passed": sum(passed), "columns": columns})


@pytest.mark.parametrize(("world_size", "sharded"), [(2, False), (4, False), (2, True)])
def test_replicas_share_the_samples(world_size: int, sharded: bool, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    ask(str(tmp_path / "alone"), sharded=False)
    wanted = read_json(tmp_path / "alone" / "0.json", "figures")
    run_distributed(ask, world_size, str(tmp_path), sharded)
    found = [read_json(tmp_path / f"{rank}.json", "figures") for rank in range(world_size)]
    total = 3 * len(samples())  # once as they are, once with twins
    assert wanted["passed"] == total
    passed = [one["passed"] for one in found]
    if sharded:
        assert passed == [total] * world_size, "a sharded model needs every rank in every pass"
    else:
        assert sum(passed) == total
        assert max(passed) <= 3 * -(-len(samples()) // world_size)
    for one in found:
        for name, values in wanted["columns"].items():
            torch.testing.assert_close(one["columns"][name], values, rtol=1e-6, atol=1e-6)


def ask_broken(home: str) -> None:
    distributed.init_process_group("gloo")
    model, asked = tiny_llama(), samples()
    with torch.no_grad():
        model.lm_head.weight[int(asked.following[-1][0])] = torch.nan  # the last sample's alone, on one rank
    with pytest.raises(ValueError, match="must be finite") as refused:
        Evaluator(measures=[TaskMeasure(asked)]).evaluate(model, None, None, None)  # type: ignore[arg-type] # no text
    write_json(Path(home) / f"{rank_and_world_size()[0]}.json", {"by_all": is_raised_by_all(refused.value)})


def test_a_circuit_that_cannot_be_asked_fails_on_every_rank_alike(tmp_path: Path) -> None:
    run_distributed(ask_broken, 2, str(tmp_path))
    assert [read_json(tmp_path / f"{rank}.json", "figures") for rank in range(2)] == [{"by_all": True}] * 2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("circuit")
    save_tiny_model(directory / "model")
    for granularity in ("neuron", "weight"):
        circuits(str(directory / "model"), granularity, "replicated", str(directory / granularity))
    return directory


@pytest.mark.parametrize(("granularity", "strategy", "world_size"), CASES)
def test_the_same_figures(granularity: str, strategy: str, world_size: int, home: Path) -> None:
    own = home / f"{granularity}-{strategy}-{world_size}"
    run_distributed(circuits, world_size, str(home / "model"), granularity, strategy, str(own))
    wanted, found = table(home / granularity), table(own)
    assert wanted.keys() == found.keys()
    ours, theirs = (torch.tensor([figures[key] for key in wanted], dtype=torch.float64) for figures in (found, wanted))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_circuits_differ_by_method_share_and_ablation(home: Path) -> None:
    for granularity, num in (("neuron", 3), ("weight", 1)):
        found = table(home / granularity)
        differences = {key: round(figures[2], 5) for key, figures in found.items() if key[0] not in ("none", "all")}
        assert len({key[1] for key in found}) == num
        # All but the whole model, which is the same for every method.
        smaller = {key: value for key, value in differences.items() if float(key[2]) < 1}
        assert len(set(smaller.values())) > 0.7 * len(smaller)
