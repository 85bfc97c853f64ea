"""Several processes: sharding with FSDP2, ranks, and the reduction of scores."""
