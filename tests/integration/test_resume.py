"""Killed at any moment, and run again with the same command: the same scores, bit for bit, no sample twice."""

import itertools
import multiprocessing
import os
import pkgutil
import random
import resource
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from sparc3_lightning.cli import SparC3CLI
from sparc3_lightning.runs import resume
from sparc3_lightning.runs.unfinished import is_unfinished
from tests.launch import PATIENCE
from tests.runs import BRIEF, QUIET, ROOT, TINY, command, log_dir, read, written
from tests.shown import Type

pytestmark = QUIET

SETS = ("general_seed0", "general_seed1", "general_seed2", "toxic")
SCORES_ONLY = ("RelevanceCallback", "ScoreWriter", "ResumeCallback")


def config(path: Path, *names: str, **init_args: Any) -> Path:
    """The tiny experiment in small batches, saved after each; with these callbacks alone, if any are named."""
    content = read(ROOT / TINY)
    content["data"]["batch_size"] = 3
    listed = content["trainer"]["callbacks"]
    for callback in listed:
        if callback["class_path"] == "callbacks.ResumeCallback":
            callback["init_args"] = {"num_samples": 1, **init_args}
    if names:
        content["trainer"]["callbacks"] = [c for c in listed if c["class_path"].removeprefix("callbacks.") in names]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def predict(config: Path, save_dir: Path, *options: str) -> SparC3CLI:
    return command("predict", config, save_dir, *BRIEF, *options)


def start(function: Callable[..., Any], *args: Any) -> multiprocessing.Process:
    process = multiprocessing.get_context("forkserver").Process(target=function, args=args)
    process.start()
    return process  # type: ignore[return-value]


def ended(process: multiprocessing.Process) -> int | None:
    process.join(PATIENCE)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def results(directory: Path) -> dict[str, Any]:
    """All that a run has found, but for wall times: files of tensors byte by byte, and what was explained."""
    found: dict[str, Any] = {}
    for name in written(directory):
        path = directory / name
        if path.suffix == ".safetensors" or path.name.endswith("_eval.json"):
            found[name] = path.read_bytes()
        elif path.name == "manifest.json":
            found[name] = read(path).get("data")
        elif path.name == "pruned_neurons.json":
            found[name] = read(path)["neurons"]
    assert len(found) >= 2 * len(SETS)
    return found


def unfinished(save_dir: Path) -> list[Path]:
    return [path for path in sorted((save_dir / "tiny").glob("version_*")) if is_unfinished(path)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], float]]:
    """What a config gives, and in how many seconds, in a process of its own."""
    known: dict[Path, tuple[dict[str, Any], float]] = {}

    def run(config: Path) -> tuple[dict[str, Any], float]:
        text = config.read_text()
        if text not in known:
            save_dir, begun = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
            assert ended(start(predict, config, save_dir)) == 0
            known[text] = results(save_dir / "tiny" / "version_0"), time.monotonic() - begun
        return known[text]

    return run


# At random moments


def kill_at_random(config: Path, home: Path, num_kills: int, wanted: dict[str, Any], seconds: float) -> None:
    """Kill and run again until `num_kills` have hit; whatever ends by itself, and the last run, must be as wanted."""
    chance = random.Random(num_kills)
    kills, number = 0, 0
    while True:
        process = start(predict, config, home / str(number))
        if kills < num_kills:
            process.join(chance.uniform(0, seconds))
            process.kill()
        status = ended(process)
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
        runs = [path for path in (home / str(number)).glob("tiny/*") if (path / "scores" / "toxic").exists()]
        left = unfinished(home / str(number))
        # A run may be hit when it has written its last file: the next one would begin anew beside it.
        if status == 0 or (runs and not left):
            (done,) = runs
            assert results(done) == wanted
            assert left == []
            if kills == num_kills:
                return
            number += 1
        else:
            assert len(left) <= 1


def test_three_kills(tmp_path: Path, undisturbed: Callable[..., Any]) -> None:
    path = config(tmp_path / "run.yaml", *SCORES_ONLY)
    kill_at_random(path, tmp_path, 3, *undisturbed(path))


@pytest.mark.slow
def test_twenty_kills_of_the_whole_chain(tmp_path: Path, undisturbed: Callable[..., Any]) -> None:
    path = config(tmp_path / "run.yaml")
    kill_at_random(path, tmp_path, 20, *undisturbed(path))


# At the worst moments


def die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half(tensors: Any, path: Path) -> None:
    Path(path).write_bytes(b"\x08")
    die()


def predict_and_die(
    config: Path, save_dir: Path, target: str, call: int, instead: Callable[..., Any], options: Sequence[str] = BRIEF
) -> None:
    """Die in the `call`-th call of `target`."""
    original, calls = pkgutil.resolve_name(target), itertools.count(1)

    def dying(*args: Any, **kwargs: Any) -> Any:
        return (instead if next(calls) == call else original)(*args, **kwargs)

    with mock.patch(target, dying):
        command("predict", config, save_dir, *options)


DEATHS = [
    ("sparc3_lightning.distributed.sums.save_file", 2, half),  # in the midst of the sums
    ("sparc3_lightning.runs.resume.write_json", 1, die),  # sums written, not yet named
    ("os.replace", 3, die),  # the first two are of provenance.json and the config
    ("sparc3_lightning.runs.resume.StateFolder._tidy", 3, die),  # two directories, one named
    ("pathlib.Path.replace", 1, die),  # scores whole, under a temporary name
    ("sparc3_lightning.runs.resume.StateFolder.finish_set", 1, die),  # scores there, state still before them
]


