"""Where jobs run. Each backend obeys `base.Backend`; AWS Batch and the embedded one are the same code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch_pipeline.backends.base import Backend
    from batch_pipeline.config import Settings


def create(settings: Settings) -> Backend:
    """The backend that the settings name. Nothing is connected to, or started, before its first call."""
    from batch_pipeline.backends.batch import BatchBackend

    return BatchBackend(settings)
