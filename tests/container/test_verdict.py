"""What is told of each way in which a step can fail."""

from __future__ import annotations

import errno
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sh

from batch_pipeline.container.verdict import guarded, last_line, verdict_of, verdict_of_code
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import (
    BatchPipelineError,
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
        (subprocess.CalledProcessError(-1, ["bwa", "mem"]), 129, EndReason.STEP_FAILED),
        (subprocess.TimeoutExpired(["bwa", "mem"], 5), 1, EndReason.STEP_FAILED),
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


GIB = 1 << 30


@pytest.mark.parametrize(
    ("oom_killed", "peak_bytes", "code", "words"),
    [
        (True, GIB // 8, 137, "The kernel killed for lack of memory: raise memory_mb."),
        (True, GIB, 137, "raise memory_mb"),
        (
            False,
            GIB // 8,
            1,
            "sh … was killed (signal 9). Not for lack of memory (its peak was 128 of 1,024 MiB)",
        ),
        (False, GIB - 1, 1, "Not for lack of memory (its peak was 1,023 of 1,024 MiB)"),
        # Where no cgroup limits it, a process may have more than its job.
        (False, GIB, 137, "It took more memory than its job has (1,024 of 1,024 MiB): raise memory_mb."),
        (None, GIB // 2 - 1, 1, "Not for lack of memory"),
        (None, GIB // 2, 137, "It most likely needed more memory than its job has: raise memory_mb."),
        (None, 2 * GIB, 137, "raise memory_mb"),
    ],
)
def test_what_killed_a_tool_is_told_from_the_kernels_count_and_the_peak(
    oom_killed: bool | None, peak_bytes: int, code: int, words: str
) -> None:
    verdict = verdict_of(failed("kill -9 $$"))
    explained = verdict.explained(b"last line", oom_killed=oom_killed, peak_bytes=peak_bytes, memory_mb=1024)
    assert verdict.killed
    assert explained.exit_code == code
    assert words in explained.message
    assert explained.reason is (EndReason.STEP_FAILED if code == 1 else EndReason.OUT_OF_MEMORY)


def test_the_kernels_count_outweighs_words_and_words_outweigh_the_peak() -> None:
    verdict = verdict_of_code("tool", -9)
    full = b"No space left on device"
    assert verdict.explained(full, oom_killed=True, peak_bytes=1, memory_mb=1024).exit_code == 137
    assert verdict.explained(full, oom_killed=False, peak_bytes=1, memory_mb=1024).exit_code == 74
    assert verdict.explained(b"std::bad_alloc", oom_killed=False, peak_bytes=1, memory_mb=1024).exit_code == 137


def out_of_memory(message: str, cause: BaseException | None) -> BatchPipelineError:
    error: BatchPipelineError = StepFailed(message)
    error.exit_code = 137
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("code", [-9, 137])
def test_a_shell_that_says_137_and_a_step_that_repeats_it_are_judged_like_the_killed_tool(code: int) -> None:
    tool = subprocess.CalledProcessError(code, ["kallisto", "quant", "x"])
    for error in (tool, out_of_memory("It most likely needed more.", tool)):
        verdict = verdict_of(error)
        assert (verdict.killed, verdict.exit_code) == (True, 137)
        assert verdict.message.startswith("kallisto quant … ")
    assert verdict_of_code("step.sh", code).killed


def test_a_step_that_says_that_memory_was_short_is_believed() -> None:
    for cause in (None, subprocess.CalledProcessError(1, ["java"])):
        verdict = verdict_of(out_of_memory("The heap was too small.", cause))
        assert (verdict.killed, verdict.exit_code, verdict.message) == (False, 137, "The heap was too small.")


def test_what_was_not_killed_is_explained_by_its_log() -> None:
    verdict = verdict_of_code("tool", 2).explained(b"a\nlast line\n", oom_killed=True, peak_bytes=GIB, memory_mb=1)
    assert (verdict.exit_code, verdict.message) == (2, "tool ended with exit code 2: last line")


def test_a_last_line_is_told_once() -> None:
    """Else the log's last line, of whatever came later, would stand behind the tool's own."""
    verdict = verdict_of(failed("echo 'no such index' >&2; exit 3"))
    assert verdict.with_log(b"of something else\n") == verdict
    for tail in (b"first\nlast\n", b"", b"No space left on device\n"):
        verdict = verdict_of_code("tool", 3).with_log(tail)
        assert verdict.with_log(b"of something else\n") == verdict


@pytest.mark.parametrize("tail", [b"first\nlast\n", b"", b"No space left on device\n"])
def test_what_a_step_measured_before_its_end_is_kept(tail: bytes) -> None:
    verdict = replace(verdict_of_code("tool", 3), metrics={"reads": 7}, versions={"tool": "1.2"}).with_log(tail)
    assert (verdict.metrics, verdict.versions) == ({"reads": 7}, {"tool": "1.2"})


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/usr/bin/kallisto", "quant", "-i", "x"], "kallisto quant …"),
        (["/usr/bin/kallisto", "quant"], "kallisto quant"),
        (["kallisto", "-i", "x"], "kallisto …"),
        (["kallisto"], "kallisto"),
        ("/usr/bin/kallisto quant -i x", "kallisto quant …"),
        (b"/usr/bin/kallisto quant", "kallisto quant"),
        ([Path("/usr/bin/kallisto"), b"quant"], "kallisto quant"),
        ([], "The tool"),
    ],
)
def test_a_tool_is_named_by_its_program_and_what_that_was_to_do(command: Any, name: str) -> None:
    assert verdict_of(subprocess.CalledProcessError(3, command)).message == f"{name} ended with exit code 3"


def test_a_full_disk_is_named_with_the_place_that_is_full() -> None:
    assert verdict_of(OSError(errno.ENOSPC, "No space left", "/scratch/x")).message.endswith(
        "on its disk (/scratch/x)."
    )
    assert verdict_of(OSError(errno.ENOSPC, "No space left")).message.endswith("on its disk.")
    assert verdict_of(OSError(errno.EIO, "Bad")).reason is EndReason.STEP_FAILED


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
    assert verdict_of_code("tool", -1).exit_code == 129
    assert verdict_of_code("tool", -1).wants_log


def test_an_error_is_told_by_its_kind_and_its_first_line() -> None:
    assert verdict_of(ValueError("one\ntwo")).message == "ValueError: one"
    assert verdict_of(ValueError()).message == "ValueError"
    assert not verdict_of(ValueError("one")).wants_log


def test_guarded_returns_what_a_step_made_or_how_it_ended() -> None:
    assert guarded(lambda: {"metrics": {"reads": 7}}) == {"exit_code": 0, "metrics": {"reads": 7}}

    def run_tool() -> dict[str, int]:
        raise subprocess.CalledProcessError(3, ["bwa", "mem"])

    assert guarded(run_tool) == {
        "exit_code": 1,
        "message": "bwa mem ended with exit code 3",
        "wants_log": True,
        "killed": False,
    }


def test_guarded_leaves_the_traceback_of_a_bug_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    def bug() -> dict[str, int]:
        return {"x": 1 // 0}

    assert guarded(bug)["message"] == "ZeroDivisionError: integer division or modulo by zero"
    assert "in bug" in capfd.readouterr().err


def test_guarded_leaves_no_traceback_of_a_step_error(capfd: pytest.CaptureFixture[str]) -> None:
    def refuse() -> dict[str, int]:
        raise InvalidOutput("No reads.")

    assert guarded(refuse) == {"exit_code": 65, "message": "No reads.", "wants_log": False, "killed": False}
    assert capfd.readouterr().err == ""


def test_last_line_is_the_last_with_something_in_it_and_short() -> None:
    assert last_line(b"a\nb\n \n") == "b"
    assert last_line(b"") == ""
    assert len(last_line(b"x" * 1000)) == 300
    assert last_line(b"\xff\xfe") == "��"