def test_deaths_while_saving(tmp_path: Path, undisturbed: Callable[..., Any]) -> None:
    path = config(tmp_path / "run.yaml", *SCORES_ONLY)
    for target, call, instead in DEATHS:
        assert ended(start(predict_and_die, path, tmp_path, target, call, instead)) == -signal.SIGKILL, target
        assert [one.name for one in unfinished(tmp_path)] == ["version_0"], target
    assert ended(start(predict, path, tmp_path)) == 0
    (only,) = (tmp_path / "tiny").iterdir()
    assert results(only) == undisturbed(path)[0]
    assert not [name for name in written(only) if ".tmp" in name or "resume" in name or ".lock" in name]


# Told to stop


def stop_in(target: str, call: int = 1, number: signal.Signals = signal.SIGTERM) -> Any:
    """A patch: a signal comes in the `call`-th call of `target`."""
    original, calls = pkgutil.resolve_name(target), itertools.count(1)

    def signalled(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    return mock.patch(target, signalled)


IN_ATTRIBUTION = "sparc3_lightning.lrp.attribution.Attribution.step"


def stopped(
    config: Path,
    save_dir: Path,
    target: str = IN_ATTRIBUTION,
    call: int = 6,
    number: signal.Signals = signal.SIGTERM,
) -> Path:
    """The directory of a run that a signal has stopped."""
    before = signal.getsignal(number)
    with stop_in(target, call, number), pytest.raises(SystemExit) as ended:
        predict(config, save_dir)
    assert ended.value.code == 75
    assert signal.getsignal(number) == before
    return unfinished(save_dir)[-1]


def test_stopped_in_attribution_and_in_evaluation(
    tmp_path: Path, undisturbed: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path / "run.yaml")
    directory = stopped(path, tmp_path, number=signal.SIGINT)  # Ctrl-C
    assert f"stopped by SIGINT: the same command goes on in {directory} (exit code 75)" in capsys.readouterr().err
    assert stopped(path, tmp_path, "sparc3_lightning.evaluation.evaluator.Evaluator.evaluate", 2) == directory
    shown = capsys.readouterr()
    assert f"resumed: {directory} has the scores of general_seed0; general_seed1 goes on after 6 samples" in shown.out
    assert (directory / "baseline_eval.json").exists(), "the second evaluation was interrupted"
    assert log_dir(predict(path, tmp_path)) == directory
    assert f"has the scores of {', '.join(SETS)}; what is made of them follows" in capsys.readouterr().out
    assert results(directory) == undisturbed(path)[0]
    assert len(list(directory.glob("events.out.tfevents*"))) == 3
    assert len(read(directory / "provenance.json")["earlier"]) == 2
    timed = read(directory / "experiment_results.json")["throughput"]
    assert all(rate["samples_per_second"] > 0 for rate in timed.values())


# The same command, or another


def test_another_option_begins_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path / "run.yaml", *SCORES_ONLY)
    first = stopped(path, tmp_path, "sparc3_lightning.module.SparC3Module.configure_model", 1)
    assert read(first / "resume" / "state.json")["num_batches"] == 1, "told while the model was loaded"
    assert log_dir(predict(path, tmp_path, "--model.sign=signed")).name == "version_1"
    said = capsys.readouterr().err
    assert f"not resumed: {first} is unfinished, but `model.sign` was 'abs' and is 'signed'. A new run begins." in said
    assert unfinished(tmp_path) == [first]
    other_evaluation = "--model.evaluator.init_args.num_draws=60"
    assert log_dir(predict(path, tmp_path, other_evaluation)) == first, "what follows attribution may change"
    assert read(first / "config.yaml")["model"]["evaluator"]["init_args"]["num_draws"] == 60


def test_samples_that_changed_meanwhile_are_refused(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text((ROOT / "configs/tiny/prompts.jsonl").read_text())
    path = config(tmp_path / "run.yaml", *SCORES_ONLY)
    toxic = f"--data.behaviours.toxic.path={prompts}"
    with stop_in(IN_ATTRIBUTION, 6), pytest.raises(SystemExit):
        predict(path, tmp_path, toxic)
    prompts.write_text(prompts.read_text().replace("stupid", "silly"))
    with pytest.raises(ValueError, match=r"cannot go on.*`samples\.toxic` was .* remove .*version_0/resume"):
        predict(path, tmp_path, toxic)
    assert [one.name for one in unfinished(tmp_path)] == ["version_0"]


def test_full_disk_while_saving(tmp_path: Path, type_in: Type) -> None:
    """The second save meets a file-size limit."""
    write_sums, calls, old = resume.write_sums, itertools.count(1), resource.getrlimit(resource.RLIMIT_FSIZE)

    def write(*args: Any) -> Any:
        if next(calls) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
        try:
            return write_sums(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    path = config(tmp_path / "run.yaml", *SCORES_ONLY)
    with mock.patch("sparc3_lightning.runs.resume.write_sums", write):
        shown = type_in("predict", "--config", str(path))
    assert shown.status == 1
    assert "sparc3: error: " in shown.err
    assert "resume/" in shown.err
    assert "File too large" in shown.err
    assert "The state saved before is as it was." in shown.err
    again = type_in("predict", "--config", str(path))
    assert again.status == 0, again.err
    assert "general_seed0 goes on after 3 samples" in again.out


def test_runs_stay_in_the_log_root(type_in: Type) -> None:
    shown = type_in("predict", "--config", TINY, "--trainer.logger.init_args.name=../out")
    assert shown.status == 1
    assert "must stay inside its `save_dir`" in shown.err
    assert shown.files == []
