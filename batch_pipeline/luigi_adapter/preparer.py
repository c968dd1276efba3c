"""Makes what a run needs and is missing, as Luigi tasks of its workflow: the first steps depend on them.

    prepare.image_base ─► prepare.image_picard ─► prepare.definitions ─┐
                                      prepare.code, prepare.reference ─┴─► prepare.Fusions ─► picard ─► kallisto …

In two sittings of Luigi, since images and reference decide which cells a plan has: the first makes what is missing, the
second (`submit`) submits the steps, whose tasks depend on the very same tasks. So luigid's page shows one graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from batch_pipeline.luigi_adapter import imports
from batch_pipeline.luigi_adapter.first_failure import FirstFailure
from batch_pipeline.luigi_adapter.scheduler import driver_id, require_scheduler
from batch_pipeline.records.preparation import Preparation, missing_reasons
from batch_pipeline.wire.errors import BackendFailed, BatchPipelineError, DeploymentFailed, InvalidUse, RunConflict

if TYPE_CHECKING:
    from batch_pipeline.luigi_adapter.tasks import PreparationTask

_LOG: Final = logging.getLogger(__name__)


class Preparer:
    """The preparations of one command, of which Luigi makes those that are missing.

    Raises InvalidUse for a pipeline with the name of a preparation, and what their checks raise; nothing is made then.
    """

    def __init__(
        self,
        pipeline: str,
        preparations: Sequence[Preparation],
        *,
        scheduler_url: str | None,
        say: Callable[[str], None],
    ) -> None:
        self.pipeline = pipeline
        self.preparations = {preparation.name: preparation for preparation in preparations}
        if pipeline in self.preparations:
            raise InvalidUse(
                f"The pipeline's name {pipeline!r} is that of a task that prepares the run. Give another with"
                " --pipeline-name."
            )
        self._url, self._say = scheduler_url, say
        #: Why each one that is not there yet must be made.
        self._missing = dict(missing_reasons(preparations))
        self._failure = FirstFailure()
        self._driver = driver_id()

    @cached_property
    def tasks(self) -> Mapping[str, PreparationTask]:
        """Luigi's task of each preparation, and last that of all, under the pipeline's name. Luigi must be loaded."""
        from batch_pipeline.luigi_adapter.tasks import preparation_tasks

        return preparation_tasks(self, driver=self._driver)

    def run(self) -> None:
        """Makes what is missing, through Luigi; nothing missing: calls nothing. The first failure ends it.

        Raises DeploymentFailed for what cannot be made, BackendFailed when no scheduler answers or it goes away, and
        RunConflict when the scheduler does not let something be made; what was made stays.
        """
        if not self._missing:
            return
        require_scheduler(self._url)
        imports.load()
        from luigi.rpc import RPCError

        from batch_pipeline.luigi_adapter.tasks import run_task

        worker_id = f"Worker(prepare={self.pipeline}, driver={self._driver})"
        try:
            with imports.logged(None):
                run_task(self.tasks[self.pipeline], url=self._url, worker_id=worker_id)
        except (RPCError, OSError) as error:
            if self._failure.error is None:
                raise BackendFailed(
                    f"Luigi's scheduler at {self._url} went away while the run was prepared ({error}); nothing was "
                    "submitted. Run the same command again: what is made is not made twice."
                ) from error
        if self._failure.error is not None:
            raise self._failure.error
        if self._missing:
            raise RunConflict(
                f"Luigi's scheduler at {self._url} did not let {', '.join(self._missing)} be prepared; nothing was "
                "submitted. Press Resume on its page if it is paused, then run the same command again."
            )

    def is_done(self, name: str) -> bool:
        """Whether a preparation is there, or all of them under the pipeline's name; for its task."""
        return not self._missing if name == self.pipeline else name not in self._missing

    def make(self, name: str) -> None:
        """Makes one and checks that it is there; for its task. Raises BackendFailed after another one failed."""
        if name == self.pipeline:
            return
        if self._failure.error is not None:
            raise BackendFailed(f"{name} is not made, because another preparation failed.")
        preparation = self.preparations[name]
        self._say(f"Preparing {preparation.title} ({self._missing[name]}) …")
        with self._failure.keeping():
            self._make(preparation)
        del self._missing[name]

    def _make(self, preparation: Preparation) -> None:
        title, hint = preparation.title, f"The run was not submitted. To make it by itself: {preparation.remedy}"
        try:
            preparation.make()
            reason = preparation.missing()
        except BatchPipelineError as error:
            failure = DeploymentFailed(f"Could not prepare {title}: {error.message} {hint}")
            # Who tries again by it must know another driver and a deaf store from what can never be made.
            failure.exit_code = error.exit_code
            raise failure from error
        if reason:
            raise DeploymentFailed(f"{title} was made and is still missing ({reason}). {hint}")
        _LOG.info("prepared %s", preparation.name)
