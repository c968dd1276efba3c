"""Real git repositories for tests: a remote, what is pushed to it, and the policy of a dataset that allows it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from batch_pipeline.access.admission import AdmissionContext, admit
from batch_pipeline.access.gate import Grant
from batch_pipeline.access.images import ImageName
from batch_pipeline.access.request import SubmitRequest, UserIdentity

ALICE = UserIdentity(name="alice", source="machine")
MALLORY = UserIdentity(name="mallory", source="machine")
DIGEST = "sha256:" + "3fa9" * 16

_POLICY = """
dataset = "fusions"

[[repositories]]
url = "file://{root}/code.git"
entry_points = ["main.sh", "scripts/*.sh"]

[[repositories]]
url = "file://{root}/library.git"
entry_points = []

[[images]]
repository = "registry.example.org/driver"
digests = ["sha256:3fa9"]

[levels.test]
store = "{root}/test"
queue = "test"
members = ["alice", "bob"]

[levels.standard]
store = "{root}/main"
queue = "main"
members = ["alice"]

[levels.full]
store = "{root}/main"
queue = "main"
members = ["alice"]
"""


def git(folder: Path, *arguments: str, **environment: str) -> str:
    """Git as a user of it, without this machine's configuration."""
    fixed = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": f"{who}@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    command = ("git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *arguments)
    ended = subprocess.run(
        command,
        cwd=folder,
        env=fixed | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()


class Repository:
    """A remote and a clone of it in which somebody works."""

    def __init__(self, root: Path, name: str) -> None:
        self.remote = root / f"{name}.git"
        self.work = root / f"{name}-work"
        for folder in (self.remote, self.work):
            folder.mkdir()
        git(self.remote, "init", "--quiet", "--bare")
        git(self.work, "init", "--quiet")
        git(self.work, "remote", "add", "origin", f"file://{self.remote}")

    def git(self, *arguments: str) -> str:
        return git(self.work, *arguments)

    def commit(self, files: Mapping[str, str], message: str = "change") -> str:
        """Commits files, scripts as executable ones, and returns the SHA; nothing is pushed."""
        for name, text in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if name.endswith(".sh") else 0o644)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def push(self, *what: str) -> None:
        self.git("push", "--quiet", "--force", "origin", *(what or ("main",)))


class Dataset:
    """A dataset with a policy, reviewed code on its remote, and a registry with one image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.policies = root / "policies"
        self.policies.mkdir()
        self.policy = _POLICY.format(root=root)
        self.code = Repository(root, "code")
        self.library = Repository(root, "library")
        self.reviewed = self.code.commit({"main.sh": "#!/bin/sh\necho main\n", "scripts/count.sh": "#!/bin/sh\n"})
        self.code.push()
        #: Image by repository and tag -> digest.
        self.registry = {"registry.example.org/driver:1": DIGEST}
        self.tokens_asked: list[str] = []

    def url(self, name: str = "code") -> str:
        return f"file://{self.root}/{name}.git"

    def ask(self, level: str = "standard", **changes: Any) -> SubmitRequest:
        base = SubmitRequest(
            dataset="fusions",
            description="The spring cohort",
            access_level=level,
            output_dir="cohort-7",
            script=("main.sh",),
            repository=self.url(),
            commit=self.reviewed,
            image="registry.example.org/driver:1",
            confirmed=True,
        )
        return replace(base, **changes)

    def admit(self, ask: SubmitRequest, identity: UserIdentity = ALICE) -> Grant:
        """The whole way, as the command line and the server go it."""
        (self.policies / "fusions.toml").write_text(self.policy)
        desk = AdmissionContext(
            policies=str(self.policies), cache=self.root / "cache", tokens=self._token, images=self._digest
        )
        return admit(ask, identity, desk)

    def _token(self, reference: str) -> str:
        self.tokens_asked.append(reference)
        return "hunter2"

    def _digest(self, name: ImageName) -> str:
        known = self.registry.get(f"{name.repository}:{name.tag}", "")
        return known or (name.digest if name.digest in self.registry.values() and not name.tag else "")
