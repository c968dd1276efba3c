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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_who_may_not_write_is_told_so(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "pool.sqlite").close()
    (tmp_path / "pool.sqlite").chmod(0o444)
    tmp_path.chmod(0o555)
    with pytest.raises(PoolFailed, match="You need the right to write to it and to its folder"):
        SqliteStore(tmp_path / "pool.sqlite")
