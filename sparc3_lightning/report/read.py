"""What lies at a path: a run, an experiment of it, scores, a recipe or a compressed model.

Torch is imported only where scores are inspected.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sparc3_lightning.files import read_json
from sparc3_lightning.models.families import get_family
from sparc3_lightning.pruning.recipe import COMPRESSION_FILE, RECIPE_FILE, WEIGHT_RECIPE_FILE, Recipe
from sparc3_lightning.report.paired import evaluation_files
from sparc3_lightning.report.recipe_report import recipe_report
from sparc3_lightning.report.rows import kind_of
from sparc3_lightning.report.score_report import score_report
from sparc3_lightning.report.sections import KINDS, RESULTS_FILE, experiment_at, experiments_in, read_experiment
from sparc3_lightning.runs.unfinished import is_unfinished
from sparc3_lightning.scoring.manifest import MANIFEST_FILE, read_manifest, tensor_files
from sparc3_lightning.trials import RECIPES_DIR, SCREEN_FILE
from sparc3_lightning.version import RESULTS_FORMAT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sparc3_lightning.evaluation.records import Evaluation
    from sparc3_lightning.pruning.weight_recipe import AnyRecipe
    from sparc3_lightning.runs.results import Results
    from sparc3_lightning.runs.run import Run

    Floats = NDArray[np.float64]

_SECTIONS = ("base_model", "relevance", "selection", "baseline", "pruned", "verdict", "validation")
_PLACES = [kind.file if kind.is_of_run else f"{name}/" for name, kind in KINDS.items()]
_SHOWN = (
    f"`inspect` shows run directories, their {RESULTS_FILE}, {' and '.join(_PLACES)} with the files in them, score "
    "directories, recipes and compressed models."
)


def experiment_files() -> list[str]:
    """What a run directory holds of each further kind of experiment."""
    return [kind.file if kind.is_of_run else f"{name}/{kind.file}" for name, kind in KINDS.items()]


def read_results(run_dir: Path) -> Results:
    """Read the results of a finished run.

    Raises:
        FileNotFoundError: It is no run directory, or the run has left no results.
        ValueError: The file is no such results, or of another version.
    """
    path = run_dir / RESULTS_FILE
    if not run_dir.is_dir():
        raise FileNotFoundError(f"no run directory at {run_dir}.")
    if not path.is_file() and is_unfinished(run_dir):
        raise FileNotFoundError(_not_finished(run_dir))
    if not path.is_file():
        raise FileNotFoundError(_no_results(run_dir))
    results = read_json(path, "experiment results")
    missing = [name for name in _SECTIONS if not isinstance(results, dict) or name not in results]
    if missing:
        raise ValueError(f"{path} must hold the results of a run, but it has no `{missing[0]}`.")
    if results.get("format_version") == 3:
        return _from_format_3(run_dir, results)
    if results.get("format_version") != RESULTS_FORMAT:
        raise ValueError(
            f"{path} must be of format_version {RESULTS_FORMAT}, got {results.get('format_version')!r}: it was written "
            "by another version of sparc3-lightning. Show it with that one, or evaluate again."
        )
    return cast("Results", results)


def _no_results(run_dir: Path) -> str:
    last = f"a run writes {RESULTS_FILE} last, where `trainer.callbacks` lists `callbacks.EvaluationCallback`"
    if _has_recipe(run_dir) and not evaluation_files(run_dir):
        return (
            f"{run_dir} holds a recipe, but no evaluation: {last}. `sparc3 inspect {run_dir}` shows the recipe, and "
            f"`sparc3 test` with `--model.recipe {run_dir}` evaluates it."
        )
    return (
        f"no experiment results at {run_dir / RESULTS_FILE}: {last}. There is no {' or '.join(experiment_files())} "
        "either. Name the directory of a finished run that has left one of them (`logs/NAME/version_N`)."
    )


def _not_finished(run_dir: Path) -> str:
    return (
        f"the run in {run_dir} is not finished: it is still at work; or it was stopped, and the same command goes on "
        "where it was."
    )


def _from_format_3(run_dir: Path, results: dict[str, Any]) -> Results:
    """Results of an earlier version, with the evaluations beside them."""
    from sparc3_lightning.runs.results import from_format_3

    (baseline,), (pruned,) = _evaluations(run_dir, "baseline"), _evaluations(run_dir, "pruned")
    controls = [] if results["control"] is None else _evaluations(run_dir, "control")
    return from_format_3(results, baseline, pruned, controls)


def _stored(run_dir: Path, name: str) -> list[dict[str, Any]]:
    """What one of the evaluations' files holds; only the control's holds several."""
    found = read_json(run_dir / f"{name}_eval.json", f"{name} evaluation")
    return found if isinstance(found, list) else [found]


def _evaluations(run_dir: Path, name: str) -> list[Evaluation]:
    from sparc3_lightning.evaluation.records import Evaluation

    return [Evaluation.from_json(one) for one in _stored(run_dir, name)]


@dataclass(frozen=True)
class Side:
    """What is shown of one evaluation, read without torch.

    Attributes:
        rows: Of each column the value of each prompt, NaN where it has none.
        prompts: Every prompt with its completions and their scores, as its file has them.
        attribute: The scorer's attribute that decides; "" where nothing was scored.
    """

    rows: dict[str, Floats]
    prompts: list[dict[str, Any]]
    attribute: str

    @classmethod
    def of(cls, content: dict[str, Any], decides: str | None = None) -> Side:
        """What an evaluation's file holds; earlier versions left the columns' rows out.

        Args:
            content: Of the file.
            decides: Name of the column that the results are judged by; None for one of the scorer's first attribute.
        """
        import numpy as np

        if "columns" not in content:
            from sparc3_lightning.evaluation.records import Evaluation

            content = Evaluation.from_json(content).to_json()
        # JSON has no NaN.
        rows = {name: np.array(values, dtype=np.float64) for name, values in content["columns"].items()}
        scored = content["toxicity"]  # the file's word for what a scorer judges
        if scored is None:
            return cls(rows, [], "")
        named, known = kind_of(decides or ""), scored["attributes"]
        return cls(rows, scored["prompts"], named if named in known else next(iter(known)))


class NeuronScores(NamedTuple):
    """Scores of all neurons, in one order: the mean over the general sets, the behaviour's, and which were selected.

    Shape:
        (N,) each.

    Units: logits, or nats where log-probabilities were explained.
    """

    general: Floats
    behaviour: Floats
    is_selected: NDArray[np.bool_]


class ScreenedNeurons(NamedTuple):
    """The candidates of a screen, as `screen.csv` has them.

    Attributes:
        score: The differential, lowest first.
        effect: What removing it alone did: the mean of both halves of the words, in nats.
        is_chosen: Whether it is removed.

    Shape: (S,) each.
    """

    score: Floats
    effect: Floats
    is_chosen: NDArray[np.bool_]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, be it in memory or read from its directory.

    Attributes:
        results: What `experiment_results.json` holds.
        baseline: The model before pruning.
        pruned: Without the neurons.
        controls: Each draw of the control.
        recipe: What was selected.
        neurons: Scores of every neuron; None where single weights were selected.
        provenance: What the run was made with; None where it was not kept.
        config: The config, as text; None where it was not kept.
        screened: The candidates of its screen; None without one.
    """

    results: Results
    baseline: Side
    pruned: Side
    controls: list[Side]
    recipe: AnyRecipe
    neurons: NeuronScores | None
    provenance: dict[str, Any] | None
    config: str | None
    screened: ScreenedNeurons | None = None


