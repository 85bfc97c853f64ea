"""What `sparc3 inspect` says of a score directory. Torch is loaded when one is read, not before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparc3_lightning.scoring.score_set import ScoreSet


def score_report(path: Path, top: int) -> dict[str, Any]:
    """Manifest, checks, a row for each module, and the `top` neurons of a score directory.

    The sha256 of every file, and that no score is NaN or Inf (or negative, for `abs`), are checked on the way. The
    scores are read module by module, once.
    """
    from sparc3_lightning.pruning.select import neuron_scores
    from sparc3_lightning.scoring.lazy import count_scores
    from sparc3_lightning.scoring.score_set import ScoreSet

    score_set = ScoreSet.open(path)
    counts = count_scores(score_set.scores)
    try:
        num_layers = len(neuron_scores(score_set))
    except ValueError:
        num_layers = 0  # only other modules were scored, by name patterns
    return {
        "kind": "scores",
        "path": str(path),
        "manifest": score_set.manifest,
        "checks": {
            "num_files": len(score_set.manifest["files"]),
            **counts,
            "layers_with_neuron_scores": num_layers,
            "layers_of_model": score_set.manifest.get("base_model", {}).get("num_layers"),
            "total": score_set.total,
        },
        "modules": _module_rows(score_set),
        "top_neurons": _top_neurons(score_set, top) if num_layers else [],
    }


def is_differential(manifest: Mapping[str, Any]) -> bool:
    """Whether the lowest scores are what matters: those of a differential, or of a ranking."""
    return manifest.get("kind") in ("differential", "ranking")


def _module_rows(score_set: ScoreSet) -> list[dict[str, Any]]:
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


def _top_neurons(score_set: ScoreSet, top: int) -> list[dict[str, Any]]:
    from sparc3_lightning.pruning.select import rank_neurons

    ranking = rank_neurons(score_set, highest_first=not is_differential(score_set.manifest))
    rows = zip(*(column[:top].tolist() for column in ranking), strict=True)
    return [{"layer": layer, "index": index, "score": score} for layer, index, score in rows]
