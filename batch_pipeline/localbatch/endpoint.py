"""Where a server answers, with which key, and what it is, as a file that only its owner can read."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

#: The file in the state folder.
NAME = "server.json"
_PACKAGE = Path(__file__).resolve().parents[1]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a server writes about itself."""

    endpoint: Endpoint
    #: Tells apart servers of different versions of this package.
    code: str
    #: The options that it was started with, by name.
    options: dict[str, object]


def proof(secret_key: str, nonce: str, word: str) -> str:
    """What a server answers to a ping, to show that it is the one whose secret the caller knows, and says this word."""
    return hmac.new(secret_key.encode(), f"batch-pipeline ping {nonce} {word}".encode(), hashlib.sha256).hexdigest()


def code_version(package: Path = _PACKAGE) -> str:
    """Digests when the server's own modules were written, those of subfolders too; cheap enough for each command."""
    digest = hashlib.sha256()
    for room in ("localbatch", "wire", "container"):
        for folder, folders, files in os.walk(package / room):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(name for name in files if name.endswith(".py")):
                path = f"{folder}/{name}"
                facts = os.stat(path)
                digest.update(f"{path.removeprefix(str(package))} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def write_record(state: Path, record: Record) -> None:
    """Puts the file there at once and whole, with mode 0600."""
    temporary = state / f"{NAME}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump({"format": 1, **asdict(record)}, stream)
    temporary.replace(state / NAME)


def read_record(state: Path) -> Record | None:
    """What the last server wrote; it may be dead."""
    try:
        document = json.loads((state / NAME).read_text())
        return Record(
            endpoint=Endpoint(**document["endpoint"]), code=document["code"], options=dict(document["options"])
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def read_endpoint(state: Path) -> Endpoint | None:
    """Where the last server of a folder answered; it may be dead."""
    record = read_record(state)
    return record.endpoint if record else None
