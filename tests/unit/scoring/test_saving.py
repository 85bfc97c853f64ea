"""What an interrupted run has finished is read back where it is of this run."""

from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.scoring.plain import attribute
from sparc3_lightning.scoring.saving import read_finished
from tests.tiny import tiny_llama, tiny_samples
from tests.unit.runs.test_state import CPU, flip


def finished(tmp_path: Path) -> dict[str, Any]:
    scores = attribute(tiny_llama(), tiny_samples())
    scores.save(tmp_path / "scores" / "toxic")
    manifest = scores.manifest
    return {
        "weights": manifest["base_model"]["weight_hash"],
        "options": dict(manifest["options"]),
        "samples": {"general": "123", "toxic": manifest["data"]["token_hash"]},
    }


def test_written_scores_are_read_back(tmp_path: Path) -> None:
    fingerprint = finished(tmp_path)
    assert list(read_finished(tmp_path, fingerprint, CPU)) == ["toxic"]


@pytest.mark.parametrize("what", ["weights", "options", "samples"])
def test_scores_of_something_else_are_refused(what: str, tmp_path: Path) -> None:
    fingerprint = finished(tmp_path)
    fingerprint[what] = {"options": {**fingerprint["options"], "sign": "signed"}, "samples": {"toxic": "123"}}.get(
        what, "123"
    )
    with pytest.raises(ValueError, match=rf"scores/toxic is not of this run: `{what}.*Remove it, and it is made again"):
        read_finished(tmp_path, fingerprint, CPU)


def test_harmed_scores_are_refused(tmp_path: Path) -> None:
    fingerprint = finished(tmp_path)
    flip(tmp_path / "scores" / "toxic" / "scores.safetensors")
    with pytest.raises(ValueError, match=r"scores/toxic/scores\.safetensors must have sha256"):
        read_finished(tmp_path, fingerprint, CPU)
