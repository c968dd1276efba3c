"""Peers that this project does not need itself: installed into an environment of their own, once, by pip."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

#: What is measured, pinned: the figures of another version would be another table.
PACKAGES = {"doit": "0.37.0", "snakemake": "9.27.1"}


def cache_folder() -> Path:
    """Where the environment lies, outside of the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "batch_pipeline" / "benchmarks"


class Peers:
    """An environment with peers."""

    def __init__(self, folder: Path, name: str = "peers", packages: Mapping[str, str] = PACKAGES) -> None:
        self._folder = folder / name
        self._packages = packages
        #: Package -> why it cannot be measured.
        self.missing: dict[str, str] = {}

    def install(self) -> None:
        """Installs what is not there; what cannot be had is noted in `missing`."""
        if not (self._folder / "bin" / "pip").exists():
            subprocess.run([sys.executable, "-m", "venv", str(self._folder)], check=True)
        for package, version in self._packages.items():
            if self._version(package) == version:
                continue
            pip = [self.program("pip"), "install", "--quiet", "--disable-pip-version-check", f"{package}=={version}"]
            done = subprocess.run(pip, capture_output=True, text=True, check=False)
            if done.returncode:
                self.missing[package] = (done.stderr.strip().splitlines() or ["pip failed"])[-1]

    def program(self, name: str) -> str:
        """A program of the environment."""
        return str(self._folder / "bin" / name)

    def versions(self) -> Iterator[tuple[str, str]]:
        """Name and version of those that are there."""
        for package in self._packages:
            if package not in self.missing:
                yield package, self._version(package)

    def _version(self, package: str) -> str:
        code = f"from importlib.metadata import version; print(version({package!r}))"
        python = self._folder / "bin" / "python"
        return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False).stdout.strip()
