"""Jobs as tasks of a pool, and the pilots that are launched for them; what every backend promises is in `contract`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.backends.base import After, JobRequest, JobState
from batch_pipeline.backends.definitions import named, pilot_definition, resources
from batch_pipeline.backends.limits import check
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.backends.parsing import attempts_of
from batch_pipeline.backends.payload import submit_json
from batch_pipeline.config import Settings, load_settings
from batch_pipeline.pool.base import AddReport, Claim, Filter, Settlement
from batch_pipeline.pool.pilots.jobs import BatchLauncher
from batch_pipeline.pool.pooled import PoolBackend
from batch_pipeline.pool.pooled_pilots import MOST_LAUNCHES
from batch_pipeline.pool.settings import local_launcher
from batch_pipeline.pool.stores.memory import MemoryStore
from batch_pipeline.pool.task import TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason, Variable
from batch_pipeline.wire.errors import BackendFailed, PoolFailed, SubmissionUnknown
from batch_pipeline.wire.store import open_store

DEFINITION = named(
    {
        "jobDefinitionName": "d",
        "type": "container",
        "timeout": {"attemptDurationSeconds": 90},
        "retryStrategy": {"attempts": 3},
        "containerProperties": {
            "image": "i",
            "resourceRequirements": [{"type": "VCPU", "value": "2"}, {"type": "MEMORY", "value": "64"}],
        },
    }
)


class Paper:
    """Launches pilots on paper."""

    def __init__(self) -> None:
        self.there = 0
        self.launched: list[int] = []

    def alive(self, resource_class: str) -> int:
        return self.there

    def launch(self, resource_class: str, count: int) -> str:
        self.there += count
        self.launched.append(count)
        return ""


class World:
    def __init__(self, folder: Path, *, pilots: int = 2, pool: MemoryStore | None = None) -> None:
        settings = load_settings({"backend.name": "embedded", "pool.pilots": pilots}, environ={}, folder=folder)
        self.pool = pool or MemoryStore()
        self.paper = Paper()
        self.backend = PoolBackend(settings, opened=lambda: self.pool, launcher=self.paper, now_ms=lambda: 1)

    def submit(self, name: str, size: int, after: Sequence[After] = (), **more: Any) -> str:
        request = JobRequest(name=name, queue="q", size=size, definition=DEFINITION, environment={"A": "1"}, **more)
        return self.backend.submit(JobRequest(**{**vars(request), "after": tuple(after)}))

    def end(self, claims: Sequence[Claim], *, failed: Sequence[str] = ()) -> None:
        reasons = [EndReason.STEP_FAILED if claim.id in failed else EndReason.FINISHED for claim in claims]
        ends = [
            Settlement(
                claim=claim, outcome=TaskOutcome(end_reason=reason, exit_code=int(reason is not EndReason.FINISHED))
            )
            for claim, reason in zip(claims, reasons, strict=True)
        ]
        self.pool.settle(ends, now_ms=1)

    def claim(self, count: int = 10_000) -> list[Claim]:
        return self.pool.claim("p", count, lease_ms=1000, now_ms=1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def spec_of(world: World, name: str) -> TaskSpec:
    task = world.pool.get(name)
    assert task is not None
    return task.spec


def test_a_child_is_a_task_with_batchs_own_variables(world: World) -> None:
    array = world.submit("array", 2, tags={"batch-pipeline-step": "picard"})
    plain = world.submit("plain", 1)
    spec = spec_of(world, f"{array}/1")
    assert (spec.parent, spec.resource_class, spec.time_limit_seconds, spec.most_returns) == (array, "picard", 90, 2)
    assert spec.command == ("python3", "-m", "batch_pipeline.container")
    assert spec.environment == {
        "A": "1",
        Variable.JOB_ID: f"{array}:1",
        Variable.QUEUE: "q",
        Variable.ARRAY_INDEX: "1",
        Variable.ARRAY_SIZE: "2",
    }
    assert Variable.ARRAY_INDEX not in spec_of(world, f"{plain}/0").environment


def test_a_gather_over_many_waits_through_joins(world: World) -> None:
    array = world.submit("array", 250)
    gather = world.submit("gather", 1, [After(native_id=array, index_by_index=False)])
    spec = spec_of(world, f"{gather}/0")
    assert len(spec.after) == 3
    joined = [name for join in spec.after for name in spec_of(world, join).after]
    assert sorted(joined) == sorted(f"{array}/{index}" for index in range(250))
    assert world.backend.summaries([gather])[gather].counts == {JobState.PENDING: 1}
    world.end(world.claim())
    world.end(world.claim())
    [last] = world.claim()
    assert last.id == f"{gather}/0"


def test_a_gather_behind_joins_does_not_run_when_one_failed(world: World) -> None:
    array = world.submit("array", 250)
    gather = world.submit("gather", 1, [After(native_id=array, index_by_index=False)])
    world.end(world.claim(), failed=[f"{array}/7"])
    [child] = world.backend.children(gather, list(JobState))
    assert child.state is JobState.PENDING
    # The array has ended and is asked for no more.
    assert world.backend.summaries([gather])[gather].state is JobState.FAILED
    [child] = world.backend.children(gather, list(JobState))
    assert child.end_reason is EndReason.DEPENDENCY


def test_pilots_are_launched_when_somebody_looks_and_again_when_they_ended(world: World) -> None:
    array = world.submit("array", 5)
    assert world.paper.launched == []
    world.backend.summaries([array])
    world.backend.summaries([array])
    assert world.paper.launched == [2]
    world.end(world.claim(3))
    world.paper.there = 0
    world.backend.summaries([array])
    assert world.paper.launched == [2, 2]
    world.end(world.claim())
    world.paper.there = 0
    world.backend.summaries([array])
    assert world.paper.launched == [2, 2]


def test_there_are_no_more_pilots_than_tasks(tmp_path: Path) -> None:
    world = World(tmp_path, pilots=50)
    world.backend.summaries([world.submit("array", 3)])
    assert world.paper.launched == [3]


def test_what_was_sent_and_never_looked_at_is_not_left_without_pilots(world: World) -> None:
    world.submit("array", 3)
    world.backend.close()
    assert world.paper.launched == [2]


def test_a_look_at_a_run_launches_nothing(world: World) -> None:
    array = world.submit("array", 3)
    other = PoolBackend(load_settings({}, environ={}), opened=lambda: world.pool, launcher=world.paper)
    other.descriptions([array])
    other.close()
    assert world.paper.launched == []


def test_pilots_that_do_nothing_are_given_up(world: World) -> None:
    array = world.submit("array", 3)
    for _ in range(MOST_LAUNCHES):
        world.backend.summaries([array])
        world.paper.there = 0
    with pytest.raises(BackendFailed, match="6 pilots ended without having done anything, and 3 tasks are left"):
        world.backend.summaries([array])


def test_a_task_that_a_dead_pilot_held_goes_back(world: World) -> None:
    array = world.submit("array", 1)
    world.pool.claim("dead", 1, lease_ms=1, now_ms=-10)
    assert world.backend.summaries([array])[array].counts == {JobState.RUNNABLE: 1}


class Away(MemoryStore):
    """A pool that takes tasks and cannot say so, for so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def add(self, *given: Any, **more: Any) -> AddReport:
        report = super().add(*given, **more)
        self.times -= 1
        if self.times >= 0:
            raise PoolFailed("The pool is away.")
        return report


