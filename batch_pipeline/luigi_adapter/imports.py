"""Imports Luigi and sciluigi without what they do on the side, and keeps what they say in a folder.

Left alone they make `log/` in the working directory, put handlers on the loggers, print warnings about drivers for
PostgreSQL and S3 that nobody asked for, and read `luigi.cfg` of the working directory and of /etc/luigi. That file is
deliberately not read here: what it can set (workers, timeouts, retries, e-mail, logging) would change what a run does
from outside its recorded configuration. A pipeline file that imports luigi itself has made its own choice; then only
the loggers are taken over, and only for the life of a coat.
"""

from __future__ import annotations

import ast
import importlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, ModuleType

from batch_pipeline.wire.durable import make_folder

#: `luigi` carries the scheduler and the set-up, `luigi-interface` all else of Luigi, the third sciluigi's audit.
LOGGERS = ("luigi", "luigi-interface", "sciluigi-interface")

#: Modules that do something when they are imported.
TAMED = ("luigi.configuration.cfg_parser", "sciluigi.interface")

#: luigi's own defaults are 3 attempts with 30 s between them: a minute of silence when luigid is down.
RPC_ATTEMPTS = 2
RPC_WAIT_SECONDS = 1


class _TamedLoader(SourceFileLoader):
    """Loads a module without the calls on its top level (sciluigi's `setup_logging()`), and no file for luigi.cfg."""

    def get_code(self, fullname: str) -> CodeType:
        """The module's code; never from or to a byte code cache, which belongs to the untamed module."""
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        tree.body = [line for line in tree.body if not _is_call(line)]
        return compile(tree, path, "exec")

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module, then takes luigi's configuration paths from it."""
        super().exec_module(module)
        if hasattr(module, "LuigiConfigParser"):
            module.LuigiConfigParser._config_paths = []


def _is_call(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)


class _Finder:
    """Finds the tamed modules where they always are, and gives them the loader above."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in TAMED else None
        if spec is not None and spec.origin is not None:
            spec.loader = _TamedLoader(name, spec.origin)
        return spec


def load() -> None:
    """Imports luigi and sciluigi; the working directory and the terminal stay as they are."""
    with logged(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _import()
        config = importlib.import_module("luigi.configuration").get_config()
        config.set("core", "no_configure_logging", "true")
        config.set("core", "rpc_retry_attempts", str(RPC_ATTEMPTS))
        config.set("core", "rpc_retry_wait", str(RPC_WAIT_SECONDS))


def _import() -> None:
    if "luigi" not in sys.modules:
        # Read at every use, not at import only; see the module's docstring.
        os.environ.pop("LUIGI_CONFIG_PATH", None)
        os.environ.pop("LUIGI_CONFIG_PARSER", None)
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("sciluigi")
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def taken_over(log_folder: Path | None) -> Iterator[Path]:
    """While it lasts, what Luigi says goes to `luigi.log` in the folder that it gives, and sciluigi's audit beside it.

    Without a folder that is a temporary one, and nothing is left of it.
    """
    with ExitStack() as stack:
        folder = log_folder or Path(stack.enter_context(TemporaryDirectory(prefix="batch-pipeline-luigi-")))
        stack.enter_context(logged(log_folder))
        yield folder


@contextmanager
def logged(folder: Path | None) -> Iterator[None]:
    """While it lasts, the loggers write to `luigi.log` in the folder, or nowhere. Several may last at a time, in any
    order; after the last one the loggers are as they were before the first.
    """
    handler: logging.Handler = logging.NullHandler()
    if folder is not None:
        make_folder(os.fspath(folder), synced=True)
        handler = logging.FileHandler(folder / "luigi.log", encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    _takeover.add(handler)
    try:
        yield
    finally:
        _takeover.remove(handler)
        handler.close()


class _Takeover:
    """The loggers' own handlers, kept while ours are in their place."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ours: list[logging.Handler] = []
        self._before: list[tuple[logging.Logger, list[logging.Handler], int, bool]] = []

    def add(self, handler: logging.Handler) -> None:
        with self._lock:
            loggers = [logging.getLogger(name) for name in LOGGERS]
            if not self._ours:
                self._before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
            self._ours.append(handler)
            for logger in loggers:
                logger.handlers, logger.propagate = list(self._ours), False
                logger.setLevel(logging.INFO)

    def remove(self, handler: logging.Handler) -> None:
        with self._lock:
            self._ours.remove(handler)
            for logger, handlers, level, propagate in self._before:
                logger.handlers = list(self._ours) or handlers
                if not self._ours:
                    logger.propagate = propagate
                    logger.setLevel(level)


_takeover = _Takeover()
