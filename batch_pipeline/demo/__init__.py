"""Samples with a known answer, and what it takes to score a pipeline by them."""

from __future__ import annotations
