"""Compression: weights scored by several methods."""
