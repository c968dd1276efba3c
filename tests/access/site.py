"""A dataset with a remote, a policy and a real embedded Batch, and the command line as somebody uses it there."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.access.repositories import Repository

ROOT = Path(__file__).resolve().parents[2]
#: The same as the fixture that starts the server: another one would be started instead.
SERVER = {"vcpus": 4, "memory_mb": 4096, "idle_seconds": 60}
PATIENCE = 90.0

_POLICY = """
dataset = "texts"

[[repositories]]
url = "file://{root}/code.git"
entry_points = ["*.sh", "examples/drivers/*"]

[[images]]
repository = "registry.example.org/driver"
digests = ["sha256:"]

[levels.test]
store = "{root}/test"
queue = "test"
members = ["*"]
without_image = true

[levels.standard]
store = "{root}/main"
queue = "main"
members = ["{user}"]
without_image = true

[levels.full]
store = "{root}/main"
output_prefix = "all"
queue = "main"
members = ["{user}"]
without_image = true
"""


class Site:
    """See the module. `state` is the embedded Batch's."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.state = state
        #: What runs drivers' containers; empty: they are processes.
        self.container = ""
        self.main, self.test = root / "main", root / "test"
        self.code = Repository(root, "code")
        (root / "policies").mkdir()
        self.policy(_POLICY.format(root=root, user=getpass.getuser()))

    def policy(self, text: str) -> None:
        (self.root / "policies" / "texts.toml").write_text(text)

    def examples(self) -> str:
        """Has the project's examples as the reviewed code."""
        shutil.copytree(ROOT / "examples", self.code.work / "examples", ignore=shutil.ignore_patterns("__pycache__"))
        self.code.git("add", "--all")
        self.code.git("commit", "--quiet", "-m", "examples")
        self.code.push()
        return self.code.git("rev-parse", "HEAD")

    @property
    def environment(self) -> dict[str, str]:
        settings = {
            "ACCESS__POLICIES": self.root / "policies",
            "ACCESS__CACHE": self.root / "cache",
            "EMBEDDED__STATE": self.state,
            "EMBEDDED__CONTAINER": self.container,
            "WATCH__POLL_SECONDS": 0.2,
            **{f"EMBEDDED__{name.upper()}": value for name, value in SERVER.items()},
        }
        told = {f"BATCH_PIPELINE__{name}": str(value) for name, value in settings.items()}
        return {**os.environ, **told, "PYTHONPATH": str(ROOT)}

    def call(
        self, *words: str, folder: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command line, in the working copy unless told."""
        return subprocess.run(
            [sys.executable, "-m", "batch_pipeline", *words],
            cwd=folder or self.code.work,
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def submit(self, *words: str, level: str = "standard", output: str = "out", **more: Any) -> Any:
        """`submit` with what it always needs."""
        shared = ("--dataset", "texts", "--description", "A test", "--access-level", level, "--output-dir", output)
        return self.call("submit", *shared, *words, **more)

    def submitted(self, *words: str, **more: Any) -> Path:
        """Submits without waiting; the folder of the run's records."""
        ended = self.submit("--json", *words, **more)
        assert ended.returncode == 0, ended.stderr
        told = json.loads(ended.stdout)
        return Path(str(told["store"]).removeprefix("file://"), "runs", str(told["run_id"]))


def events_of(run: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first."""
    return [json.loads(path.read_text()) for path in sorted((run / "events").glob("*.json"))]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def until(happened: Callable[[], Any], what: str) -> Any:
    """Waits for something, and returns its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := happened()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return value
