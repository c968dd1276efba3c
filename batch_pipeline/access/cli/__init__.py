"""The verbs of access: `submit`, `config`, `serve`, and what `--server-url` does."""