def test_a_lost_answer_is_settled_by_sending_again(tmp_path: Path) -> None:
    world = World(tmp_path, pool=Away(1))
    array = world.submit("array", 3)
    assert world.pool.counts().total == 3
    assert world.backend.find("array", "q") == array


def test_what_stays_in_doubt_is_said_and_found_by_name(tmp_path: Path) -> None:
    world = World(tmp_path, pool=Away(2))
    with pytest.raises(SubmissionUnknown):
        world.submit("array", 3)
    array = world.backend.find("array", "q")
    assert array is not None
    assert world.backend.summaries([array])[array].size == 3
    assert world.pool.find(Filter(states=frozenset({TaskState.TODO}))).tasks[0].spec.parent == array


def test_attempts_are_told_as_aws_tells_them(world: World) -> None:
    array, plain = world.submit("array", 2), world.submit("plain", 1)
    claims = {claim.id: claim for claim in world.claim()}
    world.pool.release([claims[f"{array}/1"]], now_ms=1, why="interrupted", counted=True)
    again = world.pool.claim("p", 1, lease_ms=1000, now_ms=1)
    killed = TaskOutcome(
        end_reason=EndReason.OUT_OF_MEMORY, exit_code=137, error="killed", log_tail="the last\nwords\n"
    )
    world.pool.settle([Settlement(claim=again[0], outcome=killed)], now_ms=1)
    told = world.backend.descriptions([f"{array}:0", f"{array}:1", array, plain, "nothing"])
    assert [attempts_of(told[name]) for name in (f"{array}:0", f"{array}:1", plain)] == [1, 2, 1]
    assert told[array]["tasks"] == {"held": 1, "failed": 1}
    assert "nothing" not in told
    assert list(world.backend.logs(array, 1)) == list(world.backend.logs(array, 1, 2)) == ["the last", "words"]
    assert list(world.backend.logs(array, 1, 1)) == []


# Pilots as processes.