def finished_run(run: Run, run_dir: Path) -> FinishedRun:
    """The run that has just written its results; only what it was started with is read from its directory."""
    assert run.results is not None
    assert run.recipe is not None
    assert run.baseline is not None
    assert run.pruned is not None
    from sparc3_lightning.pruning.select import neuron_scores

    neurons = None
    if isinstance(run.recipe, Recipe):
        # Not read again: of weights, neurons' scores are known since they were written.
        found = [neuron_scores(run.score_sets[name]) for name in (*run.general, str(run.behaviour))]
        sets = [{layer: scores.numpy() for layer, scores in of_set.items()} for of_set in found]
        neurons = _neurons(run_dir / "scores", sets, run.recipe)
    evaluations, decides = (run.baseline, run.pruned, *run.controls), run.results["verdict"]["column"]
    baseline, pruned, *controls = (Side.of(one.to_json(), decides) for one in evaluations)
    return FinishedRun(
        run.results, baseline, pruned, controls, run.recipe, neurons, *made_with(run_dir), read_screen(run_dir)
    )


def read_run(run_dir: Path) -> FinishedRun:
    """Read a run directory.

    Raises:
        FileNotFoundError: It is none, or a file is missing; names the file.
        ValueError: A file is no readable or belongs to another run; names it.
    """

    from sparc3_lightning.pruning.weight_recipe import load_recipe

    results, recipe = read_results(run_dir), load_recipe(run_dir)

    def sides(directory: Path, name: str) -> list[Side]:
        return [Side.of(one, results["verdict"]["column"]) for one in _stored(directory, name)]

    (baseline,), (pruned,) = sides(home_of(run_dir), "baseline"), sides(run_dir, "pruned")
    controls = sides(run_dir, "control") if results["num_control_draws"] else []
    for name, others in (("pruned", [pruned]), ("control", controls)):
        # Prompts are paired by their place.
        if any(_prompt_ids(other) != _prompt_ids(baseline) for other in others):
            raise ValueError(
                f"{run_dir / name}_eval.json holds other prompts than baseline_eval.json: they are not of one run."
            )
    scores, selection = home_of(run_dir) / "scores", results["selection"]
    neurons = None
    if isinstance(recipe, Recipe):
        sets = [_stored_scores(scores / name) for name in (*selection["general"], selection["behaviour"])]
        neurons = _neurons(scores, sets, recipe)
    return FinishedRun(results, baseline, pruned, controls, recipe, neurons, *made_with(run_dir), read_screen(run_dir))


