"""git as it is run on repositories that are not trusted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from batch_pipeline.wire.errors import RepositoryFailed
from batch_pipeline.wire.git import Git

pytestmark = pytest.mark.engine


def program(folder: Path, text: str) -> None:
    (folder / "git").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "git").chmod(0o755)


def test_a_token_reaches_git_by_its_askpass_and_by_no_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(
        tmp_path, 'echo "$*"; "$GIT_ASKPASS" "Username for x"; "$GIT_ASKPASS" "Password for x"; echo "$GIT_ASKPASS"'
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    arguments, user, password, askpass = Git(tmp_path, token="hunter2").run("fetch").splitlines()
    assert (user, password) == ("x-access-token", "hunter2")
    assert "hunter2" not in arguments
    assert not Path(askpass).exists()


def test_a_real_git_asks_the_askpass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which("git")
    (tmp_path / "asked").write_text("protocol=https\nhost=example.org\n\n")
    program(tmp_path, f'exec {real} "$@" <{tmp_path}/asked')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    told = Git(tmp_path, token="hunter2").run("credential", "fill")
    assert "username=x-access-token\npassword=hunter2\n" in told


def test_nothing_of_this_processes_environment_reaches_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "env")
    for name in ("AWS_SECRET_ACCESS_KEY", "GIT_DIR", "GIT_CONFIG_COUNT", "LD_PRELOAD", "GIT_PROXY_COMMAND"):
        monkeypatch.setenv(name, "evil")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "evil" not in Git(tmp_path).run("status")


def test_hooks_of_a_repository_are_not_run(tmp_path: Path) -> None:
    git = Git(tmp_path)
    git.run("init", "--quiet")
    hook = tmp_path / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/owned\n")
    hook.chmod(0o755)
    git.run("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "--allow-empty", "-m", "x")
    git.run("checkout", "--quiet", "--detach")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("url", ["ext::sh -c touch% owned", "http://127.0.0.1:9/x", "git://127.0.0.1:9/x"])
def test_other_protocols_are_refused(url: str, tmp_path: Path) -> None:
    git = Git(tmp_path)
    git.run("init", "--quiet")
    with pytest.raises(RepositoryFailed, match="not allowed"):
        git.run("fetch", url)
    assert not (tmp_path / "owned").exists()


def test_a_failure_is_told_in_gits_own_words(tmp_path: Path) -> None:
    with pytest.raises(RepositoryFailed, match="not a git repository"):
        Git(tmp_path).run("log")
    with pytest.raises(RepositoryFailed, match="not a git repository"):
        Git(tmp_path).asks("merge-base", "--is-ancestor", "a", "b")
    assert Git(tmp_path).answer("rev-parse", "HEAD") == ""
