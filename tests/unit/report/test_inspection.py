"""`sparc3 inspect` of a finished run: its directory, its results file, and files beside it."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sparc3_lightning.files import read_json
from sparc3_lightning.report.inspection import inspect_path
from sparc3_lightning.report.tables import print_report


def printed(path: Path) -> str:
    file = io.StringIO()
    print_report(inspect_path(path, top=5), Console(file=file, width=80, markup=False, highlight=False))
    return file.getvalue()


def test_a_run_is_its_results_and_its_recipe(run_dir: Path) -> None:
    report = inspect_path(run_dir, top=1)
    assert report["kind"] == "run"
    assert report["results"] == read_json(run_dir / "experiment_results.json")
    assert report["recipe"]["num_neurons"] == 2
    assert len(report["recipe"]["top_neurons"]) == 1
    assert inspect_path(run_dir / "experiment_results.json", top=1) == report


def test_a_run_is_shown_verdict_first_and_places_last(run_dir: Path) -> None:
    text = printed(run_dir)
    assert max(map(len, text.splitlines())) <= 80 + len(str(run_dir)), "only paths are longer: they are never broken"
    text = " ".join(text.split())
    parts = [
        "made-up/model",
        "Removing these 2 neurons lowered toxicity",
        "Pruned against baseline",
        "Control: mean of 2 draws",
        "general_seed0 general 10 128.00",
        "toxic behaviour 5 20.00",
        "Recipe: 2 neurons",
        "Neurons per layer",
        f"Written to {run_dir}",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_a_results_file_alone_is_enough(run_dir: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "experiment_results.json"
    alone.parent.mkdir()
    shutil.copy(run_dir / "experiment_results.json", alone)
    assert inspect_path(alone, top=5)["recipe"] is None
    assert "Removing these 2 neurons" in printed(alone)
    assert "Recipe:" not in printed(alone)


@pytest.mark.parametrize("name", ["baseline_eval.json", "control_eval.json"])
def test_another_file_of_a_run_is_told_what_to_pass(name: str, run_dir: Path) -> None:
    with pytest.raises(ValueError, match=rf"{name} is no recipe. `inspect` shows run directories"):
        inspect_path(run_dir / name, top=5)


def test_a_run_is_shown_without_torch_and_pictures(run_dir: Path) -> None:
    code = f"""
import sys
from sparc3_lightning.main import main
main(["inspect", {str(run_dir)!r}])
print(*(name for name in ("torch", "transformers", "matplotlib", "numpy") if name in sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
