from __future__ import annotations

from typing import Any

import pytest

from batch_pipeline.backends.capacity import (
    Environment,
    InstanceType,
    Queue,
    ResourceRequest,
    misfits,
    queue_problems,
    usable,
)

LARGE = InstanceType(name="m5.large", vcpus=2, memory_mb=8192)
XLARGE = InstanceType(name="m5.4xlarge", vcpus=16, memory_mb=65_536)
#: Many vCPUs and little memory.
LEAN = InstanceType(name="c5.18xlarge", vcpus=72, memory_mb=16_384)


def environment(name: str = "spot", **changes: Any) -> Environment:
    usual: dict[str, Any] = {"enabled": True, "valid": True, "kind": "SPOT", "max_vcpus": 64, "present_vcpus": 0}
    return Environment(name=name, **{**usual, **changes})


def queue(*environments: Environment, **changes: Any) -> Queue:
    return Queue(name="mixed", **{"enabled": True, "valid": True, "environments": environments, **changes})


def wanted(vcpus: float = 1, memory_mb: int = 1024, **more: Any) -> ResourceRequest:
    return ResourceRequest(vcpus=vcpus, memory_mb=memory_mb, **more)


def test_a_queue_that_works_has_no_problems() -> None:
    assert queue_problems(queue(environment(), environment("broken", enabled=False))) == []


@pytest.mark.parametrize(
    ("changes", "sentence", "remedy"),
    [
        ({"enabled": False}, "The job queue mixed is disabled", "update-job-queue --job-queue mixed --state ENABLED"),
        ({"valid": False, "status_reason": "being deleted."}, "is not VALID (being deleted).", "deploy infrastructure"),
        ({"environments": ()}, "has no compute environment", "deploy infrastructure"),
    ],
)
def test_a_queue_that_does_not_work_says_why(changes: dict[str, Any], sentence: str, remedy: str) -> None:
    (problem,) = queue_problems(queue(**{"environments": (environment(),), **changes}))
    assert sentence in problem.sentence
    assert remedy in problem.remedy


def test_every_environment_that_does_not_work_is_told_where_none_does() -> None:
    off, broken = environment("off", enabled=False), environment("bad", valid=False, status_reason="role is gone")
    words = [problem.words for problem in queue_problems(queue(off, broken))]
    assert len(words) == 2
    assert "off of queue mixed is disabled" in words[0]
    assert "--compute-environment off --state ENABLED" in words[0]
    assert "bad of queue mixed is not VALID (role is gone)" in words[1]


def test_one_environment_that_can_hold_the_job_is_enough() -> None:
    small, large = environment("small", max_vcpus=2), environment("large")
    assert misfits(queue(small, large), wanted(4), {}) == []


@pytest.mark.parametrize(
    ("asked", "machines", "words"),
    [
        (wanted(65), [XLARGE], "has 64 vCPUs at the most"),
        (wanted(4), [LARGE], "has no larger machine than m5.large (2 vCPUs, 7,946 MiB for jobs)"),
        (wanted(1, 8192), [LARGE], "has no larger machine than m5.large"),
        (wanted(17, 60_000), [XLARGE, LEAN], "has no larger machine than m5.4xlarge"),
        (wanted(capability="FARGATE"), [XLARGE], "is SPOT and the job's definition is for FARGATE"),
    ],
)
def test_a_job_that_fits_nowhere_says_where_it_was_held(
    asked: ResourceRequest, machines: list[InstanceType], words: str
) -> None:
    (problem,) = misfits(queue(environment()), asked, {"spot": machines})
    assert words in problem.sentence
    assert asked.words in problem.sentence


@pytest.mark.parametrize(
    ("asked", "machines"),
    [
        (wanted(2, 7_900), {"spot": [LARGE]}),
        (wanted(64, 8_000), {"spot": [LEAN]}),
        (wanted(64, 1 << 20), {}),
        (wanted(64, 1 << 20), {"spot": []}),
    ],
)
def test_what_fits_or_may_fit_is_no_problem(asked: ResourceRequest, machines: dict[str, list[InstanceType]]) -> None:
    assert misfits(queue(environment()), asked, machines) == []


def test_of_an_unmanaged_environment_nothing_is_known() -> None:
    unmanaged = environment(kind="", max_vcpus=None)
    assert misfits(queue(unmanaged), wanted(1000, 1 << 20), {}) == []
    assert misfits(queue(unmanaged), wanted(capability="FARGATE"), {}) == []


@pytest.mark.parametrize(
    ("vcpus", "memory_mb", "fits"),
    [
        (0.25, 512, True),
        (0.25, 4096, False),
        (1, 8192, True),
        (1, 1024, False),
        (8, 20_480, True),
        (8, 18_432, False),
        (16, 122_880, True),
        (3, 8192, False),
        (32, 249_856, True),
    ],
)
def test_fargate_takes_some_pairs_only(vcpus: float, memory_mb: int, fits: bool) -> None:
    fargate = queue(environment("fargate", kind="FARGATE_SPOT", max_vcpus=256, present_vcpus=None))
    asked = wanted(vcpus, memory_mb, capability="FARGATE")
    assert (misfits(fargate, asked, {}) == []) is fits
    (problem,) = misfits(fargate, wanted(vcpus, memory_mb), {})
    assert "is FARGATE_SPOT and the job's definition is for EC2" in problem.sentence


def test_fargate_says_which_memory_goes_with_the_vcpus() -> None:
    fargate = queue(environment("fargate", kind="FARGATE", max_vcpus=256))
    (problem,) = misfits(fargate, wanted(1, 1024, capability="FARGATE"), {})
    assert "takes with 1 vCPUs only 2,048, 3,072, 4,096, 5,120, 6,144, 7,168, 8,192 MiB" in problem.sentence
    (problem,) = misfits(fargate, wanted(3, 8192, capability="FARGATE"), {})
    assert "takes only 0.25, 0.5, 1, 2, 4, 8, 16, 32 vCPUs" in problem.sentence


def test_a_machine_keeps_memory_for_itself() -> None:
    assert 0 < usable(LARGE) < LARGE.memory_mb
