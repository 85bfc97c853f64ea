"""Room `scores`."""
