"""A run: what it found, its directory, and how it stops and goes on."""
