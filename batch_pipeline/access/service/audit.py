"""The audit log: each request with its user and the decision, a JSON object a line, appended and never changed.

A request to start a run is written before the run is started, and again with the decision: a run that cannot be written
down is not started. Tokens, variables' values and configurations are never written, and what looks like a secret
elsewhere in a request, such as a password in a repository's URL, is hidden.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

from batch_pipeline.records.history import now
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.scrub import scrubbed_value


class AuditLog:
    """A file of JSON lines that its owner alone may read. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def write(self, **values: Any) -> None:
        """Appends a line. Raises StoreFailed."""
        # ASCII: what disguises text on a screen stays an escape.
        known = {name: scrubbed_value(item) for name, item in values.items() if item not in ("", None)}
        line = f"{json.dumps({'at': now(), **known})}\n".encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._lock:
                # Opened for each line, so that after a rotation the next line begins a new file.
                handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
                try:
                    if os.write(handle, line) < len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                finally:
                    os.close(handle)
        except OSError as error:
            raise StoreFailed(f"The audit log cannot be written ({error.strerror}). Fix server.audit.") from error
