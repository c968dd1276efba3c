"""The retry strategy: whether a failed attempt is followed by another, as Batch's `evaluateOnExit` says.

https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html: rules are tried in order, all given conditions of a
rule must fit, the first rule that fits decides, and where none fits the job is retried.
"""

from __future__ import annotations

from batch_pipeline.localbatch.engine.job import AttemptOutcome, JobSpec, Rule

#: What AWS writes when a container ended by itself, whatever its exit code.
CONTAINER_EXITED = "Essential container in task exited"
TIMED_OUT = "Job attempt duration exceeded timeout"
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
HOST_LOST = "Host EC2 (instance i-embedded) terminated."
DEPENDENCY_FAILED = "Dependent Job failed"
CHILD_FAILED = "Array Child Job failed"
#: The job waits for room that jobs of other stores take, which follow; AWS has no such words.
HELD = "CAPACITY:HELD_BY_OTHERS - The vCPUs and memory of this machine are taken by jobs of"
#: The job waits for ever; AWS annotates the head of the queue so.
TOO_LARGE = (
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement (vCPU/memory/GPU) is higher than that "
    "can be met by the CE(s) attached to the job queue."
)


def tries_again(spec: JobSpec, tries: int, outcome: AttemptOutcome) -> bool:
    """Tells whether an attempt that failed by itself is followed by another one."""
    if tries >= spec.attempts:
        return False
    return next((rule.retry for rule in spec.rules if _fits(rule, outcome)), True)


def _fits(rule: Rule, outcome: AttemptOutcome) -> bool:
    code = None if outcome.exit_code is None else str(outcome.exit_code)
    return (
        _matches(rule.on_status_reason, outcome.status_reason or CONTAINER_EXITED)
        and _matches(rule.on_reason, outcome.reason)
        and _matches(rule.on_exit_code, code)
    )


def _matches(pattern: str | None, text: str | None) -> bool:
    """A pattern is the whole text, or its beginning and a star; one that is not given always fits."""
    if pattern is None:
        return True
    if pattern.endswith("*"):
        return (text or "").startswith(pattern[:-1])
    return text == pattern
