"""slurm/: the scripts say what they would start; two torchrun launchers on one host leave one process's scores."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from sparc3_lightning.runs.signals import EXIT_CODE, STOP_FILE
from tests.launch import PATIENCE, free_port
from tests.runs import QUIET, ROOT, TINY, command, log_dir

SCRIPTS = ("torchrun.sh", "attribute.sbatch")
SHARDED = [
    "--trainer.strategy=lightning.pytorch.strategies.ModelParallelStrategy",
    "--trainer.strategy.init_args.data_parallel_size=4",
    "--trainer.strategy.init_args.tensor_parallel_size=1",
]
SCORES_ONLY = [
    "--model.dtype=float64",
    "--model.granularity=weight",
    "--model.modules=all",
    '--trainer.callbacks=[{"class_path": "callbacks.RelevanceCallback"}, {"class_path": "callbacks.ScoreWriter"}]',
]


def environment(**changes: object) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_"))}
    return kept | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | {k: str(v) for k, v in changes.items()}


def started(script: str, *words: str, cwd: Path | None = None, **changes: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "slurm" / script), *words],
        cwd=cwd,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_reads_it(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / "slurm" / script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", ROOT / "slurm" / script], check=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_config_it_says_how(script: str) -> None:
    done = started(script, "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: " in done.stderr


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """In Python's place: a program that writes down how it was called."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\npwd >> {tmp_path}/places\n')
    program.chmod(0o755)
    return program


def test_dry_run_of_sbatch(echo: Path) -> None:
    config = ["--config", "a.yaml", "--config", "b.yaml", "--model.modules", "[a, b]"]
    done = started("attribute.sbatch", "--dry-run", *config, PYTHON=echo, SCRATCH="scratch", NNODES=3, NPROC=2)
    assert done.returncode == 0, done.stderr
    launch, run = done.stdout.strip().split(f" {echo} ")
    assert launch.split()[0] == "srun"
    assert "--nodes 3 --ntasks-per-node 2" in launch
    keys = f"--trainer.num_nodes 3 --trainer.devices 2 --trainer.logger.init_args.save_dir {'scratch'}/logs"
    assert run == rf"-m sparc3_lightning predict --config a.yaml --config b.yaml --model.modules \[a\,\ b\] {keys}"
    checked, planned = (echo.parent / "calls").read_text().splitlines()
    assert checked.endswith("--print_config")
    assert planned.startswith("-m sparc3_lightning plan --config a.yaml")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("job", [{}, {"SLURM_JOB_ID": 7, "SLURM_SUBMIT_DIR": "/"}], ids=["outside", "inside"])
def test_dry_run_stays_where_it_was_started(script: str, job: dict[str, object], echo: Path) -> None:
    """In a shell of SLURM, too, whose job began somewhere else; and nothing is made there."""
    here = echo.parent / "here"
    here.mkdir()
    (here / "mine.yaml").touch()
    done = started(script, "--dry-run", "--config", "mine.yaml", cwd=here, PYTHON=echo, **job)
    assert done.returncode == 0, done.stderr
    assert set((echo.parent / "places").read_text().split()) == {str(here)}
    assert list(here.iterdir()) == [here / "mine.yaml"]


@pytest.mark.parametrize("form", ["--config {}", "--config={}", "-c {}"])
def test_torchrun_finds_a_config_where_it_was_started_then_at_the_root(form: str, echo: Path) -> None:
    """The run itself starts at the project's root, where the paths inside the project's configs lead from."""
    here = echo.parent / "here"
    here.mkdir()
    (here / "mine.yaml").touch()
    configs = ["mine.yaml", TINY, "/whole/path.yaml"]
    done = started(
        "torchrun.sh", *(word for one in configs for word in form.format(one).split()), cwd=here, PYTHON=echo
    )
    assert done.returncode == 0, done.stderr
    wanted = [form.format(path) for path in (here / "mine.yaml", ROOT / TINY, "/whole/path.yaml")]
    (call,) = (echo.parent / "calls").read_text().splitlines()
    assert f" predict {' '.join(wanted)} --trainer.num_nodes 1 " in call
    assert (echo.parent / "places").read_text() == f"{ROOT}\n"


