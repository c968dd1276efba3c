from __future__ import annotations

import pytest

from batch_pipeline.backends.reasons import end_reason, reason_of_words, says_out_of_memory
from batch_pipeline.wire.contract import EndReason

EXITED = "Essential container in task exited"
OOM = "OutOfMemoryError: Container killed due to memory usage"


@pytest.mark.parametrize(
    ("status_reason", "container_reason", "exit_code", "cancelled", "expected"),
    [
        (EXITED, "", 1, False, EndReason.STEP_FAILED),
        (EXITED, "", 65, False, EndReason.INVALID_OUTPUT),
        (EXITED, "", 66, False, EndReason.MISSING_INPUT),
        (EXITED, "", 64, False, EndReason.CONTRACT),
        (EXITED, "", 69, False, EndReason.STORE),
        (EXITED, "", 74, False, EndReason.DISK_FULL),
        (EXITED, "", 75, False, EndReason.INTERRUPTED),
        (EXITED, "", 137, False, EndReason.OUT_OF_MEMORY),
        (EXITED, "", 143, False, EndReason.INTERRUPTED),
        (EXITED, OOM, 137, False, EndReason.OUT_OF_MEMORY),
        (EXITED, OOM, 1, False, EndReason.OUT_OF_MEMORY),
        (EXITED, "container killed due to memory usage", 137, False, EndReason.OUT_OF_MEMORY),
        ("Job attempt duration exceeded timeout", "", 137, False, EndReason.TIMEOUT),
        ("Job attempt duration exceeded timeout", "", None, False, EndReason.TIMEOUT),
        ("Host EC2 (instance i-0abc) terminated.", "", None, False, EndReason.INTERRUPTED),
        ("Host EC2 (instance i-0abc) terminated.", "", 143, False, EndReason.INTERRUPTED),
        ("Your Spot Task was interrupted.", "", 1, False, EndReason.INTERRUPTED),
        ("Task failed to start", "CannotPullContainerError: no such image", None, False, EndReason.IMAGE),
        ("Task failed to start", "CannotPullImageError: no such image", None, False, EndReason.IMAGE),
        ("Task failed to start", OOM, None, False, EndReason.OUT_OF_MEMORY),
        ("Task failed to start", "", None, False, EndReason.IMAGE),
        ("ResourceInitializationError: log group missing", "", None, False, EndReason.IMAGE),
        (EXITED, "CannotInspectContainerError: Could not transition to inspecting", None, False, EndReason.LOST),
        ("Container Overrides length must be at most 8192", "", None, False, EndReason.CONTRACT),
        ("Dependent Job failed", "", None, False, EndReason.DEPENDENCY),
        ("Dependent Job failed", "", None, True, EndReason.DEPENDENCY),
        ("JobQueue deleted", "", None, False, EndReason.CANCELLED),
        ("Canceled by JobStateTimeLimit action due to reason: CAPACITY", "", None, False, EndReason.CANCELLED),
        ("no longer wanted", "", 137, True, EndReason.CANCELLED),
        ("no longer wanted", OOM, 137, True, EndReason.CANCELLED),
        ("", "", None, False, EndReason.LOST),
        (EXITED, "", 0, False, EndReason.LOST),
    ],
)
def test_a_failed_child_ended_for(
    status_reason: str, container_reason: str, exit_code: int | None, cancelled: bool, expected: EndReason
) -> None:
    found = end_reason(
        succeeded=False,
        status_reason=status_reason,
        container_reason=container_reason,
        exit_code=exit_code,
        cancelled=cancelled,
    )
    assert found is expected


def test_success_is_success_whatever_the_words_say() -> None:
    found = end_reason(succeeded=True, status_reason="Your Spot Task was interrupted.", exit_code=0, cancelled=True)
    assert found is EndReason.FINISHED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{EXITED} {OOM}", True),
        (f"{EXITED} container killed due to memory usage", True),
        (EXITED, False),
        ("SIGKILL ended it. Unless a person sent that, it needed more memory than there was.", False),
        ("", False),
    ],
)
def test_only_aws_words_say_out_of_memory(text: str, expected: bool) -> None:
    assert says_out_of_memory(text) is expected


def test_words_that_say_nothing_mean_nothing() -> None:
    assert reason_of_words(EXITED) is None
    assert reason_of_words("") is None
    assert reason_of_words("  host ec2 (instance i-1)\nterminated.") is EndReason.INTERRUPTED
