"""The verbs of the pool."""
