"""What a run needs, before anyone queues: memory, disk, bytes sent and seconds, from YAML and config.json alone."""
