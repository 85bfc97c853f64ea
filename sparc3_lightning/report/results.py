"""`experiment_results.json`, the file that sums up a run; no torch and no matplotlib."""

from pathlib import Path
from typing import Any

from sparc3_lightning.files import read_json
from sparc3_lightning.version import RESULTS_FORMAT

RESULTS_FILE = "experiment_results.json"
_SECTIONS = (
    "base_model",
    "relevance",
    "selection",
    "baseline",
    "pruned",
    "changes",
    "control",
    "verdict",
    "validation",
)


def read_results(run_dir: Path) -> dict[str, Any]:
    """Read the results of a finished run.

    Raises:
        FileNotFoundError: It is no run directory, or the run has left no results.
        ValueError: The file is no such results, or of another version.
    """
    path = run_dir / RESULTS_FILE
    if not run_dir.is_dir():
        raise FileNotFoundError(f"no run directory at {run_dir}.")
    if not path.is_file():
        raise FileNotFoundError(
            f"no experiment results at {path}: a run writes them last, where `trainer.callbacks` lists "
            "`callbacks.EvaluationCallback`. Name the directory of a finished run (`logs/NAME/version_N`)."
        )
    results = read_json(path, "experiment results")
    missing = [name for name in _SECTIONS if not isinstance(results, dict) or name not in results]
    if missing:
        raise ValueError(f"{path} must hold the results of a run, but it has no `{missing[0]}`.")
    if results.get("format_version") != RESULTS_FORMAT:
        raise ValueError(
            f"{path} must be of format_version {RESULTS_FORMAT}, got {results.get('format_version')!r}: it was written "
            "by another version of sparc3-lightning. Show it with that one, or evaluate again."
        )
    return dict(results)
