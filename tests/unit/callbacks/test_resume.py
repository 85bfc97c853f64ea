"""What the resume callback refuses before any attribution."""

from pathlib import Path
from typing import Any

import pytest

from callbacks import RelevanceCallback, ResumeCallback, ScoreWriter
from tests.distributed.jobs import make_module, make_trainer, predict
from tests.tiny_files import save_tiny_model


@pytest.fixture
def model(tmp_path: Path) -> str:
    save_tiny_model(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("options", [{"minutes": 0}, {"num_samples": 0}, {"minutes": -1.0}], ids=str)
def test_intervals_above_zero(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"`{name}` must be above 0, got .*`ResumeCallback\.init_args\.{name}`"):
        ResumeCallback(**options)


@pytest.mark.parametrize("first", [[], [RelevanceCallback]], ids=["first", "before the writer"])
def test_order(first: list[type], model: str, tmp_path: Path) -> None:
    listed = [*first, ResumeCallback, *(one for one in (RelevanceCallback, ScoreWriter) if one not in first)]
    trainer = make_trainer("replicated", *(one() for one in listed), default_root_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"must list `callbacks\.RelevanceCallback`( and|.*before) `callbacks\.ScoreW"):
        predict(trainer, make_module(model))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("resume", "is_there"), [("never", True), ("must", False)])
def test_never_and_must(resume: Any, is_there: bool, model: str, tmp_path: Path) -> None:
    if is_there:
        (tmp_path / "run" / "resume").mkdir(parents=True)
        (tmp_path / "run" / "resume" / "state.json").touch()
    listed = (RelevanceCallback(), ScoreWriter(), ResumeCallback(resume=resume))
    trainer = make_trainer("replicated", *listed, default_root_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=rf"`resume` is '{resume}', and .* holds (an|no) unfinished run"):
        predict(trainer, make_module(model))
