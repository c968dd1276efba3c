"""Temporary outputs of a store in S3: removed with their records beside the receipts, in few calls."""

from __future__ import annotations

import pytest

from batch_pipeline.wire import layout
from batch_pipeline.wire.store import open_store
from tests.run.test_run_temporary import bams, ran
from tests.s3.conftest import BUCKET, Service
from tests.s3.test_s3_store import access_of

pytestmark = pytest.mark.moto


def test_a_run_removes_them_and_makes_again_what_a_reader_needs(service: Service) -> None:
    store = open_store(f"s3://{BUCKET}/letters", reach=access_of(service))
    assert ran(store).removed.files == 3
    assert not bams(store)
    assert sum(layout.port_of_removal(key) is not None for key in store.keys(layout.RECEIPTS)) == 3
    assert ran(store, check_results=True).submitted == 0
    [entry] = store.list(layout.receipts("call", "bob"))
    store.delete([entry.key])
    outcome = ran(store)
    assert (outcome.ok, outcome.removed.files) == (True, 1)
    assert not bams(store)
