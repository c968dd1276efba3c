"""A real image registry on loopback (Debian's docker-registry), with or without a password."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""
_AUTH = "auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}"
PATIENCE = 30.0


@dataclass(frozen=True, kw_only=True)
class ImageRegistry:
    """Where it answers."""

    host: str
    #: `user:password`; empty: nobody is asked.
    secret: str = ""

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository; empty when there is none."""
        try:
            return sorted(self._get(f"{repository}/tags/list")["tags"] or ())
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []

    def manifest(self, image: str) -> Any:
        """The manifest of `host/repository@sha256:…`."""
        repository, _, digest = image.removeprefix(f"{self.host}/").partition("@")
        return self._get(f"{repository}/manifests/{digest}")

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(f"http://{self.host}/v2/{path}")
        request.add_header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
        if self.secret:
            request.add_header("Authorization", f"Basic {b64encode(self.secret.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@contextmanager
def serving(folder: Path, *, secret: str = "") -> Iterator[ImageRegistry]:
    """A registry that keeps its data in a folder, for as long as this lasts."""
    port = free_port()
    auth = ""
    if secret:
        user, _, password = secret.partition(":")
        # The registry knows bcrypt only; Debian's crypt, which perl calls, makes it.
        words = ["perl", "-e", 'print crypt($ARGV[0], q($2y$05$) . "a" x 21 . "u")', password]
        crypted = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        (folder / "htpasswd").write_text(f"{user}:{crypted}\n")
        auth = _AUTH.format(folder=folder)
    config = folder / "registry.yml"
    config.write_text(_CONFIG.format(folder=folder, port=port, auth=auth))
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        await_port(port)
        yield ImageRegistry(host=f"127.0.0.1:{port}", secret=secret)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, f"nobody answers on port {port}"
            time.sleep(0.05)
        else:
            return
