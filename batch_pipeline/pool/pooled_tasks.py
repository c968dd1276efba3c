"""Jobs as tasks of a pool, and tasks as the jobs that they are. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final

from batch_pipeline.backends.base import ArrayChild, JobRequest, JobState, JobSummary
from batch_pipeline.backends.parsing import forgotten
from batch_pipeline.backends.payload import OWN_TAGS
from batch_pipeline.pool.task import DEFAULT_CLASS, Nest, Task, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason, Variable
from batch_pipeline.wire.native_id import NativeId

#: Pilots of other languages and images run it as it stands; ours takes its own interpreter.
CELL: Final = ("python3", "-m", "batch_pipeline.container")
#: Characters of a queue's name in ids, which may have 255.
MOST_OF_QUEUE: Final = 40
STATES: Final[Mapping[TaskState, JobState]] = {
    TaskState.WAITING: JobState.PENDING,
    TaskState.TODO: JobState.RUNNABLE,
    TaskState.HELD: JobState.RUNNING,
    TaskState.DONE: JobState.SUCCEEDED,
    TaskState.FAILED: JobState.FAILED,
    TaskState.CANCELLED: JobState.FAILED,
}


def ids_of(name: str, queue: str) -> Iterator[str]:
    """The ids that jobs of a name get, the first one first; names are a run's own, so there is one as a rule."""
    base = f"{name}@{queue.rpartition('/')[2][:MOST_OF_QUEUE]}"
    return (base if number == 1 else f"{base}~{number}" for number in count(1))


def job_name_of(native_id: str) -> str:
    """The name that a job was submitted by, from one of `ids_of`."""
    return native_id.rpartition("@")[0]


def task_id(job: str, index: int) -> str:
    """The task of a child of a job."""
    return f"{job}/{index}"


def index_of(task: Task) -> int:
    """The index of the child that a task is."""
    return int(task.id.rpartition("/")[2])


def joins_of(job: str) -> str:
    """What the ids of the joins begin with that tasks of a job wait for."""
    return f"{job}/after/"


def task_id_of(child: NativeId) -> str:
    """The task of a child, or of a plain job."""
    return task_id(child.job, child.index or 0)


def task_of(native_id: str, request: JobRequest, index: int, waits: Sequence[tuple[str, ...]]) -> TaskSpec:
    """The task of a child, which waits for what `waits` names."""
    strategy = request.definition.get("retryStrategy") or {}
    timeout = request.definition.get("timeout") or {}
    is_array = request.size > 1
    own = {Variable.JOB_ID: str(NativeId.of_child(native_id, index, is_array=is_array)), Variable.QUEUE: request.queue}
    if is_array:
        own |= {Variable.ARRAY_INDEX: str(index), Variable.ARRAY_SIZE: str(request.size)}
    return TaskSpec(
        id=task_id(native_id, index),
        command=tuple(request.command) or CELL,
        resource_class=request.tags.get(OWN_TAGS[-1]) or DEFAULT_CLASS,
        environment={**request.environment, **own},
        after=tuple(dict.fromkeys(name for ids in waits for name in ids)),
        most_returns=max(0, int(strategy.get("attempts", 1)) - 1),
        time_limit_seconds=request.timeout_seconds or timeout.get("attemptDurationSeconds"),
        parent=native_id,
    )


def summary_of(name: str, nest: Nest | None) -> JobSummary:
    """The job whose tasks these are; None: there are none."""
    if nest is None:
        return forgotten(name)
    counts: dict[JobState, int] = {}
    for task_state, number in nest.counts.items():
        if number:
            counts[STATES[task_state]] = counts.get(STATES[task_state], 0) + number
    is_array = nest.size > 1
    if not all(state.final for state in counts):
        state = JobState.PENDING if is_array else next(iter(counts))
    else:
        state = JobState.FAILED if counts.get(JobState.FAILED) else JobState.SUCCEEDED
    return JobSummary(
        native_id=name, name=job_name_of(name), state=state, counts=counts, size=nest.size, is_array=is_array
    )


def child_of(task: Task) -> ArrayChild:
    """The child that a task is."""
    state, outcome = STATES[task.state], task.outcome
    return ArrayChild(
        index=index_of(task),
        state=state,
        end_reason=_reason(task) if state.final else None,
        exit_code=outcome.exit_code if outcome else None,
        status_reason=task.reason or (outcome.error if outcome else ""),
    )


def _reason(task: Task) -> EndReason:
    if task.state is TaskState.CANCELLED:
        # A waiting task has a reason only when what it needs will not come.
        return EndReason.DEPENDENCY if task.reason else EndReason.CANCELLED
    return task.outcome.end_reason if task.outcome else EndReason.LOST


def attempts_of(task: Task) -> int:
    """How many attempts have begun, one that runs included."""
    return task.attempts + task.returns + (task.state in (TaskState.HELD, TaskState.DONE))


def attempts_json(task: Task) -> dict[str, Any]:
    """A task's attempts as AWS describes those of a child."""
    streams = [f"{task.id}/{number}" for number in range(1, attempts_of(task) + 1)]
    return {
        "status": STATES[task.state].value,
        "attempts": [{"container": {"logStreamName": stream}} for stream in streams],
        **({"statusReason": task.reason or task.outcome.error} if task.outcome else {}),
    }


def description_of(name: str, nest: Nest, pool: str) -> dict[str, Any]:
    """A job in the pool's words."""
    tasks = {state.value: number for state, number in nest.counts.items()}
    return {"jobName": job_name_of(name), "pool": pool, "tasks": tasks}
