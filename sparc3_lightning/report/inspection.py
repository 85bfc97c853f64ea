"""What `sparc3 inspect` reports of a run, a score directory or a recipe, as JSON; torch for scores only."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparc3_lightning.files import read_json
from sparc3_lightning.pruning.recipe import RECIPE_FILE, Recipe
from sparc3_lightning.report.results import RESULTS_FILE, read_results
from sparc3_lightning.scoring.manifest import MANIFEST_FILE

_SHOWN = f"`inspect` shows run directories, their {RESULTS_FILE}, score directories and recipes."

if TYPE_CHECKING:
    from sparc3_lightning.scoring.score_set import ScoreSet


def inspect_path(path: Path, top: int) -> dict[str, Any]:
    """Report of the run, the score directory or the recipe at `path`.

    Args:
        path: Run directory or its results file; score directory; recipe file, or a directory with a recipe (a pruned
            model's, or a run's that did not evaluate).
        top: How many neurons to list.

    Raises:
        FileNotFoundError: There is none of them.
        ValueError: It is damaged; names the file.
    """
    if path.is_dir() and (path / MANIFEST_FILE).is_file():
        return score_report(path, top)
    if path.name == MANIFEST_FILE or path.suffix == ".safetensors":
        return score_report(path.parent, top)
    if path.name == RESULTS_FILE or (path / RESULTS_FILE).is_file():
        return run_report(path.parent if path.name == RESULTS_FILE else path, top)
    if path.suffix == ".json" and path.is_file() and _is_no_recipe(path):
        raise ValueError(f"{path} is no recipe. {_SHOWN}")
    if path.is_file() or (path / RECIPE_FILE).is_file():
        return recipe_report(path, top)
    raise FileNotFoundError(_nothing_at(path))


def _nothing_at(path: Path) -> str:
    if not path.exists():
        return f"nothing to inspect at {path}: it does not exist."
    inside = sorted(str(found.parent) for pattern in ("*/", "*/*/") for found in path.glob(pattern + MANIFEST_FILE))
    hint = f" Score directories below it: {', '.join(inside)}." if inside else ""
    return f"{path} holds no {RESULTS_FILE}, {MANIFEST_FILE} or {RECIPE_FILE}. {_SHOWN}{hint}"


def _is_no_recipe(path: Path) -> bool:
    """Whether a JSON file is something else altogether; a damaged recipe is for `Recipe.load` to name."""
    content = read_json(path, "recipe")
    return not isinstance(content, dict) or not {"neurons", "format_version"} & content.keys()


def run_report(run_dir: Path, top: int) -> dict[str, Any]:
    """Results of a finished run, and the recipe beside them (None where the file is alone)."""
    has_recipe = (run_dir / RECIPE_FILE).is_file()
    return {
        "kind": "run",
        "path": str(run_dir),
        "results": read_results(run_dir),
        "recipe": recipe_report(run_dir, top) if has_recipe else None,
    }


def recipe_report(path: Path, top: int) -> dict[str, Any]:
    """Base model, options, neurons per layer, and the first `top` neurons of a recipe."""
    recipe = Recipe.load(path)
    scores: list[float | None] = list(recipe.scores) or [None] * len(recipe.neurons)
    return {
        "kind": "recipe",
        "path": str(path / RECIPE_FILE if path.is_dir() else path),
        "base_model": recipe.base_model,
        "options": recipe.options,
        "num_neurons": len(recipe.neurons),
        "layers": [{"layer": layer, "count": len(indices)} for layer, indices in recipe.per_layer().items()],
        "top_neurons": [
            {"layer": layer, "index": index, "score": score}
            for (layer, index), score in zip(recipe.neurons[:top], scores, strict=False)
        ],
    }


def score_report(path: Path, top: int) -> dict[str, Any]:
    """Manifest, checks, a row for each module, and the `top` neurons of a score directory.

    The sha256 of every file, and that no score is NaN or Inf (or negative, for `abs`), are checked on the way. The
    scores are read module by module, once.
    """
    from sparc3_lightning.scoring.score_set import ScoreSet

    score_set = ScoreSet.open(path)
    return {
        "kind": "scores",
        "path": str(path),
        "manifest": score_set.manifest,
        "checks": _checks(score_set),
        "modules": _module_rows(score_set),
        "top_neurons": _top_neurons(score_set, top),
    }


def is_differential(manifest: dict[str, Any]) -> bool:
    """Whether the lowest scores are what matters: those of a differential, or of a ranking."""
    return manifest.get("kind") in ("differential", "ranking")


def _checks(score_set: "ScoreSet") -> dict[str, Any]:
    from sparc3_lightning.scoring.checks import count_scores

    return {
        "num_files": len(score_set.manifest["files"]),
        **count_scores(score_set.scores),
        "layers_with_neuron_scores": len(_neuron_scores(score_set)),
        "layers_of_model": score_set.manifest.get("base_model", {}).get("num_layers"),
        "total": score_set.total,
    }


def _neuron_scores(score_set: "ScoreSet") -> dict[int, Any]:
    from sparc3_lightning.pruning.select import neuron_scores

    try:
        return neuron_scores(score_set)
    except ValueError:
        # Only other modules were scored, by name patterns.
        return {}


def _module_rows(score_set: "ScoreSet") -> list[dict[str, Any]]:
    found = {name: score_set.summary(name) for name in sorted(score_set.shapes, key=_natural)}
    total = sum(summary.absolute for summary in found.values())
    return [
        {
            "module": name,
            "shape": list(score_set.shapes[name]),
            "count": summary.num_scores,
            "mean": summary.total / summary.num_scores,
            "min": summary.lowest,
            "max": summary.highest,
            # Of absolute values: signed scores and differentials cancel in a plain sum.
            "share": summary.absolute / total if total else 0.0,
        }
        for name, summary in found.items()
    ]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which layer 10 comes after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _top_neurons(score_set: "ScoreSet", top: int) -> list[dict[str, Any]]:
    from sparc3_lightning.pruning.select import rank_neurons

    if not _neuron_scores(score_set):
        return []
    ranking = rank_neurons(score_set, highest_first=not is_differential(dict(score_set.manifest)))
    layer, index, score = (column[:top].tolist() for column in ranking)
    return [
        {"layer": number, "index": position, "score": value}
        for number, position, value in zip(layer, index, score, strict=True)
    ]
