"""Which unfinished run a predict run goes on with: the newest that attributes the same and is not at work."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from sparc3_lightning.files import release
from sparc3_lightning.runs.directory import go_on_in_unfinished, lock

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "trainer": {"devices": 8, "callbacks": []},
    "model": {"sign": "abs", "evaluator": {"window": 128}, "lr": 1.0},
    "data": {"batch_size": 2, "behaviours": {"toxic": {"init_args": {"seed": 0}}}, "num_workers": 0},
}


def changed(room: str, **options: Any) -> dict[str, Any]:
    return {**CONFIG, room: {**CONFIG[room], **options}}


def unfinished_run(directory: Path, config: dict[str, Any] = CONFIG) -> Path:
    (directory / "resume").mkdir(parents=True)
    (directory / "resume" / "state.json").write_text("{}")
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def trainer(root: Path, kind: type = TensorBoardLogger, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=kind(root, name="run", **options), enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_the_newest_of_those_that_attribute_the_same(kind: type, tmp_path: Path) -> None:
    runs = [tmp_path / "run" / f"version_{number}" for number in range(12)]
    unfinished_run(runs[2])
    wanted = unfinished_run(runs[10])
    unfinished_run(runs[11], changed("model", sign="signed"))
    (tmp_path / "run" / "version_12").mkdir()  # finished, or never begun
    (tmp_path / "run" / "version_last").mkdir()
    led = trainer(tmp_path, kind)
    assert go_on_in_unfinished(led, CONFIG) == (wanted, "")
    assert led.log_dir == str(wanted)


def test_nothing_to_go_on_with(tmp_path: Path) -> None:
    led = trainer(tmp_path)
    assert go_on_in_unfinished(led, CONFIG) == (None, "")
    assert not (tmp_path / "run").exists()
    assert led.log_dir == str(tmp_path / "run" / "version_0")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (changed("model", sign="signed"), "`model.sign` was 'abs' and is 'signed'"),
        (changed("data", batch_size=4), "`data.batch_size` was 2 and is 4"),
        (changed("data", behaviours={"toxic": {"init_args": {"seed": 1}}}), "toxic.init_args.seed` was 0 and is 1"),
        ({**CONFIG, "seed_everything": 1}, "`seed_everything` was 0 and is 1"),
    ],
)
def test_another_attribution_is_another_run(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    unfinished_run(tmp_path / "run" / "version_3")
    led = trainer(tmp_path)
    found, why_not = go_on_in_unfinished(led, config)
    assert found is None
    assert why_not.startswith(f"{tmp_path / 'run' / 'version_3'} is unfinished, but `")
    assert why_not.endswith(said)
    assert led.log_dir == str(tmp_path / "run" / "version_4")


@pytest.mark.parametrize(
    "config",
    [
        changed("model", evaluator={"window": 64}, lr=2.0),
        changed("data", num_workers=3, evaluation_prompts={}),
        changed("trainer", devices="auto", callbacks=["more"]),
    ],
)
def test_what_comes_after_attribution_may_change(config: dict[str, Any], tmp_path: Path) -> None:
    run = unfinished_run(tmp_path / "run" / "version_3")
    assert go_on_in_unfinished(trainer(tmp_path), config) == (run, "")


def test_a_run_at_work_is_left_alone(tmp_path: Path) -> None:
    held = lock(unfinished_run(tmp_path / "run" / "version_0"))
    found, why_not = go_on_in_unfinished(trainer(tmp_path), CONFIG)
    assert found is None
    assert "version_0 is in use by another run" in why_not
    assert str(os.getpid()) in why_not
    release(held)


def test_a_run_without_its_config(tmp_path: Path) -> None:
    (unfinished_run(tmp_path / "run" / "version_0") / "config.yaml").unlink()
    assert go_on_in_unfinished(trainer(tmp_path), CONFIG)[1].endswith("is unfinished, but has no config.yaml")
    (tmp_path / "run" / "version_0" / "config.yaml").touch()
    _, why_not = go_on_in_unfinished(trainer(tmp_path), CONFIG)
    assert why_not.endswith("is unfinished, but its config.yaml holds no config")


@pytest.mark.parametrize("version", ["best", 7])
def test_a_fixed_version_is_gone_on_with_or_refused(version: str | int, tmp_path: Path) -> None:
    led = trainer(tmp_path, version=version)
    assert go_on_in_unfinished(led, CONFIG) == (None, "")
    run = unfinished_run(Path(str(led.log_dir)))
    assert go_on_in_unfinished(led, CONFIG) == (run, "")
    with pytest.raises(ValueError, match=r"is unfinished, but `model\.sign` was 'abs'.*Set another `trainer\.logger`"):
        go_on_in_unfinished(led, changed("model", sign="signed"))


def test_without_a_logger_there_is_one_directory(tmp_path: Path) -> None:
    run = unfinished_run(tmp_path)
    led = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    assert go_on_in_unfinished(led, CONFIG) == (run, "")
