"""Pilots: what claims tasks of a pool and runs them, and how pilots are launched."""
