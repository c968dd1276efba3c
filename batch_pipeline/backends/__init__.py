"""Where jobs run. Each backend obeys `base.Backend`; AWS Batch and the embedded one are the same code.

    contract  `base` (protocols), `quotas` (AWS's), `limits` (a plan against them)
    decide    `definitions`, `payload` (what is sent), `parsing` and `reasons` (what is answered), `capacity` (what a
              queue can run); all pure
    money     `prices` (of machines), `price_lists` (AWS's own, from files)
    act       `aws_clients`, `aws_errors`, `rate_limit`, `credentials`, `registration`, `consumables`, `account`
    backends  `batch` (AWS Batch and the embedded one), `memory` (a twin for tests)

One flat room: there is one backend of AWS Batch, of which all but `base` and `memory` are parts, each a page long.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch_pipeline.backends.quotas import AWS_BATCH
from batch_pipeline.pipeline.plan import Limits

if TYPE_CHECKING:
    from batch_pipeline.backends.base import Backend
    from batch_pipeline.config import Settings


#: Backend's name -> what one submission may not exceed there. Known without a connection, for commands that only plan.
LIMITS: Final[dict[str, Limits]] = {"aws": AWS_BATCH, "embedded": replace(AWS_BATCH, max_live_children=None)}


def create(settings: Settings) -> Backend:
    """The backend that the settings name. Nothing is connected to, or started, before its first call."""
    from batch_pipeline.backends.batch import BatchBackend

    return BatchBackend(settings)
