from __future__ import annotations

import pytest

from batch_pipeline.wire.store import Store
from tests.run.small import Stage, new_store


@pytest.fixture
def store() -> Store:
    return new_store()


@pytest.fixture
def stage(store: Store) -> Stage:
    return Stage(store)
