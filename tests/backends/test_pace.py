from __future__ import annotations

from batch_pipeline.backends.pace import TokenBucket


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
