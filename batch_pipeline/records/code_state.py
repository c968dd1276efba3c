"""Which code a run is made by: repository, commit and what was changed since, as git tells of the pipeline's folder.

Three calls of git at most, beside each other and beside what a driver does anyway: `status` (commit, branch, what is
changed), `config` (the remote), and the diff of a changed tree or the tags of a clean one: changed code is no tagged
version. No repository, or no git, is no error: a run's bundle holds its code in any case. git runs nothing that the
repository names: no monitor, no drivers of diffs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from batch_pipeline.wire.scrub import scrubbed_code, without_credentials

#: Bytes of a diff that are kept; of a longer one there are digest and size.
MOST_DIFF: Final = 1 << 20
#: Names of unknown files that are kept.
MOST_UNTRACKED: Final = 100
#: Seconds that a call may take: a repository on a slow network must not keep a run from beginning.
PATIENCE: Final = 20.0
_GIT: Final = ("git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")
_STREAMS: Final[dict[str, Any]] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.DEVNULL,
}
_DIFF: Final = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--full-index", "--binary", "HEAD")


@dataclass(frozen=True, kw_only=True)
class CodeState:
    """What git tells of a folder; all is empty where it tells nothing."""

    #: URL of the remote, without credentials.
    repository: str = ""
    #: The whole SHA.
    commit: str = ""
    #: Empty on no branch.
    branch: str = ""
    #: At the commit; none of a tree with changes.
    tags: tuple[str, ...] = ()
    #: Whether files that git knows differ from the commit.
    changed: bool = False
    #: Files and whole folders that git neither knows nor ignores, from the root of the repository.
    untracked: tuple[str, ...] = ()
    #: Of the difference to the commit; empty: there is none.
    diff_sha256: str = ""
    diff_bytes: int = 0
    #: The difference without what looks like a secret; empty when it is longer than is kept.
    diff: bytes = b""
    #: The repository's root.
    root: str = ""

    def is_dirty(self, code: Iterable[Path] = ()) -> bool:
        """Whether the commit is not what runs: something is changed, or one of these files is not in it."""
        unknown = [Path(self.root, name) for name in self.untracked] if self.root else []
        return self.changed or any(path == one or one in path.parents for path in code for one in unknown)


def read_code_state(folder: Path) -> CodeState:
    """The state of the repository that a folder is in."""
    with ThreadPoolExecutor(2, thread_name_prefix="git") as pool:
        remotes = pool.submit(_git_output, folder, "config", "--get-regexp", r"^remote\..*\.url$")
        status = _git_output(folder, "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal")
        if status is None:
            return CodeState()
        commit, branch, changed, untracked = _read_status(status.decode(errors="replace").split("\0"))
        tags: tuple[str, ...] = ()
        sha256, size, diff = "", 0, b""
        if changed and commit:
            sha256, size, diff = _difference(folder)
        elif commit:
            names = _git_output(folder, "for-each-ref", "--points-at=HEAD", "--format=%(refname:strip=2)", "refs/tags")
            tags = tuple((names or b"").decode(errors="replace").split())
        return CodeState(
            repository=_remote((remotes.result() or b"").decode(errors="replace").splitlines()),
            commit=commit,
            branch=branch,
            tags=tags,
            changed=changed,
            untracked=tuple(untracked[:MOST_UNTRACKED]),
            diff_sha256=sha256,
            diff_bytes=size,
            diff=scrubbed_code(diff.decode(errors="surrogateescape")).encode(errors="surrogateescape"),
            root=_root(folder),
        )


def _read_status(lines: Sequence[str]) -> tuple[str, str, bool, list[str]]:
    """Commit, branch, whether anything is changed, and unknown files: https://git-scm.com/docs/git-status"""
    commit = branch = ""
    changed = False
    untracked = []
    for line in lines:
        if line.startswith("# branch.oid "):
            commit = line.removeprefix("# branch.oid ")
        elif line.startswith("# branch.head "):
            branch = line.removeprefix("# branch.head ")
        elif line.startswith("? "):
            untracked.append(line[2:])
        elif line.startswith(("1 ", "2 ", "u ")):
            changed = True
    # `(initial)` before the first commit, `(detached)` on no branch.
    return commit if commit[:1] != "(" else "", branch if branch[:1] != "(" else "", changed, untracked


def _remote(lines: Sequence[str]) -> str:
    """The URL of `origin`, else of the first remote."""
    urls = dict(line.split(" ", 1) for line in lines if " " in line)
    url = urls.get("remote.origin.url") or next(iter(urls.values()), "")
    return without_credentials(url)


def _root(folder: Path) -> str:
    """The nearest folder above that holds `.git`, as git itself looks for it."""
    resolved = folder.resolve()
    return next((str(one) for one in (resolved, *resolved.parents) if (one / ".git").exists()), "")


def _difference(folder: Path) -> tuple[str, int, bytes]:
    """Digest, size and, where it is not too long, the bytes of the difference to the commit."""
    try:
        process = subprocess.Popen([*_GIT, *_DIFF], cwd=folder, env=_environment(), **_STREAMS)
    except OSError:
        return "", 0, b""
    last = threading.Timer(PATIENCE, process.kill)
    last.start()
    try:
        with process:
            stream: IO[bytes] = process.stdout  # type: ignore[assignment]
            digest, size, kept = _digested(stream)
    finally:
        last.cancel()
    return (digest, size, kept) if process.returncode == 0 else ("", 0, b"")


def _digested(stream: IO[bytes]) -> tuple[str, int, bytes]:
    digest, size, kept = hashlib.sha256(), 0, bytearray()
    while piece := stream.read(1 << 16):
        digest.update(piece)
        size += len(piece)
        if size <= MOST_DIFF:
            kept += piece
    return digest.hexdigest(), size, bytes(kept) if size <= MOST_DIFF else b""


def _git_output(folder: Path, *words: str) -> bytes | None:
    """What git prints; None when it cannot tell."""
    try:
        ended = subprocess.run(
            [*_GIT, *words], cwd=folder, env=_environment(), timeout=PATIENCE, check=False, **_STREAMS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout if ended.returncode == 0 else None


def _environment() -> dict[str, str]:
    # A hook of git that starts us says by variables which repository it means, and that need not be the pipeline's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**environment, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
