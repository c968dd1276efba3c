from __future__ import annotations

from tests.cli.conftest import run as run
from tests.cli.conftest import terminal as terminal
from tests.cli.conftest import world as world
