"""What is told of each way in which a step can fail."""

from __future__ import annotations

import errno
import subprocess

import pytest
import sh

from batch_pipeline.container.verdict import guarded, last_line, verdict_of, verdict_of_code
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import (
    ContractBroken,
    DiskFull,
    InvalidConfig,
    InvalidOutput,
    MissingInput,
    StepFailed,
    StepInterrupted,
    StoreFailed,
)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (StepFailed("x"), 1, EndReason.STEP_FAILED),
        (ContractBroken("x"), 64, EndReason.CONTRACT),
        (InvalidConfig("x"), 64, EndReason.CONTRACT),
        (InvalidOutput("x"), 65, EndReason.INVALID_OUTPUT),
        (MissingInput("x"), 66, EndReason.MISSING_INPUT),
        (StoreFailed("x"), 69, EndReason.STORE),
        (DiskFull("x"), 74, EndReason.DISK_FULL),
        (StepInterrupted("x"), 75, EndReason.INTERRUPTED),
        (OSError(errno.ENOSPC, "No space left"), 74, EndReason.DISK_FULL),
        (OSError(errno.EDQUOT, "Quota"), 74, EndReason.DISK_FULL),
        (MemoryError(), 137, EndReason.OUT_OF_MEMORY),
        (ValueError("x"), 1, EndReason.STEP_FAILED),
        (SystemExit(0), 1, EndReason.STEP_FAILED),
        (subprocess.CalledProcessError(-9, ["bwa", "mem"]), 137, EndReason.OUT_OF_MEMORY),
        (subprocess.CalledProcessError(65, ["bwa", "mem"]), 1, EndReason.STEP_FAILED),
    ],
)
def test_code_and_reason_of_what_a_step_raises(error: BaseException, code: int, reason: EndReason) -> None:
    verdict = verdict_of(error)
    assert (verdict.exit_code, verdict.reason) == (code, reason)


def failed(command: str) -> sh.ErrorReturnCode:
    with pytest.raises(sh.ErrorReturnCode) as caught:
        sh.sh("-c", command)
    return caught.value


def test_a_tool_run_with_sh_is_named_with_its_code_and_last_words() -> None:
    verdict = verdict_of(failed("echo first >&2; echo 'no such index' >&2; echo >&2; exit 3"))
    assert verdict.message == "sh … ended with exit code 3: no such index"
    assert verdict.exit_code == 1


def test_a_tool_whose_words_went_to_the_log_asks_for_the_log() -> None:
    verdict = verdict_of(subprocess.CalledProcessError(3, ["/usr/bin/kallisto", "quant", "-i", "x"]))
    assert verdict.message == "kallisto quant … ended with exit code 3"
    assert verdict.with_log(b"a\nError: bad index\n\n").message.endswith("exit code 3: Error: bad index")
    assert verdict.with_log(b"").message == "kallisto quant … ended with exit code 3."


def test_a_killed_tool_hints_at_memory() -> None:
    verdict = verdict_of(failed("kill -9 $$"))
    assert verdict.exit_code == 137
    assert "memory_mb" in verdict.message


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("sort: write failed: /tmp/x: No space left on device", 74),
        ("Exception in thread main java.lang.OutOfMemoryError: Java heap space", 137),
        ("terminate called after throwing an instance of 'std::bad_alloc'", 137),
    ],
)
def test_what_a_tool_ran_out_of_is_read_from_its_words(words: str, code: int) -> None:
    assert verdict_of(failed(f'echo "{words}" >&2; exit 2')).exit_code == code
    assert verdict_of_code("tool", 2).with_log(words.encode()).exit_code == code


def test_a_tools_own_exit_codes_pass_but_signals_get_128_added() -> None:
    assert verdict_of_code("tool", 7).exit_code == 7
    assert verdict_of_code("tool", -11).exit_code == 139
    assert "signal 11" in verdict_of_code("tool", -11).message


def test_guarded_leaves_the_traceback_of_a_bug_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    def bug() -> dict[str, int]:
        return {"x": 1 // 0}

    assert guarded(bug)["message"] == "ZeroDivisionError: integer division or modulo by zero"
    assert "in bug" in capfd.readouterr().err


def test_guarded_leaves_no_traceback_of_a_step_error(capfd: pytest.CaptureFixture[str]) -> None:
    def refuse() -> dict[str, int]:
        raise InvalidOutput("No reads.")

    assert guarded(refuse) == {"exit_code": 65, "message": "No reads.", "wants_log": False}
    assert capfd.readouterr().err == ""


def test_last_line_is_the_last_with_something_in_it_and_short() -> None:
    assert last_line(b"a\nb\n \n") == "b"
    assert last_line(b"") == ""
    assert len(last_line(b"x" * 1000)) == 300
    assert last_line(b"\xff\xfe") == "��"
