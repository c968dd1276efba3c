"""That the benchmark of pools over a network counts what pilots ask."""

from __future__ import annotations

from uuid import uuid4

import pytest

from benchmarks.pool_servers import measured
from tests.servers import databases


@pytest.mark.servers
def test_two_writes_a_task_are_counted_for_dynamodb(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in databases.IDENTITY.items():
        monkeypatch.setenv(name, value)
    url = f"dynamodb://pool-{uuid4().hex}?region={databases.REGION}&endpoint={databases.dynalite().url}"
    drained, seconds = measured(url, 40, 1)
    assert (drained.settled, seconds > 0) == (40, True)
    # Eight pilots have looked at sixteen parts at least once before they found nothing.
    assert drained.calls >= 80 + drained.conflicts + 8 * 16


@pytest.mark.servers
def test_two_writes_a_claim_are_counted_for_couchdb() -> None:
    drained, _ = measured(f"couchdb{databases.pouchdb().url.removeprefix('http')}/pool-{uuid4().hex}", 40, 5)
    assert drained.settled == 40
    assert drained.calls >= 2 * 40 / 5 + 8
