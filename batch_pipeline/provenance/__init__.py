"""Reads finished runs: where results come from and whether they are what was recorded, and takes them elsewhere."""
