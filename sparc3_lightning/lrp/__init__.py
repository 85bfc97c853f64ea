"""Room `lrp`."""
