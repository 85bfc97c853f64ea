"""Inside a job of SLURM: its tasks are the ranks, whatever the job is called, or one line says what to do."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer

from sparc3_lightning.cli import run
from tests.runs import QUIET, ROOT, TINY
from tests.shown import Type, refused

pytestmark = QUIET

Job = Callable[..., None]
NAMES = ("sparc3", "interactive", "bash")
# What SLURM sets in a batch script; in every task of an srun, here the second of two; and in the shell of a salloc.
SCRIPT = {"JOB_ID": 1234, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "NODELIST": "n[3-6]"}
TASK = {"JOB_ID": 1234, "PROCID": 1, "LOCALID": 1, "NODEID": 0, "NTASKS": 2, "STEP_NUM_TASKS": 2, "NODELIST": "n[3-6]",
        "STEP_NODELIST": "n5", "STEP_TASKS_PER_NODE": "2"}  # fmt: skip
SHELL = {"JOB_ID": 1234, "NODELIST": "n[3-6]"}
TORCHRUN = {
    "RANK": 1,
    "LOCAL_RANK": 1,
    "WORLD_SIZE": 2,
    "GROUP_RANK": 0,
    "LOCAL_WORLD_SIZE": 2,
    "TORCHELASTIC_RUN_ID": 7,
}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    """Sets what SLURM would, and nothing that another launcher might have left."""
    for name in [*TORCHRUN, "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", *os.environ]:
        if name in TORCHRUN or name.startswith(("SLURM_", "MASTER_", "NODE_RANK")):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "")  # put back afterwards: an environment of Lightning sets both
    monkeypatch.setenv("MASTER_PORT", "")
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.delenv("MASTER_PORT")
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # put back, too: a trainer of the second rank sets it
    monkeypatch.chdir(ROOT)

    def set_variables(**variables: Any) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))

    return set_variables


def trainer(*options: str) -> Trainer:
    return run(["--config", TINY, *options], execute=False).trainer


def environment(*options: str) -> Any:
    return trainer(*options)._accelerator_connector.cluster_environment


@pytest.mark.parametrize("name", NAMES)
def test_tasks_of_an_srun_are_the_ranks(name: str, job: Job) -> None:
    job(JOB_NAME=name, **TASK)
    two = trainer("--trainer.devices=2")
    assert (two.global_rank, two.world_size, two.node_rank, two.local_rank) == (1, 2, 0, 1)
    found = two._accelerator_connector.cluster_environment
    assert isinstance(found, SLURMEnvironment)
    assert found.creates_processes_externally
    assert (found.world_size(), found.main_address, found.main_port) == (2, "n5", 16234)
    assert found.auto_requeue is False, "it would save inside its signal handler"


def test_tasks_on_several_nodes(job: Job) -> None:
    job(JOB_NAME="bash", **{**TASK, "PROCID": 5, "NODEID": 2, "NTASKS": 8, "STEP_NUM_TASKS": 8, "NNODES": 4,
                            "STEP_NODELIST": "n[3-6]", "STEP_TASKS_PER_NODE": "2(x4)"})  # fmt: skip
    eight = trainer("--trainer.devices=2", "--trainer.num_nodes=4", "--trainer.strategy=ddp")
    assert (eight.global_rank, eight.world_size, eight.node_rank, eight.local_rank) == (5, 8, 2, 1)
    assert eight._accelerator_connector.cluster_environment.main_address == "n3"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("options", "per_node"),
    [
        (["--trainer.devices=1"], "2"),
        (["--trainer.devices=4"], "2"),
        (["--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.strategy=ddp"], "2"),
        (["--trainer.devices=2"], "1(x2)"),
    ],
)
def test_a_trainer_that_counts_on_others(name: str, options: list[str], per_node: str, job: Job, type_in: Type) -> None:
    """One device and two tasks were two whole runs, side by side in one directory."""
    job(JOB_NAME=name, **{**TASK, "STEP_TASKS_PER_NODE": per_node})
    shown = type_in("predict", "--config", TINY, *options)
    refused(shown, 1, "`trainer.devices` is", f"SLURM runs 2 tasks ({per_node} a node)", "--ntasks-per-node")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "variables",
    [
        {**SCRIPT, "NTASKS": 8, "NTASKS_PER_NODE": 8},
        {**SHELL, "NTASKS": 8},
        {**SHELL, "NTASKS": 8, "NTASKS_PER_NODE": 8, "PROCID": 0, "STEP_NUM_TASKS": 1},
    ],
    ids=["script", "shell", "shell in a step"],
)
def test_several_tasks_without_srun(name: str, variables: dict[str, Any], job: Job, type_in: Type) -> None:
    job(JOB_NAME=name, **variables)
    for devices in (1, 8):
        shown = type_in("predict", "--config", TINY, f"--trainer.devices={devices}")
        refused(shown, 1, "SLURM has 8 tasks here, and this process is none of them", "Start it with `srun`")


def test_the_shell_of_a_step_with_several_tasks(job: Job, type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    """`srun --ntasks=2 --pty bash`: the other task's shell had no terminal, and has ended."""
    job(JOB_NAME="bash", **{**TASK, "PROCID": 0, "LOCALID": 0})
    monkeypatch.setattr("os.isatty", lambda _: True)
    refused(type_in("predict", "--config", TINY, "--trainer.devices=2"), 1, "none of them, but a script or a shell")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "variables",
    [{**SCRIPT, "NTASKS": 1}, {**SHELL, "NTASKS": 1}, {**TASK, "PROCID": 0, "NTASKS": 1, "STEP_NUM_TASKS": 1}],
    ids=["script", "shell", "srun"],
)
def test_of_one_task_lightning_starts_the_others(name: str, variables: dict[str, Any], job: Job) -> None:
    job(JOB_NAME=name, **variables)
    found = environment("--trainer.devices=2")
    assert isinstance(found, LightningEnvironment)
    assert not found.creates_processes_externally


def test_one_task_for_several_nodes(job: Job, type_in: Type) -> None:
    job(JOB_NAME="sparc3", **SCRIPT, NTASKS=1)
    shown = type_in("predict", "--config", TINY, "--trainer.num_nodes=2", "--trainer.strategy=ddp")
    refused(shown, 1, "`trainer.num_nodes` is 2, but SLURM runs 1 task", "Start it with `srun`")


def test_torchrun_goes_before_slurm(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job(JOB_NAME="sparc3", **SCRIPT, NTASKS=8)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, str(value))
    assert isinstance(environment("--trainer.devices=2"), TorchElasticEnvironment)


def test_a_plugin_of_the_config_goes_before_both(job: Job) -> None:
    job(JOB_NAME="sparc3", **SCRIPT, NTASKS=8)
    assert isinstance(environment("--trainer.plugins=LightningEnvironment"), LightningEnvironment)


def test_outside_slurm(job: Job) -> None:
    assert isinstance(environment(), LightningEnvironment)
