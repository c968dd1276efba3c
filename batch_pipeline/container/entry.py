"""One container life: a cell of a pipeline or a driver if the environment names one, else awslabs' fetch-and-run.

The same function is the image's ENTRYPOINT (`python -m batch_pipeline.container`) and what a warm worker of the
embedded Batch calls thousands of times. It leaves the process as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence

from batch_pipeline.container.log import say
from batch_pipeline.container.logger import log_run
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.container.run import GRACE_SECONDS, Signals
from batch_pipeline.container.verdict import exit_code_of, say_traceback
from batch_pipeline.wire.contract import ContainerExit, Variable
from batch_pipeline.wire.errors import BatchPipelineError


def run_child(
    environment: Mapping[str, str],
    arguments: Sequence[str],
    things: MutableMapping[str, object],
    *,
    grace_seconds: float = GRACE_SECONDS,
) -> int:
    """Lives one container's life in this process and returns its exit code; never raises.

    Must be called in the main thread, with the log as descriptors 1 and 2. `things` keeps between lives what need not
    be made again. Leaves working directory, environment, signal handlers and descriptors as they were.
    """
    if environment.get(Variable.JOIN):
        return int(ContainerExit.DONE)
    cache = ProcessCache(things, environment)
    log_run("")
    try:
        with Signals(grace_seconds) as signals:
            # Imported when needed: each of the three has nothing to do with the others.
            if environment.get(Variable.DRIVER):
                from batch_pipeline.container.driver import run_driver

                return int(run_driver(environment, cache, signals))
            if environment.get(Variable.MANIFEST):
                from batch_pipeline.container.cell import run_cell

                return int(run_cell(environment, cache, signals))
            from batch_pipeline.container.payload import run_payload

            return int(run_payload(environment, arguments, cache, signals))
    except BatchPipelineError as error:
        say(error.message)
        return int(exit_code_of(error))
    except Exception as error:  # The border: whatever we did not think of ends one cell, not the worker.
        say_traceback(error)
        return int(ContainerExit.STEP_FAILED)
