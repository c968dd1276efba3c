"""`batch-pipeline` and `python -m batch_pipeline`: the verbs that need no pipeline."""

from __future__ import annotations

import sys

from batch_pipeline.cli import run_command_line


def main() -> None:
    """Runs one command and ends the process with its exit code."""
    sys.exit(run_command_line(None))


if __name__ == "__main__":
    main()
