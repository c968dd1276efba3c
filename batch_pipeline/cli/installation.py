"""How this package was installed, and so the command that installs more of it; standard library alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parents[1]


def install_command(extra: str, *, package: Path = _PACKAGE) -> str:
    """The pip command that installs an extra (`client`, `server`); of a checkout also `make demo`, which sets it up."""
    checkout = package.parent
    if not (checkout / "pyproject.toml").is_file():
        return f"{sys.executable} -m pip install 'batch-pipeline[{extra}]'"
    pip = f"{sys.executable} -m pip install '{checkout}[{extra}]'"
    return f"make demo (in {checkout}; then use .venv/bin/python), or {pip}"
