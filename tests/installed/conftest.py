"""The package as pip installs it: a wheel, in an environment of its own, far from this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from batch_pipeline.localbatch.client import stop

ROOT = Path(__file__).resolve().parents[2]
#: What a wheel is built of; links stay links.
SOURCES = ("batch_pipeline", "dockerfiles", "infrastructure", "Pipfile.lock", "README.md", "LICENSE", "pyproject.toml")
#: Parts of this environment that lead to the repository, or change every start of Python.
_OURS = ("batch_pipeline", "__editable__", "distutils-precedence", "_distutils_hack", "_virtualenv")


@dataclass(frozen=True, kw_only=True)
class Installed:
    """An environment with the wheel, and a folder in which somebody works."""

    python: Path
    folder: Path
    environment: dict[str, str]

    def __call__(self, *words: str | Path, folder: Path | None = None) -> str:
        """Runs a command of the environment there and returns what it printed; it must end well."""
        ran = subprocess.run(
            [self.python.parent / words[0], *words[1:]],
            cwd=folder or self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy: a build leaves files beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / "source")
    # As `make release` does: pip fetches setuptools, as it fetched the packages of Pipfile.lock.
    _pip("wheel", "-q", "--no-deps", "--wheel-dir", folder, folder / "source")
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def names(wheel: Path) -> list[str]:
    """The files in the wheel."""
    with ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="session")
def _python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment's Python. It has the wheel and, by links, the other packages of this environment.

    pip asks no index: it refuses an extra that names what is not here.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (folder / "packages").mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(_OURS):
            (folder / "packages" / entry.name).symlink_to(entry)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "venv" / "lib" / version / "site-packages"
    (site / "others.pth").write_text(f"{folder / 'packages'}\n")
    _pip("--python", python, "install", "-q", "--no-index", f"{wheel}[client,server]")
    return python


@pytest.fixture
def installed(_python: Path, tmp_path: Path) -> Iterator[Installed]:
    """Where somebody works who has the wheel and no clone."""
    folder, state = tmp_path / "elsewhere", tmp_path / "state"
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    own = {
        "PATH": f"{_python.parent}:{os.environ['PATH']}",
        "BATCH_PIPELINE__EMBEDDED__STATE": str(state),
        "BATCH_PIPELINE__EMBEDDED__VCPUS": "2",
    }
    yield Installed(python=_python, folder=folder, environment={**kept, **own})
    stop(state)


def _pip(*words: str | Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
