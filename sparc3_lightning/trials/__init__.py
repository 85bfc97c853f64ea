"""Trials: an intervention applied, measured, undone; each once, kept, and found again."""

CONTROL = "random"
"""The method that selects as chance would: its trials are controls, and candidates for nothing."""
SCREEN_FILE = "screen.csv"
"""What a screen has measured of each candidate."""
RECIPES_DIR = "recipes"
"""Where a run of several behaviours keeps each recipe and what came of it, a directory each."""
