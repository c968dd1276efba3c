"""The pool in a SQLite file."""
