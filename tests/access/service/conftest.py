"""An issuer for all tests, and for each a service with datasets of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.access.service.lab import Lab
from tests.access.service.oidc import Issuer


@pytest.fixture(scope="session")
def _issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.close()


@pytest.fixture
def issuer(_issuer: Issuer) -> Issuer:
    _issuer.reset()
    return _issuer


@pytest.fixture
def lab(tmp_path: Path, issuer: Issuer) -> Lab:
    return Lab(tmp_path, issuer)
