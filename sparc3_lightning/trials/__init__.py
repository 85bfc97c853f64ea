"""Trials: an intervention applied, measured, undone; each once, kept, and found again."""
