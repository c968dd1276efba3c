from __future__ import annotations

from tests.run.conftest import stage as stage
from tests.run.conftest import store as store
