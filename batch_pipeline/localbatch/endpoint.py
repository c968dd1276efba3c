"""Where a server answers and with which key, as a file that only its owner can read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

#: The file in the state folder.
NAME = "server.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """What a boto3 client needs: `endpoint_url`, keys and region."""

    url: str
    access_key: str
    secret_key: str
    region: str
    pid: int

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1."""
        return int(self.url.rpartition(":")[2])


def write_endpoint(state: Path, endpoint: Endpoint) -> None:
    """Puts the file there at once and whole, with mode 0600."""
    temporary = state / f"{NAME}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump({"format": 1, **asdict(endpoint)}, stream)
    temporary.replace(state / NAME)


def read_endpoint(state: Path) -> Endpoint | None:
    """What the last server wrote; it may be dead."""
    try:
        document = json.loads((state / NAME).read_text())
        return Endpoint(**{key: document[key] for key in ("url", "access_key", "secret_key", "region", "pid")})
    except (FileNotFoundError, ValueError, KeyError):
        return None
