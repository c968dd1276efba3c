"""The API of AWS Batch: signatures, validation, and a handler for each operation."""

from __future__ import annotations
