"""Pruning: select neurons, keep them as a recipe, apply and restore."""
