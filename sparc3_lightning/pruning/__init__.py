"""Room `pruning`."""
