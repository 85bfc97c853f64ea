"""A run directory as the report reads it: the results files alone, no model and no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from sparc3_lightning.families import get_family
from sparc3_lightning.files import read_json
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.report.results import read_results
from sparc3_lightning.report.score_figures import Floats, NeuronScores
from sparc3_lightning.scoring.manifest import MANIFEST_FILE, Manifest, read_manifest, tensor_files


@dataclass(frozen=True)
class RunFiles:
    """What a finished run has left.

    Attributes:
        results: `experiment_results.json`.
        baseline: Prompts and completions of the baseline, as JSON.
        pruned: The same of the pruned model.
        controls: The same of each draw of the control.
        recipe: What was selected.
        neurons: Scores of every neuron.
        provenance: What the run was made with; None where it was not kept.
        config: The config, as text; None where it was not kept.
    """

    results: dict[str, Any]
    baseline: dict[str, Any]
    pruned: dict[str, Any]
    controls: list[dict[str, Any]]
    recipe: Recipe
    neurons: NeuronScores
    provenance: dict[str, Any] | None
    config: str | None

    @property
    def attribute(self) -> str | None:
        """The scorer's main attribute; None where no toxicity was measured."""
        toxicity = self.results["baseline"]["toxicity"]
        return None if toxicity is None else str(next(iter(toxicity["attributes"])))

    @property
    def measure(self) -> str:
        """The measure of toxicity that the verdict is about."""
        return str(self.results["verdict"].get("measure", "mean"))


def read_run(run_dir: Path, scores: Sequence[Mapping[int, Floats]] | None = None) -> RunFiles:
    """Read a run directory.

    Args:
        run_dir: Which.
        scores: Scores of the neurons by layer, of each general set and of the behaviour's; None: read from the files.

    Raises:
        FileNotFoundError: It is none, or a file is missing; names the file.
        ValueError: A file is no readable or belongs to another run; names it.
    """
    results = read_results(run_dir)
    recipe = Recipe.load(run_dir)
    baseline, pruned = (
        read_json(run_dir / f"{name}_eval.json", f"{name} evaluation") for name in ("baseline", "pruned")
    )
    controls = [] if results["control"] is None else read_json(run_dir / "control_eval.json", "control evaluation")
    _check_prompts(run_dir / "pruned_eval.json", baseline, [pruned])
    _check_prompts(run_dir / "control_eval.json", baseline, controls)
    provenance, config = run_dir / "provenance.json", run_dir / "config.yaml"
    return RunFiles(
        results=results,
        baseline=baseline,
        pruned=pruned,
        controls=controls,
        recipe=recipe,
        neurons=_neurons(run_dir / "scores", results["selection"], recipe, scores),
        provenance=read_json(provenance, "provenance") if provenance.exists() else None,
        config=config.read_text(encoding="utf-8", errors="replace") if config.exists() else None,
    )


def _check_prompts(path: Path, baseline: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Prompts are paired by their place, so they must be the same in every evaluation."""
    if any(_prompt_ids(other) != _prompt_ids(baseline) for other in others):
        raise ValueError(f"{path} holds other prompts than baseline_eval.json: they are not of one run.")


def _prompt_ids(evaluation: dict[str, Any]) -> list[str]:
    toxicity = evaluation["toxicity"]
    return [] if toxicity is None else [row["id"] for row in toxicity["prompts"]]


def _neurons(
    directory: Path, selection: dict[str, Any], recipe: Recipe, scores: Sequence[Mapping[int, Floats]] | None
) -> NeuronScores:
    names = (*selection["general"], selection["behaviour"])
    sets = scores if scores is not None else [_neuron_scores(directory / name) for name in names]
    layers = sorted(sets[-1])
    if any(
        {layer: len(rows[layer]) for layer in rows} != {layer: len(sets[-1][layer]) for layer in layers}
        for rows in sets
    ):
        raise ValueError(f"{directory}: the score sets hold different layers, so they are not of one run.")
    flat = [np.concatenate([rows[layer] for layer in layers]) for rows in sets]
    starts = dict(zip(layers, np.cumsum([0, *(len(sets[-1][layer]) for layer in layers)]).tolist(), strict=False))
    is_selected = np.zeros(len(flat[-1]), dtype=np.bool_)
    for layer, index in recipe.neurons:
        if layer not in starts or index >= len(sets[-1][layer]):
            raise ValueError(f"{directory}: no score of neuron {index} in layer {layer}, which the recipe names.")
        is_selected[starts[layer] + index] = True
    return NeuronScores(np.mean(flat[:-1], axis=0), flat[-1], is_selected)


def _neuron_scores(directory: Path) -> dict[int, Floats]:
    """Neuron scores by layer; a neuron's score is the sum of its row, where weights were scored."""
    manifest = read_manifest(directory)
    rows: dict[int, Floats] = {}
    for file in tensor_files(manifest):
        try:
            with safe_open(directory / file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dict
                    layer = get_family(_model_type(directory, manifest)).layer_of(name)
                    if layer is not None:
                        rows[layer] = _row_sums(tensors.get_tensor(name))
        except SafetensorError as error:
            raise ValueError(f"{directory / file} is no readable safetensors file: {error}.") from error
    if not rows:
        raise ValueError(f"{directory} holds no scores of neurons.")
    return rows


def _model_type(directory: Path, manifest: Manifest) -> str:
    model_type = manifest.get("base_model", {}).get("model_type")
    if model_type is None:
        raise ValueError(f"{directory / MANIFEST_FILE} names no model type.")
    return str(model_type)


def _row_sums(score: NDArray[Any]) -> Floats:
    return score.astype(np.float64) if score.ndim == 1 else score.sum(1, dtype=np.float64)
