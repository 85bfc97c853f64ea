"""Models: families, and how a checkpoint is found, loaded, told apart, and sharded."""
