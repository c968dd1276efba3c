"""That the benchmark of the pool measures what it says: all tasks, each way, and double work where there is some."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import pool, pool_peers
from benchmarks.__main__ import main
from benchmarks.measure import BenchmarkFailed

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("way", [way for way in pool.WAYS if len(way.processes) > 1], ids=lambda way: way.name)
def test_each_way_drains_its_table(way: pool.Way, tmp_path: Path) -> None:
    found = pool.drained(tmp_path, replace(way, tasks=60), 2)
    assert found.rate > 0
    assert found.p99_ms > 0
    assert 1 <= found.share <= 2
    assert found.twice >= 0
    assert not way.once or found.twice == 0


def test_work_that_is_lost_or_done_twice_ends_the_benchmark(tmp_path: Path) -> None:
    wrong = pool.Way(name="wrong", fill=pool_peers.fill_bare, drain=_seven, tasks=5)
    with pytest.raises(BenchmarkFailed, match="7 tasks were settled of 5"):
        pool.drained(tmp_path, wrong, 1)


def _seven(path: Path, ready: pool_peers.Ready) -> pool_peers.Told:
    ready()
    return 7, [0.1]


def test_a_process_that_dies_ends_the_benchmark() -> None:
    def die(ready: pool_peers.Ready) -> None:
        ready()
        raise SystemExit(3)

    with pytest.raises(BenchmarkFailed, match="ended with 3"):
        pool.together([die])


def test_pilots_run_all_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_COMMANDS", 20)
    found = pool.pilots_of(tmp_path, 1)
    assert set(found["rates"]) == {"bare loops", "pilots, 1 ahead", "pilots, 10 ahead"}
    assert all(rate > 0 for rate in found["rates"].values())
    assert 0 <= found["share"] <= 1


def test_a_large_pool_is_counted_right(tmp_path: Path) -> None:
    found = pool.large(tmp_path, 6_000)
    assert found["MiB"] > 1
    assert {"import", "import again", "counts", "status", "export", "claim of 10, p99"} <= set(found)


def test_the_command_knows_its_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "--pooled" in capsys.readouterr().out