def home_of(run_dir: Path) -> Path:
    """The directory of the whole run: of a recipe of several behaviours, that which holds its `recipes/`."""
    path = run_dir.resolve()
    return path.parent.parent if path.parent.name == RECIPES_DIR else run_dir


def made_with(run_dir: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Provenance and config of a run; None where one was not kept."""
    provenance, config = home_of(run_dir) / "provenance.json", home_of(run_dir) / "config.yaml"
    return (
        read_json(provenance, "provenance") if provenance.exists() else None,
        config.read_text(encoding="utf-8", errors="replace") if config.exists() else None,
    )


def base_model_of(run_dir: Path) -> str | None:
    """Name of the model that a run is about, by the first scores that it has left."""
    manifest = next(iter(sorted((run_dir / "scores").glob(f"*/{MANIFEST_FILE}"))), None)
    # The manifest alone: a page needs no scores, and whoever is short of room may have removed them.
    name = None if manifest is None else read_json(manifest, "score manifest").get("base_model", {}).get("id")
    return None if name is None else str(name)


def read_screen(run_dir: Path) -> ScreenedNeurons | None:
    """Read the candidates of a run's screen; None where it had none.

    Raises:
        ValueError: The file is no table of a screen.
    """
    import numpy as np

    path = run_dir / SCREEN_FILE
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        values = np.array([[float(row[name]) for name in ("score", "effect", "confirmed")] for row in rows])
        return ScreenedNeurons(values[:, 0], values[:, 1:].mean(1), np.array([row["chosen"] != "" for row in rows]))
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"{path} is no table of a screen ({error}).") from error


def _prompt_ids(side: Side) -> list[str]:
    return [row["id"] for row in side.prompts]


def _stored_scores(directory: Path) -> dict[int, Floats]:
    """Neuron scores by layer, read without torch; a neuron's is the sum of its row, where weights were scored."""
    import numpy as np
    from safetensors import SafetensorError, safe_open

    manifest = read_manifest(directory)
    base_model = manifest.get("base_model", {})
    if (model_type := base_model.get("model_type")) is None:
        raise ValueError(f"{directory / MANIFEST_FILE} names no model type.")
    family = get_family(str(model_type))
    rows: dict[int, Floats] = {}
    for file in tensor_files(manifest):
        try:
            with safe_open(directory / file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dict
                    if (layer := family.layer_of(name)) is not None:
                        score = tensors.get_tensor(name)[family.neuron_rows(base_model)]
                        rows[layer] = score.reshape(len(score), -1).sum(1, dtype=np.float64)
        except SafetensorError as error:
            raise ValueError(f"{directory / file} is no readable safetensors file: {error}.") from error
    if not rows:
        raise ValueError(f"{directory} holds no scores of neurons.")
    return rows


def _neurons(directory: Path, sets: Sequence[Mapping[int, Floats]], recipe: Recipe) -> NeuronScores:
    """Scores of every neuron: of the general sets, and of the behaviour's, which is the last."""
    import numpy as np

    sizes = [{layer: len(score) for layer, score in of_set.items()} for of_set in sets]
    if any(of_set != sizes[-1] for of_set in sizes):
        raise ValueError(f"{directory}: the score sets hold different layers, so they are not of one run.")
    layers = sorted(sizes[-1])
    flat = [np.concatenate([of_set[layer] for layer in layers]) for of_set in sets]
    starts = dict(zip(layers, np.cumsum([0, *(sizes[-1][layer] for layer in layers)]).tolist(), strict=False))
    is_selected = np.zeros(len(flat[-1]), dtype=np.bool_)
    for layer, index in recipe.neurons:
        if index >= sizes[-1].get(layer, 0):
            raise ValueError(f"{directory}: no score of neuron {index} in layer {layer}, which the recipe names.")
        is_selected[starts[layer] + index] = True
    return NeuronScores(np.mean(flat[:-1], axis=0), flat[-1], is_selected)


def inspect_path(path: Path, top: int) -> dict[str, Any]:
    """Report of the run, the experiment, the score directory, the recipe or the compressed model at `path`.

    Args:
        path: Run directory, its results file or its `behaviours_overlap.csv`; an experiment's directory in a run's
            (`sweep/`, `compression/`) or a file in it; score directory; recipe file, or a directory with a recipe (a
            pruned model's, or a run's that did not evaluate); a compressed model's directory or its record.
        top: How many neurons to list.

    Raises:
        FileNotFoundError: There is none of them.
        ValueError: It is damaged; names the file.
    """
    if path.is_dir() and (path / MANIFEST_FILE).is_file():
        return score_report(path, top)
    if path.suffix == ".safetensors" and (beside := path.with_suffix(".json")).is_file():
        path = beside  # the indices of a recipe of weights
    if path.name == MANIFEST_FILE or path.suffix == ".safetensors":
        return score_report(path.parent, top)
    if path.name == RESULTS_FILE or (path / RESULTS_FILE).is_file() or experiments_in(path):
        return run_report(path.parent if path.name == RESULTS_FILE else path, top)
    if (found := experiment_at(path)) is not None:
        return experiment_report(*found)
    if path.name == COMPRESSION_FILE or (path / COMPRESSION_FILE).is_file():
        return compressed_report(path / COMPRESSION_FILE if path.is_dir() else path)
    if path.is_file() and _is_no_recipe(path):
        raise ValueError(f"{path} is no recipe. {_SHOWN}")
    if path.is_file() or _has_recipe(path):
        return recipe_report(path, top)
    raise FileNotFoundError(_nothing_at(path))


def _nothing_at(path: Path) -> str:
    if not path.exists():
        return f"nothing to inspect at {path}: it does not exist."
    inside = sorted(str(found.parent) for pattern in ("*/", "*/*/") for found in path.glob(pattern + MANIFEST_FILE))
    hint = f" Score directories below it: {', '.join(inside)}." if inside else ""
    if is_unfinished(path):
        return _not_finished(path) + hint
    return f"{path} holds no {RESULTS_FILE}, {MANIFEST_FILE} or {RECIPE_FILE}. {_SHOWN}{hint}"


def _has_recipe(path: Path) -> bool:
    return any((path / name).is_file() for name in (RECIPE_FILE, WEIGHT_RECIPE_FILE))


def _is_no_recipe(path: Path) -> bool:
    """Whether a file is something else altogether; a damaged recipe is for `load_recipe` to name."""
    if path.suffix != ".json":
        return path.suffix == ".csv"
    content = read_json(path, "recipe")
    return not isinstance(content, dict) or not {"neurons", "format_version"} & content.keys()


def run_report(run_dir: Path, top: int) -> dict[str, Any]:
    """Results of a finished run, the recipe beside them, and its further experiments; None or empty where none is."""
    has_recipe, found = _has_recipe(run_dir), experiments_in(run_dir)
    # Only where there is nothing else is it an error that they are missing.
    has_results = (run_dir / RESULTS_FILE).is_file() or not found
    return {
        "kind": "run",
        "path": str(run_dir),
        "results": read_results(run_dir) if has_results else None,
        "recipe": recipe_report(run_dir, top) if has_recipe else None,
        "experiments": [experiment_report(*one) for one in found.items()],
    }


def experiment_report(name: str, directory: Path) -> dict[str, Any]:
    """What an experiment has left in its directory: its tables."""
    return {"kind": name, "path": str(directory), **read_experiment(name, directory)}


def compressed_report(path: Path) -> dict[str, Any]:
    """What a saved compressed model says of itself.

    Raises:
        ValueError: The file says nothing of one.
    """
    content = read_json(path, "compressed model's record")
    known = ("base_model", "options", "share")
    missing = [name for name in known if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(f"{path} must say how a model was compressed, but it has no `{missing[0]}`.")
    return {"kind": "compressed model", "path": str(path), **content}
