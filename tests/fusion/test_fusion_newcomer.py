"""What somebody meets who has just cloned it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fusion.prompt import REPOSITORY

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("fusion")]


def test_a_python_without_the_packages_is_told_which_one_has_them() -> None:
    ended = subprocess.run(
        [sys.executable, "-E", "-S", "main.py", "status"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: The Python package 'click' is not installed for ")
    assert ".venv/bin/python" in ended.stderr
    assert "pip install" in ended.stderr
    assert "Traceback" not in ended.stderr
