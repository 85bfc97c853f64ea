"""SparC3: find, remove and evaluate the neurons that carry an unwanted behaviour of a language model.

The names below are imported when they are first used, so that `sparc3 --help` does not wait for torch.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sparc3_lightning.version import __version__

if TYPE_CHECKING:
    from sparc3_lightning.lrp.rules import attnlrp
    from sparc3_lightning.pruning.apply import apply_recipe
    from sparc3_lightning.pruning.recipe import Recipe
    from sparc3_lightning.pruning.select import select_neurons
    from sparc3_lightning.pruning.select_weights import select_weights
    from sparc3_lightning.pruning.weight_recipe import WeightRecipe, load_recipe
    from sparc3_lightning.scoring.combine import differential
    from sparc3_lightning.scoring.plain import attribute, score_baselines
    from sparc3_lightning.scoring.score_set import ScoreSet

__all__ = [
    "Recipe",
    "ScoreSet",
    "WeightRecipe",
    "__version__",
    "apply_recipe",
    "attnlrp",
    "attribute",
    "differential",
    "load_recipe",
    "score_baselines",
    "select_neurons",
    "select_weights",
]

_HOMES = {
    "Recipe": "pruning.recipe",
    "ScoreSet": "scoring.score_set",
    "WeightRecipe": "pruning.weight_recipe",
    "apply_recipe": "pruning.apply",
    "attnlrp": "lrp.rules",
    "attribute": "scoring.plain",
    "differential": "scoring.combine",
    "load_recipe": "pruning.weight_recipe",
    "score_baselines": "scoring.plain",
    "select_neurons": "pruning.select",
    "select_weights": "pruning.select_weights",
}


def _forget_missing_backend() -> None:
    """A notebook hands its matplotlib backend down to every command started from it, installed there or not.

    Where it is not, matplotlib cannot be imported at all, nor can torchmetrics, which draws.
    """
    kind, _, module = os.environ.get("MPLBACKEND", "").partition("://")
    if kind == "module":
        try:
            is_missing = find_spec(module) is None
        except ModuleNotFoundError:  # not even the package that it would be in
            is_missing = True
        if is_missing:
            del os.environ["MPLBACKEND"]


_forget_missing_backend()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
