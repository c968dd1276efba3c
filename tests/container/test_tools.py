"""How a tool's end becomes one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline import Job, StepFailed
from batch_pipeline.wire.contract import ContainerExit
from batch_pipeline.wire.errors import DiskFull
from batch_pipeline.wire.tools import KEPT_BYTES, last_line


@pytest.fixture
def job(tmp_path: Path) -> Job:
    work = tmp_path / "work"
    work.mkdir()
    return Job(sample="S1", step="call", work=work)


def test_both_streams_are_kept_and_passed_on(job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    printed = job.run("sh", "-c", "echo data; echo talk >&2", stderr=tmp_path / "log")
    assert (printed.out, printed.err) == ("data\n", "talk\n")
    assert capfd.readouterr() == ("data\n", "talk\n")
    assert (tmp_path / "log").read_text() == "talk\n"


def test_bytes_that_are_no_text_do_no_harm(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    assert "good" in job.run("sh", "-c", r"printf '\377\376 good'").out


def test_variables_are_added_to_the_cells_own(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELL", "own")
    assert job.run("sh", "-c", "echo $CELL $MORE", environment={"MORE": "more"}).out == "own more\n"


def test_a_failure_is_told_by_the_tools_last_line_on_it(job: Job, tmp_path: Path) -> None:
    script = "echo 'Error: no index' >&2; echo usage: and so on >&2; exit 3"
    with pytest.raises(StepFailed, match=r"^counting ended with exit code 3: Error: no index\.$") as raised:
        job.run("sh", "-c", script, name="counting", stderr=tmp_path / "log")
    assert raised.value.exit_code == ContainerExit.STEP_FAILED
    assert "no index" in (tmp_path / "log").read_text()


def test_a_killed_tool_hints_at_memory_and_asks_for_more(job: Job) -> None:
    with pytest.raises(StepFailed, match=r"was ended by signal 9 \(SIGKILL\).*more memory") as raised:
        job.run("sh", "-c", "kill -9 $$")
    assert raised.value.exit_code == 137


@pytest.mark.parametrize("said", ["java.lang.OutOfMemoryError: Java heap space", "what():  std::bad_alloc"])
def test_a_tool_that_says_it_had_no_memory_asks_for_more(job: Job, said: str) -> None:
    with pytest.raises(StepFailed, match="more memory") as raised:
        job.run("sh", "-c", f"echo '{said}' >&2; exit 1")
    assert raised.value.exit_code == 137


def test_a_crash_is_told_by_its_signal(job: Job) -> None:
    with pytest.raises(StepFailed, match=r"signal 11 \(SIGSEGV\)") as raised:
        job.run("sh", "-c", "kill -11 $$")
    assert raised.value.exit_code == ContainerExit.STEP_FAILED


def test_a_full_disk_is_told_as_such(job: Job) -> None:
    with pytest.raises(DiskFull, match="found no space left"):
        job.run("cp", "/bin/sh", "/dev/full")


def test_a_tool_that_is_not_there_is_named(job: Job) -> None:
    with pytest.raises(StepFailed, match="no-such-tool is not on the PATH; install it"):
        job.run("no-such-tool")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Error: file not found a.idx\n\nkallisto 0.48\nUsage: …\n", "Error: file not found a.idx"),
        ("terminate called after throwing\n  what():  Could not open x\n", "what():  Could not open x"),
        (
            'Exception in thread "main" SAMException: bad\n\tat a.b(c.java)\n',
            'Exception in thread "main" SAMException: bad',
        ),
        ("WARN NativeLibraryLoader UnsatisfiedLinkError libgkl\nstopped\n", "stopped"),
        ("", "it printed nothing"),
        ("x" * 3_000_000, "x" * 300),
    ],
    ids=lambda text: text[:20],
)
def test_the_telling_line(text: str, line: str) -> None:
    assert last_line(text) == line


def test_it_runs_in_the_working_directory(job: Job) -> None:
    job.run("sh", "-c", "echo here > made.txt")
    assert (job.work / "made.txt").read_text() == "here\n"


def test_files_take_the_place_of_the_streams(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    (job.work / "in").write_text("b\na\n")
    printed = job.run("sort", stdin=job.work / "in", stdout=job.work / "out")
    assert (job.work / "out").read_text() == "a\nb\n"
    assert printed.out == capfd.readouterr().out == ""


def test_files_may_be_named_as_they_lie_in_the_working_directory(job: Job) -> None:
    (job.work / "in").write_text("a\n")
    job.run("cat", stdin="in", stdout="out")
    assert (job.work / "out").read_text() == "a\n"


@pytest.mark.parametrize("argument", [("a", "b"), ["a"], b"a", None, {"a": 1}, map(str, "ab")])
def test_what_is_no_word_is_refused(job: Job, argument: object) -> None:
    with pytest.raises(StepFailed, match=r"^An argument of echo is a \w+, not a text, number or path: "):
        job.run("echo", argument)


def test_a_command_of_one_text_is_refused(job: Job) -> None:
    with pytest.raises(StepFailed, match=r"^'sort x' is no command; write a program and its arguments, each apart"):
        job.pipe("sort x", ("cat",))


@pytest.mark.parametrize(
    ("word", "why"),
    [("x" * 200_000, "Argument list too long"), ("a\0b", "embedded null byte")],
    ids=["long", "null"],
)
def test_what_cannot_be_started_is_told_and_ends_the_pipe(job: Job, word: str, why: str) -> None:
    with pytest.raises(StepFailed, match=rf"^echo could not be started: .*{why}"):
        job.pipe(("yes",), ("echo", word), ("cat",))


def test_a_pipe_gives_each_what_the_one_before_wrote(job: Job) -> None:
    job.pipe(("printf", r"c\nb\na\n"), ("sort",), ("head", "-n", 2), stdout=job.work / "out")
    assert (job.work / "out").read_text() == "a\nb\n"


def test_of_a_pipe_the_first_that_failed_by_itself_is_named(job: Job) -> None:
    with pytest.raises(StepFailed, match=r"^grep ended with exit code 2: .*grep: nothing: No such file"):
        job.pipe(("grep", "x", "nothing"), ("sh", "-c", "cat; echo Error: truncated >&2; exit 1"))
    with pytest.raises(StepFailed, match=r"^sh ended with exit code 3: full\.$"):
        job.pipe(("yes",), ("sh", "-c", "echo full >&2; exit 3"))


def test_one_that_the_next_has_read_enough_of_has_not_failed(job: Job) -> None:
    assert job.pipe(("yes",), ("head", "-n", 1)).out == "y\n"


def test_nothing_is_given_to_a_shell(job: Job) -> None:
    name = "a b; touch harmed $(touch harmed) 'x"
    assert job.pipe(("printf", "%s", name), ("cat",)).out == name
    assert list(job.work.iterdir()) == []


def test_of_long_output_both_ends_are_kept_and_the_log_has_all(job: Job, tmp_path: Path) -> None:
    script = f"echo first >&2; head -c {5 * KEPT_BYTES} /dev/zero | tr '\\0' x >&2; echo; echo last >&2"
    printed = job.run("sh", "-c", script, stderr=tmp_path / "all")
    assert printed.find("^first$")
    assert printed.err.endswith("last\n")
    assert len(printed.err) <= 3 * KEPT_BYTES
    assert (tmp_path / "all").stat().st_size == 5 * KEPT_BYTES + len("first\nlast\n")


def test_long_output_is_not_read_as_if_it_were_all(job: Job) -> None:
    printed = job.run("sh", "-c", f"echo first; head -c {5 * KEPT_BYTES} /dev/zero | tr '\\0' x; echo last")
    with pytest.raises(StepFailed, match=r"printed more than the 1,048,576 bytes .* stdout=path"):
        _ = printed.out
    assert printed.find("last$")
    assert len(job.run("head", "-c", str(KEPT_BYTES), "/dev/zero").out) == KEPT_BYTES


def test_no_descriptor_is_left_open(job: Job) -> None:
    job.run("true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        job.pipe(("yes",), ("head", "-n", 1), ("cat",))
        with pytest.raises(StepFailed):
            job.pipe(("true",), ("no-such-tool",))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
