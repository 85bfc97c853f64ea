"""Results of format 3 are read as what the same run leaves in format 4."""

from pathlib import Path
from typing import Any

import pytest

from sparc3_lightning.evaluation import Evaluator
from sparc3_lightning.evaluation.experiment import experiment_results
from sparc3_lightning.evaluation.results import from_format_3
from sparc3_lightning.files import write_json
from sparc3_lightning.report.read import read_results
from tests.unit.evaluation.fake_run import make_run

DATA = {"evaluation_prompts": {"class": "Made"}, "evaluation_text": None, "allow_overlap": False}


def as_format_3(results: dict[str, Any]) -> dict[str, Any]:
    """What the version before would have written: of a control, nothing on uniqueness and length."""
    columns, verdict = results["columns"], results["verdict"]

    def nested(key: str) -> dict[str, Any]:
        found: dict[str, Any] = {"perplexity": {}}
        for name, column in columns.items():
            kind, _, measure = name.rpartition("/")
            if kind == "perplexity":
                found["perplexity"][measure] = column[key]
            elif kind:
                found.setdefault(measure, {})[kind] = column[key]
        return found

    changes = nested("change")
    return {
        **{name: value for name, value in results.items() if name not in ("columns", "num_control_draws")},
        "format_version": 3,
        "changes": {
            "perplexity": changes.pop("perplexity"), "toxicity": changes,
            **{name: columns[name]["change"] for name in ("uniqueness", "length")},
        },
        "control": {"pruned_against_control": nested("change_against_control")},
        "verdict": {
            "toxicity_fell": verdict["improved"], "toxicity_fell_against_control": verdict["improved_against_control"],
            "perplexity_change": {name.rpartition("/")[2]: change for name, change in verdict["price"].items()},
            "repeats_more": "uniqueness" in verdict["worsened"], "shorter": "length" in verdict["worsened"],
            "toxicity": verdict["behaviour"], "measure": "mean",
            **{name: verdict[name] for name in ("headline", "beside_it", "caveats")},
        },
    }  # fmt: skip


def test_an_earlier_version_s_results_are_read_as_this_one_s(tmp_path: Path) -> None:
    run = make_run()
    assert run.baseline is not None
    assert run.pruned is not None
    results: Any = experiment_results(run, Evaluator(num_draws=100), DATA)
    earlier = as_format_3(results)
    wanted = {name: dict(column) for name, column in results["columns"].items()}
    for name in ("uniqueness", "length"):
        wanted[name]["change_against_control"] = None
    found = from_format_3(earlier, run.baseline, run.pruned, run.controls)
    assert found == {**results, "columns": wanted}
    for name, evaluation in (("baseline", run.baseline), ("pruned", run.pruned)):
        write_json(tmp_path / f"{name}_eval.json", evaluation.to_json())
    write_json(tmp_path / "control_eval.json", [control.to_json() for control in run.controls])
    write_json(tmp_path / "experiment_results.json", earlier)
    assert read_results(tmp_path)["columns"].keys() == wanted.keys()
    (tmp_path / "pruned_eval.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"pruned_eval\.json"):
        read_results(tmp_path)
