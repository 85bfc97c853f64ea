"""A run's directory: inside the log root, one run at a time."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from sparc3_lightning.files import release
from sparc3_lightning.runs.directory import (
    LOCK_FILE,
    Claim,
    check_loggers,
    lock,
    refuse_used,
    standing_directories,
)

HOLD = "import sys, time; from pathlib import Path; from sparc3_lightning.runs.directory import lock\n"


@pytest.mark.parametrize(
    "options",
    [
        {"name": "../out"},
        {"name": "a/../../out"},
        {"name": "/out"},
        {"name": "~/out"},
        {"name": "$SPARC3_TEST_OUT"},
        {"name": "x", "version": "../../out"},
        {"name": "x", "sub_dir": "../../../out"},
    ],
    ids=str,
)
def test_names_that_lead_out_of_the_log_root(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARC3_TEST_OUT", "../out")
    with pytest.raises(ValueError, match=r"must stay inside its `save_dir`.*`trainer\.logger\.init_args\."):
        check_loggers([TensorBoardLogger(tmp_path, **options)])


def test_names_that_do_not(tmp_path: Path) -> None:
    names: list[dict[str, Any]] = [{"name": "a/b"}, {"name": ""}, {"name": "a..b", "version": 3}, {"name": None}]
    check_loggers([TensorBoardLogger(tmp_path, **options) for options in names])
    check_loggers([CSVLogger(tmp_path, name="x", version="best")])
    check_loggers([])


def test_a_lock_keeps_others_out(tmp_path: Path) -> None:
    held = lock(tmp_path / "run")
    with pytest.raises(BlockingIOError, match=rf"run is in use by another run .*{os.getpid()}"):
        lock(tmp_path / "run")
    release(held)
    assert list((tmp_path / "run").iterdir()) == []
    release(lock(tmp_path / "run"))


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = f"{HOLD}held = lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(900)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match=str(process.pid)):
            lock(tmp_path)
        process.kill()
    assert (tmp_path / LOCK_FILE).exists()
    release(lock(tmp_path))


def test_a_worker_that_outlives_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    forks = "import os; held = lock(Path(sys.argv[1])); os.fork() or print(os.getpid(), flush=True)"
    code = f"{HOLD}{forks}; time.sleep(900)"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            release(lock(tmp_path))
        finally:
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_warns(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(UserWarning, match="on a file system without locks"):
        held = lock(tmp_path / "run")
    release(held)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("used", ["scores", "pruned_neurons.json", "resume", "config.yaml", "provenance.json"])
def test_results_of_another_run(used: str, tmp_path: Path) -> None:
    refuse_used(tmp_path, resumes=False)
    (tmp_path / used).mkdir()
    for resumes in (False, True):
        with pytest.raises(FileExistsError, match=rf"holds another run's {used}"):
            refuse_used(tmp_path, resumes)


def test_an_unfinished_run_lets_itself_in(tmp_path: Path) -> None:
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "state.json").touch()
    (tmp_path / "scores").mkdir()
    refuse_used(tmp_path, resumes=True)
    with pytest.raises(FileExistsError, match="holds another run's scores"):
        refuse_used(tmp_path, resumes=False)


def test_a_run_that_was_killed_at_its_start_may_begin_again(tmp_path: Path) -> None:
    for name in ("config.yaml", "provenance.json"):
        (tmp_path / name).touch()
    refuse_used(tmp_path, resumes=True)
    with pytest.raises(FileExistsError, match=r"holds another run's config\.yaml"):
        refuse_used(tmp_path, resumes=False)


def test_a_claim_that_is_taken_back_leaves_the_disk_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    standing = standing_directories(tmp_path / "logs" / "mine")
    run = tmp_path / "logs" / "mine" / "version_0"
    run.mkdir(parents=True)
    (run / f"events.out.tfevents.1.host.{os.getpid()}.0").touch()  # by the logger, before any hook
    claim = Claim(run)
    for name in ("config.yaml", "provenance.json", "hparams.yaml"):
        (run / name).touch()
    claim.take_back(standing)
    assert list(tmp_path.rglob("*")) == [tmp_path / "logs"]


def test_a_directory_that_was_there_stays_and_so_do_another_run_s_events(tmp_path: Path) -> None:
    run = tmp_path / "mine" / "version_0"
    run.mkdir(parents=True)
    (run / "events.out.tfevents.1.host.1.0").touch()
    standing = standing_directories(tmp_path / "mine")
    Claim(run).take_back(standing)
    assert [path.name for path in run.iterdir()] == ["events.out.tfevents.1.host.1.0"]
    (run / "events.out.tfevents.1.host.1.0").unlink()
    Claim(run).take_back(standing)
    assert run.is_dir()


@pytest.mark.parametrize("precious", ["notes.txt", "checkpoints"])
def test_what_somebody_made_stays(precious: str, tmp_path: Path) -> None:
    """A file of the user's, there before; and what a run has written besides its first files."""
    (tmp_path / "hparams.yaml").write_text("theirs")
    (tmp_path / "notes.txt").write_text("theirs")
    claim = Claim(tmp_path)
    (tmp_path / "config.yaml").touch()
    if precious == "checkpoints":
        (tmp_path / precious).mkdir()
    claim.take_back(standing_directories(tmp_path))
    left = {"hparams.yaml", "notes.txt"} | ({"config.yaml", precious} if precious == "checkpoints" else set())
    assert {path.name for path in tmp_path.iterdir()} == left
    assert (tmp_path / "hparams.yaml").read_text() == "theirs"


def test_a_claim_that_was_refused_takes_nothing_back(tmp_path: Path) -> None:
    other = Claim(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(BlockingIOError, match="in use by another run"):
        Claim(tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").exists()
    other.release()
