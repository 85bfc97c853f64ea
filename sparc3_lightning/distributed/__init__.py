"""Room `distributed`."""
