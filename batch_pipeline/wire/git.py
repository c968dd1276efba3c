"""Runs git on repositories that are not trusted, the same on both sides of the wire.

Nothing of this machine's has a say: no configuration of the system or the user (a URL could be rewritten there), no
hooks, no replaced objects, no prompts, and of protocols https, ssh and files only. A token goes to git through its
askpass program and the environment of that one process: it is in no argument, file or message.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from batch_pipeline.wire.errors import RepositoryFailed

#: Seconds that one command may take; a large repository is fetched once and then in parts.
LIMIT_SECONDS: Final = 1800
#: What git needs of this process's environment: where programs, keys and proxies are.
_KEPT: Final = (
    "PATH",
    "HOME",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
_FIXED: Final = {
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_ALLOW_PROTOCOL": "https:ssh:file",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
}
_OPTIONS: Final = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.autocrlf=false"),
    *("-c", "credential.helper="),
    *("-c", "submodule.recurse=false"),
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
    *("-c", "advice.detachedHead=false"),
    *("-c", "init.defaultBranch=main"),
)
_TOKEN: Final = "BATCH_PIPELINE_ASKED_TOKEN"
_ASKPASS: Final = f"""\
#!/bin/sh
case "$1" in
Username*) echo x-access-token ;;
*) printf '%s\\n' "${_TOKEN}" ;;
esac
"""


class Git:
    """Git in one folder; with a token where a repository is private."""

    def __init__(self, folder: str | Path, *, token: str = "") -> None:
        self.folder = Path(folder)
        self._token = token

    def run(self, *arguments: str) -> str:
        """What a command prints. Raises RepositoryFailed with git's own words when it fails."""
        ended = self._ended(arguments)
        if ended.returncode:
            raise RepositoryFailed(f"git {arguments[0]}: {_last_line(ended.stderr)}. See that the repository is there.")
        return os.fsdecode(ended.stdout)

    def asks(self, *arguments: str) -> bool:
        """Whether a command that answers by its exit code says yes. Raises RepositoryFailed when it cannot say."""
        ended = self._ended(arguments)
        if ended.returncode not in (0, 1):
            raise RepositoryFailed(f"git {arguments[0]}: {_last_line(ended.stderr)}. See that the repository is there.")
        return ended.returncode == 0

    def answer(self, *arguments: str) -> str:
        """What a command prints, in one line; nothing when it fails: the thing that was asked about is not there."""
        ended = self._ended(arguments)
        return "" if ended.returncode else os.fsdecode(ended.stdout).strip()

    def _ended(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        command = ("git", *_OPTIONS, "-C", str(self.folder), *arguments)
        try:
            with _environment(self._token) as environment:
                return subprocess.run(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=False,
                    timeout=LIMIT_SECONDS,
                )
        except FileNotFoundError as error:
            raise RepositoryFailed("There is no git on this machine. Install it.") from error
        except subprocess.TimeoutExpired as error:
            raise RepositoryFailed(f"git {arguments[0]} took longer than {LIMIT_SECONDS} s. Try again.") from error


@contextmanager
def _environment(token: str) -> Iterator[Mapping[str, str]]:
    """The environment of one command; for as long as it runs there is an askpass program if it needs one."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    if not token:
        yield {**kept, **_FIXED}
        return
    with tempfile.TemporaryDirectory(prefix="askpass-") as folder:
        program = Path(folder, "askpass")
        program.write_text(_ASKPASS)
        program.chmod(0o700)
        yield {**kept, **_FIXED, "GIT_ASKPASS": str(program), _TOKEN: token}


def _last_line(stderr: bytes) -> str:
    """The line that says most; git ends its messages without a full stop, most of the time."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return (fatal or lines or ["it failed without a word"])[0].strip().rstrip(".")
