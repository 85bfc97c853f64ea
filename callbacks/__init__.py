"""Lightning callbacks: thin glue around sparc3_lightning."""
