"""Imports Luigi and sciluigi without their side effects, and redirects their logs to a folder.

Their import makes `log/` in the working directory, adds handlers to the loggers, warns about missing drivers for
PostgreSQL and S3, and reads `luigi.cfg` of the working directory and of /etc/luigi. That file is deliberately not read:
what it can set (workers, timeouts, retries, e-mail, logging) would change what a run does from outside its recorded
configuration. A pipeline file that imports luigi itself has made its own choice; then only the loggers are redirected.

Luigi imports three large packages if they are there, of which nothing that a run does has need: two thirds of the time
of its import. They are hidden from it meanwhile.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from batch_pipeline.wire.durable import make_folder

#: `luigi` carries the scheduler and the set-up, `luigi-interface` all else of Luigi, the third sciluigi's audit.
LOGGERS = ("luigi", "luigi-interface", "sciluigi-interface")

#: Hidden from Luigi: for S3 targets, for schemas of parameters, and for HTTP, which it does with urllib then.
_HIDDEN: Final = ("boto3", "jsonschema", "requests")
#: What sciluigi imports of Luigi for targets that nothing here has.
_TARGETS: Final = ("luigi.contrib.postgres", "luigi.contrib.s3")
_importing = threading.Lock()
_redirecting = threading.Lock()
_handlers: list[logging.Handler] = []
#: The loggers as they were before the first of our handlers.
_original: list[tuple[logging.Logger, list[logging.Handler], int, bool]] = []


def load() -> None:
    """Imports luigi and sciluigi, once; working directory, terminal and loggers stay as they are."""
    with _importing, logged(None) as scratch, warnings.catch_warnings(action="ignore"), _hidden():
        if "luigi" not in sys.modules:
            _import_luigi()
        if "sciluigi" not in sys.modules:
            # Its log files go to the working directory, which all threads share: nothing slow is imported meanwhile.
            for slow in _TARGETS:
                importlib.import_module(slow)
            with chdir(scratch):
                importlib.import_module("sciluigi")
            for handler in {handler for name in LOGGERS for handler in logging.getLogger(name).handlers}:
                handler.close()
        config = importlib.import_module("luigi.configuration").get_config()
        # luigi's own defaults are 3 attempts with 30 s between them: a minute of silence when luigid is down.
        config.set("core", "rpc_retry_attempts", "2")
        config.set("core", "rpc_retry_wait", "1")


@contextmanager
def _hidden() -> Iterator[None]:
    """Meanwhile the import of what is hidden fails, if nobody imported it before; later imports find all of it."""
    hidden = [name for name in _HIDDEN if name not in sys.modules]
    targets = [name for name in _TARGETS if name not in sys.modules]
    blocked: dict[str, Any] = dict.fromkeys(hidden)
    sys.modules.update(blocked)
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
        for name in targets:
            package, _, member = name.rpartition(".")
            # `from luigi.contrib import s3` takes what it finds there, and imports nothing.
            if sys.modules.pop(name, None):
                delattr(sys.modules[package], member)


def _import_luigi() -> None:
    for variable in ("LUIGI_CONFIG_PATH", "LUIGI_CONFIG_PARSER"):
        os.environ.pop(variable, None)  # Read at every use, not at import only.
    spec = importlib.util.find_spec("luigi")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("No module named 'luigi'", name="luigi")
    # The package reads its configuration while it is imported: the paths are emptied between its making and that.
    package = sys.modules["luigi"] = importlib.util.module_from_spec(spec)
    importlib.import_module("luigi.configuration").LuigiConfigParser._config_paths = []
    spec.loader.exec_module(package)


@contextmanager
def logged(folder: Path | None) -> Iterator[Path]:
    """While it lasts, the loggers write to `luigi.log` in the folder, which it gives; without one, in a temporary one.

    Several may last at a time, in any order; after the last one the loggers are as they were before the first.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="batch-pipeline-luigi-")))
        make_folder(os.fspath(folder), synced=True)
        # Mode "w": a closed handler is not opened again by a thread that still logs.
        handler = logging.FileHandler(folder / "luigi.log", "w", encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        stack.callback(handler.close)
        _redirect(handler, _handlers.append)
        stack.callback(_redirect, handler, _handlers.remove)
        yield folder


def _redirect(handler: logging.Handler, change: Callable[[logging.Handler], None]) -> None:
    """Adds or removes a handler; without any the loggers have their own again."""
    with _redirecting:
        if not _handlers:
            loggers = map(logging.getLogger, LOGGERS)
            _original[:] = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
        change(handler)
        for logger, handlers, level, propagate in _original:
            logger.handlers = list(_handlers) or handlers
            logger.propagate = propagate and not _handlers
            logger.setLevel(logging.INFO if _handlers else level)
