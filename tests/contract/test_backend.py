"""What every backend promises, over all of them: the twin in memory, AWS's calls on a virtual Batch, and the server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest

from batch_pipeline.backends import create
from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.base import After, ArrayChild, Backend, JobRequest, JobState
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.definitions import named
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.testing import VirtualBatch
from batch_pipeline.pool.base import Claim, Settlement
from batch_pipeline.pool.pooled import PoolBackend
from batch_pipeline.pool.stores.memory import MemoryStore
from batch_pipeline.pool.task import TaskOutcome
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import SubmissionRefused

QUEUE = "mixed"
#: Job name -> index -> exit code, or None for a child that never ends by itself. Others end with 0.
Script = dict[str, dict[int, int | None]]
ENDED = (JobState.SUCCEEDED, JobState.FAILED)


class World(Protocol):
    """A backend, and a way to let its jobs happen. Each child writes `child <index>` to its log."""

    script: Script

    @property
    def backend(self) -> Backend:
        """The one under test."""

    def prepare(self, name: str, size: int) -> None:
        """Called before a job is submitted, when its script is known."""

    def settle(self, native_ids: Sequence[str]) -> None:
        """Lets time pass until these jobs have ended."""


class MemoryWorld:
    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self.script: Script = {}

    def prepare(self, name: str, size: int) -> None:
        pass

    def settle(self, native_ids: Sequence[str]) -> None:
        while ready := [key for key in self.backend.ready() if self._code(*key) is not None]:
            for native_id, index in ready:
                self.backend.finish(native_id, index, self._code(native_id, index), log=[f"child {index}"])

    def _code(self, native_id: str, index: int) -> int | None:
        return self.script[self.backend.jobs[native_id].request.name].get(index, 0)


class VirtualWorld:
    def __init__(self, folder: Path) -> None:
        self.batch = VirtualBatch(queues=())
        settings = load_settings({"backend.name": "embedded"}, environ={}, folder=folder)
        self.backend = BatchBackend(settings, clients=Clients(attached_maker(self.batch.attach)))
        self.script: Script = {}

    def prepare(self, name: str, size: int) -> None:
        for index in range(size):
            code = self.script[name].get(index, 0)
            never = code is None
            self.batch.outcome(name, index, seconds=None if never else 1.0, exit_code=code or 0, log=f"child {index}\n")

    def settle(self, native_ids: Sequence[str]) -> None:
        self.batch.run_until_idle()


class EmbeddedWorld:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.script: Script = {}

    def prepare(self, name: str, size: int) -> None:
        pass

    def settle(self, native_ids: Sequence[str]) -> None:
        deadline = time.monotonic() + 60
        while not all(job.state.final for job in self.backend.summaries(native_ids).values()):
            assert time.monotonic() < deadline, "The jobs do not end."
            time.sleep(0.02)


class Paper:
    """Launches pilots on paper; the world does their work."""

    def alive(self, resource_class: str) -> int:
        return 1

    def launch(self, resource_class: str, count: int) -> str:
        return ""


class PoolWorld:
    def __init__(self, folder: Path) -> None:
        self.pool = MemoryStore()
        settings = load_settings({"backend.name": "embedded", "pool.pilots": 1}, environ={}, folder=folder)
        self.backend = PoolBackend(settings, opened=lambda: self.pool, launcher=Paper(), now_ms=lambda: 1)
        self.script: Script = {}

    def prepare(self, name: str, size: int) -> None:
        pass

    def settle(self, native_ids: Sequence[str]) -> None:
        while True:
            self.backend.summaries(native_ids)
            claims = self.pool.claim("p", 100, lease_ms=1000, now_ms=1)
            if not claims:
                break
            self.pool.settle([one for claim in claims if (one := self._end(claim)) is not None], now_ms=1)

    def _end(self, claim: Claim) -> Settlement | None:
        job, _, index = claim.id.rpartition("/")
        code = self.script[job.partition("@")[0]].get(int(index), 0)
        if code is None:
            return None
        reason = EndReason.of_exit(code)
        return Settlement(
            claim=claim, outcome=TaskOutcome(end_reason=reason, exit_code=code, log_tail=f"child {index}\n")
        )


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    from batch_pipeline.localbatch.client import stop

    folder = tmp_path_factory.mktemp("batch")
    flags = {"embedded.state": str(folder), "embedded.vcpus": 2, "embedded.memory_mb": 1024}
    backend = create(load_settings(flags, environ={}, folder=folder))
    yield backend
    backend.close()
    stop(folder)


@pytest.fixture(params=["memory", "virtual", "pool", pytest.param("embedded", marks=pytest.mark.engine)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "memory":
        return MemoryWorld()
    if request.param == "virtual":
        return VirtualWorld(tmp_path)
    if request.param == "pool":
        return PoolWorld(tmp_path)
    return EmbeddedWorld(request.getfixturevalue("embedded"))


_numbers = count()
DEFINITION = named(
    {
        "jobDefinitionName": "contract",
        "type": "container",
        "containerProperties": {
            "image": "batch_pipeline/none",
            "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "64"}],
        },
    }
)


def _request(
    world: World, size: int = 3, codes: Mapping[int, int | None] | None = None, *, name: str = "", **more: Any
) -> JobRequest:
    name = name or f"job-{next(_numbers)}"
    world.script[name] = dict(codes or {})
    cases = "".join(
        f" {index}) {'exec sleep 600' if code is None else f'exit {code}'};;"
        for index, code in world.script[name].items()
    )
    child = "${AWS_BATCH_JOB_ARRAY_INDEX:-0}"
    command = ("sh", "-c", f'echo "child {child}"; case {child} in{cases} *) exit 0;; esac')
    world.prepare(name, size)
    return JobRequest(
        name=name,
        queue=QUEUE,
        size=size,
        definition=DEFINITION,
        environment={"A": "1"},
        command=command,
        tags={"owner": "ada"},
        **more,
    )


def _submit(world: World, size: int = 3, codes: Mapping[int, int | None] | None = None, **more: Any) -> str:
    return world.backend.submit(_request(world, size, codes, **more))


def _each(*native_ids: str) -> list[After]:
    return [After(native_id=native_id, index_by_index=True) for native_id in native_ids]


def _whole(*native_ids: str) -> list[After]:
    return [After(native_id=native_id, index_by_index=False) for native_id in native_ids]


def _ended(world: World, native_id: str) -> dict[int, ArrayChild]:
    return {child.index: child for child in world.backend.children(native_id, ENDED)}


def _reasons(world: World, native_id: str) -> dict[int, EndReason | None]:
    return {index: child.end_reason for index, child in sorted(_ended(world, native_id).items())}


def test_a_job_that_was_submitted_is_there(world: World) -> None:
    request = _request(world)
    native_id = world.backend.submit(request)
    job = world.backend.summaries([native_id])[native_id]
    assert (job.native_id, job.name, job.size, job.is_array) == (native_id, request.name, 3, True)
    assert job.state is not JobState.UNKNOWN
    assert sum(job.counts.values()) == 3


def test_a_job_is_found_by_its_exact_name_and_queue(world: World) -> None:
    backend = world.backend
    first = _submit(world, name=f"Name-{next(_numbers)}")
    name = backend.summaries([first])[first].name
    assert backend.find(name, QUEUE) == first
    assert backend.find(name.lower(), QUEUE) is None
    assert backend.find(name[:-1], QUEUE) is None
    assert backend.find(name, "other") is None
    second = _submit(world, name=name)
    assert backend.find(name, QUEUE) == second != first


def test_a_job_is_found_after_it_has_ended(world: World) -> None:
    request = _request(world, 1)
    native_id = world.backend.submit(request)
    world.settle([native_id])
    assert world.backend.find(request.name, QUEUE) == native_id


def test_a_forgotten_job_is_unknown_and_no_error(world: World) -> None:
    known, unknown = _submit(world), "11111111-2222-4333-8444-555555555555"
    jobs = world.backend.summaries([unknown, known])
    assert list(jobs) == [unknown, known]
    assert jobs[unknown].state is JobState.UNKNOWN
    assert list(world.backend.children(unknown, list(JobState))) == []
    assert list(world.backend.logs(unknown, 0)) == []
    world.backend.cancel(unknown, "enough")


def test_an_array_succeeds_when_all_its_children_do(world: World) -> None:
    native_id = _submit(world)
    world.settle([native_id])
    job = world.backend.summaries([native_id])[native_id]
    assert (job.state, job.counts) == (JobState.SUCCEEDED, {JobState.SUCCEEDED: 3})
    assert _reasons(world, native_id) == dict.fromkeys(range(3), EndReason.FINISHED)


def test_a_failed_child_tells_its_exit_code_and_reason(world: World) -> None:
    codes = {0: 1, 1: 65, 2: 66, 3: 64, 4: 69, 5: 74, 6: 75, 7: 0}
    native_id = _submit(world, 8, codes)
    world.settle([native_id])
    job = world.backend.summaries([native_id])[native_id]
    assert (job.state, job.counts) == (JobState.FAILED, {JobState.SUCCEEDED: 1, JobState.FAILED: 7})
    assert {index: child.exit_code for index, child in _ended(world, native_id).items()} == codes
    assert _reasons(world, native_id) == {
        0: EndReason.STEP_FAILED,
        1: EndReason.INVALID_OUTPUT,
        2: EndReason.MISSING_INPUT,
        3: EndReason.CONTRACT,
        4: EndReason.STORE,
        5: EndReason.DISK_FULL,
        6: EndReason.INTERRUPTED,
        7: EndReason.FINISHED,
    }


def test_children_are_given_by_state(world: World) -> None:
    native_id = _submit(world, 3, {1: 1})
    world.settle([native_id])
    backend = world.backend
    assert [child.index for child in backend.children(native_id, [JobState.FAILED])] == [1]
    assert sorted(child.index for child in backend.children(native_id, [JobState.SUCCEEDED])) == [0, 2]
    assert list(backend.children(native_id, [JobState.RUNNING, JobState.PENDING])) == []
    assert list(backend.children(native_id, [])) == []


def test_a_plain_job_is_its_own_child(world: World) -> None:
    native_id = _submit(world, 1, {0: 65})
    world.settle([native_id])
    job = world.backend.summaries([native_id])[native_id]
    assert (job.size, job.is_array, job.counts) == (1, False, {JobState.FAILED: 1})
    (child,) = world.backend.children(native_id, ENDED)
    assert (child.index, child.exit_code, child.end_reason) == (0, 65, EndReason.INVALID_OUTPUT)


def test_index_by_index_a_failure_stops_its_own_index_alone(world: World) -> None:
    first = _submit(world, 3, {1: 1})
    second = _submit(world, 3, after=_each(first))
    third = _submit(world, 3, {2: 1}, after=_each(first, second))
    world.settle([first, second, third])
    assert _reasons(world, second) == {0: EndReason.FINISHED, 1: EndReason.DEPENDENCY, 2: EndReason.FINISHED}
    assert _reasons(world, third) == {0: EndReason.FINISHED, 1: EndReason.DEPENDENCY, 2: EndReason.STEP_FAILED}


def test_index_by_index_waits_for_a_job_that_has_ended(world: World) -> None:
    first = _submit(world, 2, {0: 1})
    world.settle([first])
    second = _submit(world, 2, after=_each(first))
    world.settle([second])
    assert _reasons(world, second) == {0: EndReason.DEPENDENCY, 1: EndReason.FINISHED}


def test_a_gather_waits_for_whole_jobs(world: World) -> None:
    arrays = [_submit(world, 2), _submit(world, 3)]
    gather = _submit(world, 1, after=_whole(*arrays))
    world.settle([gather])
    assert _reasons(world, gather) == {0: EndReason.FINISHED}
    assert all(job.state is JobState.SUCCEEDED for job in world.backend.summaries(arrays).values())


def test_a_gather_does_not_run_when_a_child_failed(world: World) -> None:
    array = _submit(world, 3, {1: 1})
    gather, scatter = _submit(world, 1, after=_whole(array)), _submit(world, 2, after=_whole(array))
    world.settle([gather, scatter])
    assert _reasons(world, gather) == {0: EndReason.DEPENDENCY}
    assert _reasons(world, scatter) == {0: EndReason.DEPENDENCY, 1: EndReason.DEPENDENCY}


def test_a_log_is_its_childs_own(world: World) -> None:
    native_id = _submit(world, 3, {1: 1})
    waits = _submit(world, 3, after=_each(native_id))
    world.settle([native_id, waits])
    assert [list(world.backend.logs(native_id, index)) for index in range(3)] == [["child 0"], ["child 1"], ["child 2"]]
    assert list(world.backend.logs(native_id, 1, 1)) == ["child 1"]
    assert list(world.backend.logs(native_id, 1, 2)) == []
    assert list(world.backend.logs(waits, 1)) == []
    plain = _submit(world, 1)
    world.settle([plain])
    assert list(world.backend.logs(plain, 0)) == ["child 0"]


def test_cancelling_ends_a_job_in_whatever_state_it_is(world: World) -> None:
    first = _submit(world, 3, dict.fromkeys(range(3)))
    second = _submit(world, 3, after=_each(first))
    for native_id in (first, second, second, first):
        world.backend.cancel(native_id, "no longer wanted")
    world.settle([first, second])
    jobs = world.backend.summaries([first, second])
    assert all(job.counts == {JobState.FAILED: 3} for job in jobs.values())
    assert set(_reasons(world, first).values()) == {EndReason.CANCELLED}
    assert set(_reasons(world, second).values()) <= {EndReason.CANCELLED, EndReason.DEPENDENCY}


@pytest.mark.parametrize("by", ["id", "index"])
def test_a_child_is_cancelled_and_its_siblings_go_on(by: str, world: World) -> None:
    first = _submit(world, 4, {1: None, 3: None})
    second = _submit(world, 4, after=_each(first))
    for _ in range(2):
        if by == "index":
            world.backend.cancel_children(first, [1, 3], "not these")
        else:
            for index in (1, 3):
                world.backend.cancel(f"{first}:{index}", "not these")
    world.settle([first, second])
    ended = {0: EndReason.FINISHED, 2: EndReason.FINISHED}
    assert _reasons(world, first) == ended | {1: EndReason.CANCELLED, 3: EndReason.CANCELLED}
    assert _reasons(world, second) == ended | {1: EndReason.DEPENDENCY, 3: EndReason.DEPENDENCY}


def test_the_only_child_of_a_plain_job_is_that_job(world: World) -> None:
    native_id = _submit(world, 1, {0: None})
    world.backend.cancel_children(native_id, [0], "not this")
    world.settle([native_id])
    assert _reasons(world, native_id) == {0: EndReason.CANCELLED}


def test_cancelling_what_has_ended_changes_nothing(world: World) -> None:
    native_id = _submit(world, 3, {1: 1})
    world.settle([native_id])
    before = _ended(world, native_id)
    world.backend.cancel(native_id, "too late")
    assert _ended(world, native_id) == before


def test_what_is_refused_was_not_queued(world: World) -> None:
    one = _submit(world, 2)
    unlawful: list[dict[str, Any]] = [
        {"size": 10_001},
        {"size": 3, "after": _each(one)},
        {"size": 1, "after": _each(one)},
        {"size": 2, "after": _whole(*[one] * 21)},
        {"size": 2, "after": _whole("11111111-2222-4333-8444-555555555555")},
    ]
    for case in unlawful:
        request = _request(world, **case) if case["size"] < 100 else _request_of_size(world, case["size"])
        with pytest.raises(SubmissionRefused):
            world.backend.submit(request)
        assert world.backend.find(request.name, QUEUE) is None


def _request_of_size(world: World, size: int) -> JobRequest:
    return replace(_request(world, 2), size=size)


def test_preparing_is_optional_and_may_be_repeated(world: World) -> None:
    world.backend.prepare([DEFINITION])
    world.backend.prepare([DEFINITION, DEFINITION])
    world.backend.prepare([])
    native_id = _submit(world, 1)
    world.settle([native_id])
    assert _reasons(world, native_id) == {0: EndReason.FINISHED}


def test_a_closed_backend_may_be_used_again(world: World) -> None:
    native_id = _submit(world, 2)
    world.backend.close()
    world.settle([native_id])
    assert world.backend.summaries([native_id])[native_id].state is JobState.SUCCEEDED


def test_a_width_lets_all_children_end_and_is_removed_when_they_have(world: World) -> None:
    backend, name = world.backend, f"batch-pipeline-width-{next(_numbers)}"
    if not backend.limits().holds_widths:
        with pytest.raises(SubmissionRefused, match="max_parallel"):
            backend.submit(_request(world, width=name))
        with pytest.raises(SubmissionRefused, match="max_parallel"):
            backend.set_width(name, 1)
        assert (backend.widths(name), backend.remove_width(name)) == ({}, True)
        return
    for children in (1, 2, 2):
        backend.set_width(name, children)
    assert backend.widths(name) == backend.widths(name[:-1]) == {name: 2}
    assert backend.widths(name.upper()) == {}
    native_id = _submit(world, 4, {0: 1, 3: None}, width=name)
    assert not backend.remove_width(name)
    backend.cancel_children(native_id, [3], "enough")
    world.settle([native_id])
    assert len(_ended(world, native_id)) == 4
    assert backend.remove_width(name)
    assert backend.remove_width(name)
    assert backend.widths(name) == {}


def test_a_width_that_is_not_there_is_refused(world: World) -> None:
    with pytest.raises(SubmissionRefused):
        world.backend.submit(_request(world, width="batch-pipeline-absent"))
