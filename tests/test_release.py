"""A version is cut in one commit with its tag, or nothing is changed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.release import Refused, release

pytestmark = pytest.mark.git

NEWS = "# Changelog\n\n## Unreleased\n\n### Added\n\n- Something.\n\n## 0.1.0 (2026-01-01)\n\n- The first.\n"


def git(tree: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=tree, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "batch_pipeline").mkdir()
    (tmp_path / "batch_pipeline" / "__init__.py").write_text('"""Doc."""\n\n__version__ = "0.1.9"\n')
    (tmp_path / "CHANGELOG.md").write_text(NEWS)
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "config", "user.name", "Ada")
    git(tmp_path, "config", "user.email", "ada@example.org")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    return tmp_path


def test_a_version_is_one_commit_with_its_tag(tree: Path) -> None:
    assert release(tree, "0.1.10", today="2026-02-03") == "v0.1.10"
    assert '__version__ = "0.1.10"' in (tree / "batch_pipeline" / "__init__.py").read_text()
    expected = NEWS.replace("## Unreleased\n", "## Unreleased\n\n## 0.1.10 (2026-02-03)\n")
    assert (tree / "CHANGELOG.md").read_text() == expected
    assert git(tree, "status", "--porcelain") == ""
    assert git(tree, "describe") == "v0.1.10"
    assert git(tree, "log", "-1", "--format=%s") == "Release 0.1.10"


@pytest.mark.parametrize(
    ("version", "why"),
    [("1.2", "is no version"), ("0.1.9", "is not higher"), ("v1.0.0", "is no version"), ("0.0.10", "is not higher")],
)
def test_a_number_that_cannot_be_the_next_is_refused(tree: Path, version: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        release(tree, version, today="2026-02-03")
    assert git(tree, "status", "--porcelain") == git(tree, "tag") == ""


def test_changes_a_tag_that_is_there_and_an_empty_log_are_refused(tree: Path) -> None:
    (tree / "new").write_text("x")
    with pytest.raises(Refused, match="in no commit"):
        release(tree, "0.2.0", today="2026-02-03")
    (tree / "new").unlink()
    git(tree, "tag", "v0.2.0")
    with pytest.raises(Refused, match=r"a tag v0\.2\.0"):
        release(tree, "0.2.0", today="2026-02-03")
    release(tree, "0.3.0", today="2026-02-03")
    with pytest.raises(Refused, match="nothing under"):
        release(tree, "0.4.0", today="2026-02-03")
