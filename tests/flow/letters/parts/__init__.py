"""Steps of the tests' pipelines."""

from __future__ import annotations