def test_pilots_here_have_the_settings_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever says them: an option, the environment or a settings file that the pilots would not read."""
    monkeypatch.chdir(tmp_path)
    told = {"store.url": "some/folder", "store.prefix": "p", "aws.region": "eu-west-1", "pool.lease_seconds": 7}
    settings = load_settings({**told, "backend.name": "embedded", "params.times": 3}, environ={}, folder=tmp_path)
    made = local_launcher(settings, "sqlite:x", ("--items", "2"))
    assert made.command[3:] == (
        *("pool", "work", "--pool", "sqlite:x", "--store", str(tmp_path / "some/folder/p")),
        *("--prefix", "", "--items", "2"),
    )
    assert made.environment["BATCH_PIPELINE__AWS__REGION"] == "eu-west-1"
    assert made.environment["BATCH_PIPELINE__POOL__LEASE_SECONDS"] == "7.0"
    assert "BATCH_PIPELINE__PARAMS__TIMES" not in made.environment
    repository = str(Path(__file__).resolve().parents[2])
    assert made.environment["PYTHONPATH"].split(":")[0] == repository


# Pilots as array jobs.


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """vCPUs and MiB of the pilots, of each launcher that was made; all of them end at once."""
    found: list[tuple[int, int]] = []

    def make(settings: Settings, *, cpus: int, memory_mb: int) -> Paper:
        found.append((cpus, memory_mb))
        paper = Paper()
        monkeypatch.setattr(paper, "alive", lambda resource_class: 0)
        return paper

    monkeypatch.setattr("batch_pipeline.pool.pooled_pilots.run_launcher", make)
    return found


def cell(folder: Path, name: str, memory_mb: int | None = None) -> JobRequest:
    """A job with its manifest in a store."""
    store = open_store(str(folder))
    key = f"runs/R/submissions/{name}/manifest.json"
    store.put_json(key, {"cpus": 2, "memory_mb": memory_mb or 64})
    told = {Variable.STORE: store.url, Variable.MANIFEST: key}
    return JobRequest(name=name, queue="q", size=2, definition=DEFINITION, environment=told, memory_mb=memory_mb)


def test_whoever_follows_a_run_launches_pilots_with_room_for_its_cells(
    tmp_path: Path, made: list[tuple[int, int]]
) -> None:
    pool = MemoryStore()
    settings = load_settings({"backend.name": "aws", "pool.pilots": 2, "store.url": str(tmp_path)}, environ={})
    sender = PoolBackend(settings, opened=lambda: pool, launcher=Paper())
    names = [sender.submit(cell(tmp_path, "small")), sender.submit(cell(tmp_path, "large", memory_mb=128))]

    PoolBackend(settings, opened=lambda: pool).summaries(names)

    assert made == [(2, 128)]


def test_what_goes_again_with_more_memory_gets_larger_pilots(tmp_path: Path, made: list[tuple[int, int]]) -> None:
    pool = MemoryStore()
    settings = load_settings({"backend.name": "aws", "pool.pilots": 2, "store.url": str(tmp_path)}, environ={})
    backend = PoolBackend(settings, opened=lambda: pool)

    backend.summaries([backend.submit(cell(tmp_path, "first"))])
    backend.summaries([backend.submit(cell(tmp_path, "again", memory_mb=128))])

    assert made == [(2, 64), (2, 128)]


def launcher(backend: MemoryBackend, folder: Path, *, url: str = "dynamodb://table") -> BatchLauncher:
    settings = aws(folder)
    definition = pilot_definition(settings, cpus=4, memory_mb=8000)
    store = open_store(str(folder))
    return BatchLauncher(backend, settings, store, url, ("--items", "4"), definition)


def aws(folder: Path) -> Settings:
    told = {
        "backend.name": "aws",
        "backend.queue": "spot",
        "pool.image": "registry/pilot@sha256:1",
        "tags.owner": "ada",
    }
    return load_settings({**told, "aws.job_role": "arn:role"}, environ={}, folder=folder)


def test_pilots_are_one_array_job_in_an_image_of_their_own(tmp_path: Path) -> None:
    backend = MemoryBackend()
    assert launcher(backend, tmp_path).launch("gpu", 3).startswith("queued 3 pilots as job ")
    [job] = backend.jobs.values()
    request = job.request
    check(request, backend.limits())
    assert (request.queue, request.size, resources(request.definition)) == ("spot", 3, (4, 8000))
    container = request.definition["containerProperties"]
    assert (container["image"], container["jobRoleArn"]) == ("registry/pilot@sha256:1", "arn:role")
    assert "$" not in str(request.definition)
    assert list(request.command) == [
        *("pilot", "--pool", "dynamodb://table", "--store", f"file://{tmp_path}"),
        *("--class", "gpu", "--items", "4"),
    ]
    assert request.environment[Variable.FILE_TYPE] == "script"
    assert (tmp_path / "pool/pilot.sh").read_bytes().startswith(b"#!/bin/sh\nexec ")
    assert submit_json(request)["arrayProperties"] == {"size": 3}


def test_pilots_that_are_queued_or_at_work_are_counted_by_pool_and_class(tmp_path: Path) -> None:
    backend = MemoryBackend()
    launcher(backend, tmp_path).launch("gpu", 3)
    launcher(backend, tmp_path).launch("", 1)
    launcher(backend, tmp_path, url="dynamodb://other").launch("gpu", 5)
    again = launcher(backend, tmp_path)
    assert (again.alive("gpu"), again.alive(""), again.alive("cpu")) == (3, 1, 0)
    native_id = next(name for name, job in backend.jobs.items() if job.request.size == 3)
    backend.finish(native_id, 0, 0)
    assert again.alive("gpu") == 2
    for index in (1, 2):
        backend.finish(native_id, index, 75)
    assert again.alive("gpu") == 0
    kept = Counter(path.suffix for path in (tmp_path / "pool/pilots").iterdir())
    assert kept[".json"] == 2
