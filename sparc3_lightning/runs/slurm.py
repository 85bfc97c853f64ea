"""Which of a run's processes SLURM has started, and which Lightning has to start."""

import os
from collections.abc import Mapping

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

_HOW = "Start it with `srun`, one task a GPU, as slurm/attribute.sbatch does; or with `srun --ntasks=1`"


class SrunTasks(SLURMEnvironment):
    """The tasks of one `srun`, whatever the job is called.

    Lightning's own takes every job named `bash` or `interactive` for a shell: each of its tasks would be a run of its
    own. It knows the tasks of the job only, not those of the step. And unless told, it saves inside its signal handlers
    and requeues the job itself.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @property
    def main_address(self) -> str:
        """The step's first node: the job may have others."""
        nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", "127.0.0.1"))
        return os.environ.setdefault("MASTER_ADDR", self.resolve_root_node_address(nodes))

    def world_size(self) -> int:
        """Tasks of the step."""
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    @staticmethod
    def _validate_srun_used() -> None:
        """It was: there are tasks."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """`check_tasks` compares them with the trainer's."""


def slurm_environment(variables: Mapping[str, str], at_terminal: bool) -> ClusterEnvironment | None:
    """Who starts a run's processes inside a job of SLURM.

    Args:
        variables: This process's environment.
        at_terminal: Whether it reads from a terminal: of an `srun --pty` with several tasks only the first has one, and
            the others have ended.

    Returns:
        SLURM, where this is one of several tasks of an `srun`; Lightning, where it is the only one; None outside SLURM.

    Raises:
        ValueError: The job has several tasks, and this is none of them: a script or a shell.
    """
    job, step = (int(variables.get(f"SLURM_{name}", 0)) for name in ("NTASKS", "STEP_NUM_TASKS"))
    if step > 1 and not at_terminal:
        return SrunTasks()
    num_tasks = max(job, step)
    if num_tasks > 1:
        raise ValueError(
            f"SLURM has {num_tasks} tasks here, and this process is none of them, but a script or a shell. {_HOW}."
        )
    return LightningEnvironment() if num_tasks == 1 else None


def check_tasks(variables: Mapping[str, str], num_devices: int, num_nodes: int) -> None:
    """Refuse a trainer that counts on other processes than those that SLURM has started: it would wait for ever.

    Args:
        variables: This process's environment.
        num_devices: The trainer's devices, on each node.
        num_nodes: The trainer's nodes.

    Raises:
        ValueError: It does.
    """
    num_tasks = int(variables.get("SLURM_STEP_NUM_TASKS", variables.get("SLURM_NTASKS", 0)))
    # As SLURM writes it: tasks of each node, and how many nodes in a row have as many.
    wanted = f"{num_devices}(x{num_nodes})" if num_nodes > 1 else str(num_devices)
    if num_tasks == 1 and num_nodes > 1 and "NODE_RANK" not in variables:
        raise ValueError(
            f"`trainer.num_nodes` is {num_nodes}, but SLURM runs 1 task. {_HOW}, and set `trainer.num_nodes` to 1."
        )
    tasks = variables.get("SLURM_STEP_TASKS_PER_NODE", wanted)
    if num_tasks > 1 and (num_tasks != num_devices * num_nodes or tasks != wanted):
        raise ValueError(
            f"`trainer.devices` is {num_devices} and `trainer.num_nodes` {num_nodes}, but SLURM runs {num_tasks} tasks "
            f"({variables.get('SLURM_STEP_TASKS_PER_NODE', '?')} a node). Set them to what `srun` was given as "
            "`--ntasks-per-node` and `--nodes`; or start one process, with `srun --ntasks=1`."
        )
