"""The file of a pool in SQLite, beside what every pool promises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.wire.errors import PoolFailed


@pytest.mark.parametrize(("umask", "mode"), [(0o000, 0o666), (0o002, 0o664), (0o077, 0o600)])
def test_who_else_may_write_is_the_umasks_business(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        SqliteStore(tmp_path / "pool.sqlite").close()
    finally:
        os.umask(before)
    assert (tmp_path / "pool.sqlite").stat().st_mode & 0o777 == mode


def test_who_may_not_write_is_told_so() -> None:
    with pytest.raises(PoolFailed, match="You need the right to write to it and to its folder"):
        SqliteStore(Path("/proc/pool.sqlite"))


def test_opening_a_pool_again_takes_no_locks_off_it(tmp_path: Path) -> None:
    """The locks of a file are its process's, and closing any descriptor of it would end them."""
    path = tmp_path / "pool.sqlite"
    first = SqliteStore(path)
    before = locks_on(path)
    assert before
    SqliteStore(path).close()
    assert locks_on(path) == before
    first.close()


def locks_on(path: Path) -> list[str]:
    """The kernel's list of locks on a file, as far as they are this process's."""
    inode = path.stat().st_ino
    fields = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sorted(
        " ".join(line[1:])
        for line in fields
        if line[4] == str(os.getpid()) and line[5].rpartition(":")[2] == str(inode)
    )
