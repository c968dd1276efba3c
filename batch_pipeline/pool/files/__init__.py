"""Tasks of files into a pool, and out of it."""
