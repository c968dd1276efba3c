from __future__ import annotations

import pytest
import stamina

from batch_pipeline.backends.rate_limit import RetryLater, TokenBucket, retry_transient
from batch_pipeline.wire.errors import SubmissionRefused


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    clock = Clock()
    bucket = TokenBucket(50, clock=clock.read, sleep=clock.sleep)
    for _ in range(50):
        bucket.take()
    assert clock.now == 0.0
    for _ in range(100):
        bucket.take()
    assert abs(clock.now - 2.0) < 1e-6


def test_a_rest_gives_no_more_than_one_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(50, clock=clock.read, sleep=clock.sleep)
    clock.now = 1000.0
    for _ in range(100):
        bucket.take()
    assert abs(clock.now - 1001.0) < 1e-6


def test_throttling_halves_the_rate_and_a_minute_gives_it_back() -> None:
    clock = Clock()
    bucket = TokenBucket(40, clock=clock.read, sleep=clock.sleep)
    bucket.throttled()
    for _ in range(10):
        bucket.take()
    assert 0.4 < clock.now <= 0.5
    clock.now += 60.0
    began = clock.now
    for _ in range(80):
        bucket.take()
    assert abs(clock.now - began - 1.0) < 1e-6


def test_a_call_a_second_is_made_however_often_the_service_says_no() -> None:
    clock = Clock()
    bucket = TokenBucket(50, clock=clock.read, sleep=clock.sleep)
    for _ in range(20):
        bucket.throttled()
    bucket.take()
    assert clock.now <= 1.0


def test_what_could_not_be_taken_is_tried_again_and_what_was_refused_is_not() -> None:
    answers: list[Exception | str] = [RetryLater("busy"), RetryLater("busy"), "taken", SubmissionRefused("no")]

    def act() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with stamina.set_testing(True, attempts=10):
        assert retry_transient(act) == "taken"
        with pytest.raises(SubmissionRefused):
            retry_transient(act)
    assert not answers
