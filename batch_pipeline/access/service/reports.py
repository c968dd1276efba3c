"""The page of `report` as an answer of the service: the same bytes, in a sandbox under the page's own policy.

A page of 100,000 samples takes seconds of a core and 50 MiB. So one is made at a time, and larger runs are left to the
command.
"""

from __future__ import annotations

import threading
from typing import Final

from fastapi.responses import HTMLResponse

from batch_pipeline.access.service.answers import TooOften
from batch_pipeline.config import Settings
from batch_pipeline.records.history import now
from batch_pipeline.records.record import RunRecord
from batch_pipeline.report.page.details import cells_to_detail, read_details
from batch_pipeline.report.page.document import PageOptions, content_policy, page_of_run, tariff_of_run
from batch_pipeline.report.page.source import read_run
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import Store

#: Samples of a run of which the service makes a page.
MOST_SAMPLES: Final = 100_000
#: Seconds after which to ask again while another page is made.
_BUSY_SECONDS: Final = 5.0
_SANDBOX: Final = "sandbox allow-scripts allow-downloads; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"


class ReportPages:
    """Makes the pages of runs. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()

    def page(self, store: Store, run: RunRecord) -> HTMLResponse:
        """The page of a run as it is now.

        Raises InvalidUse for a run with more than `MOST_SAMPLES` samples, TooOften while another page is made,
        StoreFailed, and InvalidConfig for a file of prices that cannot be read.
        """
        if run.samples > MOST_SAMPLES:
            raise InvalidUse(
                f"The run has {run.samples:,} samples; the service makes pages of at most {MOST_SAMPLES:,}. Run"
                f" `batch-pipeline report {run.run_id} --store URL`."
            )
        if not self._lock.acquire(blocking=False):
            raise TooOften(_BUSY_SECONDS)
        try:
            source = read_run(store, self._settings, run)
            details = read_details(store, run.run_id, cells_to_detail(source.failed), ())
            options = PageOptions(
                program=["batch-pipeline"], written_at=now(), tariff=tariff_of_run(self._settings, run)
            )
            text = "".join(page_of_run(source, details, options))
        finally:
            self._lock.release()
        return HTMLResponse(text, headers={"Content-Security-Policy": f"{content_policy()}; {_SANDBOX}"})
