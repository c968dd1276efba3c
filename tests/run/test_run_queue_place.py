"""Where jobs that wait stand in their queue: in words, in `watch` and in `status`."""

from __future__ import annotations

from datetime import datetime

import pytest

from batch_pipeline.backends.account import QueueSnapshot
from batch_pipeline.records.events import StepProgress
from batch_pipeline.run.queue_place import place_words, queue_place
from batch_pipeline.run.watch import PLACE_SECONDS, Watch
from tests.localbatch.conftest import define, submit
from tests.run.small import Ear, Stage, drive, look, new_store, request_of
from tests.run.virtual import World

TODAY = int(datetime.now().astimezone().replace(hour=0, minute=2).timestamp() * 1000)


def front(*native_ids: str, since: int = TODAY) -> tuple[tuple[str, int], ...]:
    return tuple((native_id, since) for native_id in native_ids)


@pytest.mark.parametrize(
    ("snapshot", "words"),
    [
        (
            QueueSnapshot(front=front(*map(str, range(36)), "ours:4", "ours:5"), vcpus=412.0),
            "412 vCPUs of queue mixed are in use; its first job is 37th since 00:02.",
        ),
        (QueueSnapshot(front=front("x", "ours", since=0), vcpus=None), "Its first job is 2nd."),
        (
            QueueSnapshot(front=front("ours"), vcpus=0.5),
            "0.5 vCPUs of queue mixed are in use; its first job is 1st since 00:02.",
        ),
        (
            QueueSnapshot(front=front(*map(str, range(100))), vcpus=1412.0),
            "1,412 vCPUs of queue mixed are in use; its jobs are behind the first 100.",
        ),
        (QueueSnapshot(front=front("x"), vcpus=412.0), ""),
    ],
)
def test_a_place_in_words(snapshot: QueueSnapshot, words: str) -> None:
    assert place_words(snapshot, "mixed", {"ours"}) == words


def test_a_time_of_another_day_has_its_date() -> None:
    assert "1st since 1970-01-0" in place_words(QueueSnapshot(front=front("ours", since=1), vcpus=None), "q", {"ours"})


def test_the_queue_is_asked_once_a_minute_while_jobs_wait_and_none_runs() -> None:
    store = new_store()
    stage = Stage(store)
    stage.is_open = False
    drive(request_of(store), stage, detach=True)
    snapshot = look(request_of(store), stage)
    now, asked, told = [0.0], [], []
    jobs = snapshot.jobs
    answers = iter(["3rd", "3rd", "2nd"])

    def place(queue: str, native_ids: object) -> str:
        asked.append(now[0])
        return next(answers)

    def sleep(seconds: float) -> None:
        now[0] += 10.0
        stage.is_open = now[0] > 3.5 * PLACE_SECONDS

    class Hearing(Ear):
        def stuck(self, step: str, sentence: str) -> None:
            told.append((step, sentence))

        def progressed(self, progress: object) -> None:
            assert progress

    watch = Watch(snapshot.plan, stage, jobs, place=place, sleep=sleep, clock=lambda: now[0])
    ended = watch.until_over(Hearing())
    assert all(isinstance(step, StepProgress) and step.over for step in ended.values())
    assert asked == [60.0, 120.0, 180.0]
    assert told == [("upper", "3rd"), ("upper", "2nd")]


def test_the_embedded_batch_tells_the_place_in_one_call() -> None:
    world = World(new_store())
    world.batch.queue("mixed")
    client = world.batch.client("batch")
    define(client)
    world.batch.starve("mixed")
    first, ours = (submit(client, name, 3, jobQueue="mixed") for name in ("first", "ours"))
    before = len(world.batch.calls)
    assert queue_place(world.backend(), "mixed", [ours]).startswith(
        "0 vCPUs of queue mixed are in use; its first job is 4th"
    )
    assert [call.operation for call in list(world.batch.calls)[before:]] == ["GetJobQueueSnapshot"]
    assert queue_place(world.backend(), "mixed", [first]).startswith(
        "0 vCPUs of queue mixed are in use; its first job is 1st"
    )
    assert queue_place(world.backend(), "nowhere", [ours]) == ""
    assert queue_place(object(), "mixed", [ours]) == ""
