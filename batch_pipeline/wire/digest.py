"""Digests of values and files: SHA-256 everywhere, shortened only where it becomes part of a name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

#: Hex digits of a fingerprint: 64 bits; two of a million cells then meet with probability below 3e-8.
FINGERPRINT_DIGITS = 16


def canonical_json(value: Any) -> bytes:
    """The one way in which a JSON value is written for a digest: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint_of(value: Any) -> str:
    """Short digest of a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:FINGERPRINT_DIGITS]


def sha256_of_bytes(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hex, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
