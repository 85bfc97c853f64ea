"""Scores: mean relevance over reference sets, on disk and combined."""