def test_sbatch_runs_where_it_was_submitted(echo: Path) -> None:
    """SLURM starts it there: it names what it was given as it was given."""
    (echo.parent / "srun").write_text(f'#!/bin/sh\npwd > {echo.parent}/place\necho "$@" > {echo.parent}/call\n')
    (echo.parent / "srun").chmod(0o755)
    here = echo.parent / "here"
    here.mkdir()
    path = f"{echo.parent}:{os.environ['PATH']}"
    done = started("attribute.sbatch", "--config", "mine.yaml", cwd=here, PATH=path, SCRATCH=here, SLURM_JOB_ID=7)
    assert done.returncode == 0, done.stderr
    assert (echo.parent / "place").read_text() == f"{here}\n"
    assert "predict --config mine.yaml --trainer.num_nodes 4" in (echo.parent / "call").read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_goes_on_without_an_estimate_and_says_so(script: str, echo: Path) -> None:
    """A model that is not here is no error of the launcher's."""
    echo.write_text('#!/bin/sh\ncase "$*" in *" plan "*) echo "sparc3: error: no model" >&2; exit 1;; esac\n')
    done = started(script, "--dry-run", "--config", "a.yaml", PYTHON=echo)
    assert done.returncode == 0
    assert "predict --config" in done.stdout
    assert "no estimate: no model\nThe config is good" in done.stderr
    assert "error" not in done.stderr


def test_sbatch_asks_for_one_task_a_gpu() -> None:
    text = (ROOT / "slurm" / "attribute.sbatch").read_text()
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    asked = dict(line.split("=") for line in lines if "=" in line)
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["signal"].startswith("USR1@"), "to the tasks, not to the script (B:)"
    assert "#SBATCH --requeue\n" in text
    assert "HF_HUB_OFFLINE" in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_dry_run_ends_as_the_check_of_the_config_does(script: str, echo: Path) -> None:
    echo.write_text('#!/bin/sh\ncase "$*" in *print_config*) exit 2;; esac\n')
    done = started(script, "--dry-run", "--config", "a.yaml", PYTHON=echo)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("code", "told", "restarts", "requeues"),
    [
        (0, True, 0, False),
        (1, True, 0, False),
        (EXIT_CODE, False, 0, True),
        (EXIT_CODE, True, 0, True),
        (137, False, 0, False),
        (137, True, 0, True),
        (EXIT_CODE, True, 2, True),
        (EXIT_CODE, True, 3, False),
    ],
)
def test_sbatch_queues_again_what_was_told_to_stop(
    code: int, told: bool, restarts: int, requeues: bool, tmp_path: Path
) -> None:
    tell = f'touch "${STOP_FILE}"' if told else ":"
    for name, text in (("srun", f"{tell}; exit {code}"), ("scontrol", f'echo "$@" >> {tmp_path}/calls')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / ".stop-7").touch()  # of the job before it was queued again
    changes = {"SLURM_JOB_ID": 7, "SLURM_SUBMIT_DIR": tmp_path, "SLURM_RESTART_COUNT": restarts, "MAX_REQUEUES": 3}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = started("attribute.sbatch", "--config", "a.yaml", PATH=path, SCRATCH=tmp_path, **changes)
    assert done.returncode == code, done.stderr
    calls = tmp_path / "calls"
    assert (calls.read_text() if calls.exists() else "") == ("requeue 7\n" if requeues else "")
    assert ("MAX_REQUEUES=3 is reached" in done.stderr) == (restarts == 3)
    assert not (tmp_path / "logs" / ".stop-7").exists()


def scores_in(directory: Path) -> dict[str, Tensor]:
    """All scores of a run, by set and module."""
    return {
        f"{file.parent.name}: {name}": score
        for file in directory.glob("scores/*/*.safetensors")
        for name, score in load_file(file).items()
    }


@QUIET
@pytest.mark.parametrize("strategy", [SHARDED, pytest.param(["--trainer.strategy=ddp"], marks=pytest.mark.slow)])
def test_two_launchers_of_two_processes(strategy: list[str], tmp_path: Path) -> None:
    port = free_port()
    words = ["--config", TINY, *SCORES_ONLY, *strategy, f"--trainer.logger.init_args.save_dir={tmp_path / 'four'}"]
    nodes = [
        subprocess.Popen(
            [str(ROOT / "slurm" / "torchrun.sh"), *words, "--trainer.enable_progress_bar=false"],
            env=environment(NNODES=2, NPROC=2, RDZV=f"127.0.0.1:{port}", OMP_NUM_THREADS=1),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    one = log_dir(command("predict", TINY, tmp_path / "one", *SCORES_ONLY))
    try:
        errors = [node.communicate(timeout=PATIENCE)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], errors
    (four,) = (tmp_path / "four" / "tiny").iterdir()
    found, wanted = scores_in(four), scores_in(one)
    assert found.keys() == wanted.keys()
    assert len(wanted) == 4 * 22, "sets, layers"
    for name, score in wanted.items():
        assert (found[name] - score).abs().max() <= 1e-6 * score.abs().max(), name
