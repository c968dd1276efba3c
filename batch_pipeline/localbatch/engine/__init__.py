"""The state of all jobs and the state machine that moves it: no HTTP, no processes."""

from __future__ import annotations
