"""AWS Batch's API: HTTP, signatures, validation, and a handler for each operation."""

from __future__ import annotations
