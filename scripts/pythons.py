"""Runs tests on every supported Python of this machine: `python -m scripts.pythons PYTEST_OPTION…`, or `make pythons`.

Interpreters come from the PATH and from pyenv's folder. Each gets an environment of its own below `.venv/pythons` with
the packages of Pipfile.lock, by checksum. Ends with 1 when tests fail; a Python that is not here, or for which the
packages cannot be had, is named and fails nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scripts.requirements import LOCK, requirements

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13", "3.14")


class Unavailable(Exception):
    """The packages cannot be installed for a Python, and why."""


def interpreters(environ: Mapping[str, str]) -> dict[str, Path]:
    """Version -> an interpreter of it that starts; those that are absent are left out."""
    started = ((version, path) for version in VERSIONS for path in _candidates(version, environ))
    # Of several the first counts: a dict keeps the last.
    return dict(reversed([(version, path) for version, path in started if _version_of(path) == version]))


def _candidates(version: str, environ: Mapping[str, str]) -> Iterator[Path]:
    folders = [Path(folder) for folder in environ.get("PATH", "").split(os.pathsep) if folder]
    yield from (path for folder in folders if (path := folder / f"python{version}").is_file())
    pyenv = Path(environ.get("PYENV_ROOT") or Path(environ.get("HOME", "/")) / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"), reverse=True)


def _version_of(python: Path) -> str:
    """Its version; empty for one that does not start, as shims of pyenv that no version was chosen for."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def environment(interpreter: Path, version: str) -> Path:
    """The Python of an environment with all packages, made if it is not there. Raises Unavailable."""
    folder = ROOT / ".venv" / "pythons" / version
    python, wanted = folder / "bin" / "python", requirements(json.loads(LOCK.read_text()))
    stamp = folder / f".synced-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
    if stamp.exists():
        return python
    _call(interpreter, "-m", "venv", folder)
    (folder / "requirements.txt").write_text(wanted)
    _call(python, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "-r", folder / "requirements.txt")
    # As an editable install does: processes that tests start find the package wherever they are.
    (folder / "lib" / f"python{version}" / "site-packages" / "batch_pipeline.pth").write_text(f"{ROOT}\n")
    stamp.touch()
    return python


def _call(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable((done.stderr.strip().splitlines() or ["no reason was printed"])[-1])


def main(options: Sequence[str]) -> int:
    """Runs pytest with these options on each Python; returns the exit code."""
    present, failed = interpreters(os.environ), []
    for version in VERSIONS:
        if version not in present:
            print(f"Python {version} is not here.", flush=True)
            continue
        try:
            python = environment(present[version], version)
        except Unavailable as error:
            print(f"Python {version} is not tested, its packages cannot be installed: {error}", flush=True)
            continue
        print(f"Python {version} ({present[version]}):", flush=True)
        command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(version)
    if failed:
        print(f"Tests fail on Python {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
