"""What is missing is named with the command that installs it, for who has a checkout and for who has not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from batch_pipeline.cli.doctor import _packages_of
from batch_pipeline.cli.installation import install_command


def test_an_installed_package_is_completed_by_its_extra(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "batch_pipeline"
    assert install_command("client", package=package) == f"{sys.executable} -m pip install 'batch-pipeline[client]'"


def test_a_checkout_is_set_up_by_its_own_command_too(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    remedy = install_command("server", package=tmp_path / "batch_pipeline")
    assert f"make demo (in {tmp_path}; " in remedy
    assert remedy.endswith(f"{sys.executable} -m pip install '{tmp_path}[server]'")


@pytest.mark.parametrize(
    ("tool", "debian", "bioconda"), [("kallisto", "kallisto", "kallisto"), ("java", "default-jre-headless", "openjdk")]
)
def test_a_tool_is_named_as_both_call_it(tool: str, debian: str, bioconda: str) -> None:
    remedy = _packages_of(tool)
    assert f"apt-get install {debian};" in remedy
    assert remedy.endswith(f"-c bioconda {bioconda}")
