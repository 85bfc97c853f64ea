"""Trials: an intervention applied, measured, undone; each once, kept, and found again."""

CONTROL = "random"
"""The method that selects as chance would: its trials are controls, and candidates for nothing."""
SCREEN_FILE = "screen.csv"
"""What a screen has measured of each candidate."""
EMPTY, WHOLE = "none", "all"
"""In place of a method: the circuit without any neuron or weight, and the whole model."""
IN_SAMPLE, HELD_OUT = "in_sample", "held_out"
ASKED = {IN_SAMPLE: "its own samples", HELD_OUT: "held-out samples"}
"""What a circuit is asked, and in words."""
AREAS = ("cpr", "cmd", "accuracy_area")
"""Columns of circuits' areas, each with its least and largest value over the draws beside it."""
RECIPES_DIR = "recipes"
"""Where a run of several behaviours keeps each recipe and what came of it, a directory each."""
OVERLAP_FILE = "behaviours_overlap.csv"
"""How far the behaviours of a run agree."""
