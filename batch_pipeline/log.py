"""Our own logger: quiet on the terminal, complete in a run's folder.

Everything in the package logs to `batch_pipeline.…`. Warnings reach stderr, with `--verbose` the rest too; a run adds a
file with all of it. Other libraries' loggers are left as they are.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

LOGGER: Final = logging.getLogger("batch_pipeline")
_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def set_up(*, verbose: bool = False) -> None:
    """Sends our messages to stderr: warnings, or everything. May be called again; the last call holds."""
    for handler in [handler for handler in LOGGER.handlers if isinstance(handler, _Terminal)]:
        LOGGER.removeHandler(handler)
    handler = _Terminal(sys.stderr)
    handler.setLevel(logging.DEBUG if verbose else logging.WARNING)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    # Luigi configures the root logger; our messages would be printed twice.
    LOGGER.propagate = False


@contextmanager
def also_to(path: Path) -> Iterator[None]:
    """Writes everything to a file as well, while the block lasts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(_FORMAT))
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        handler.close()


class _Terminal(logging.StreamHandler):  # type: ignore[type-arg]
    """The handler that `set_up` made; told from those of a run or a test."""
