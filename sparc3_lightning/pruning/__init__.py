"""Pruning: select neurons, keep them as a recipe, apply and restore."""

from sparc3_lightning.pruning.apply import apply_recipe
from sparc3_lightning.pruning.recipe import Recipe
from sparc3_lightning.pruning.select import select_neurons

__all__ = ["Recipe", "apply_recipe", "select_neurons"]
