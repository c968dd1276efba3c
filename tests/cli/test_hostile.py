"""Whatever a person gets wrong: one clear sentence with the remedy, and the right exit code. The table is the test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline import Param, Step, WorkflowTask
from batch_pipeline.wire.contract import CommandExit
from tests.cli.letters import Aligned, Count, Letters, Run, Upper

LIST = "--sample-list-file"
USAGE, FAILED, UNREACHABLE = CommandExit.USAGE, CommandExit.FAILED, CommandExit.UNREACHABLE


@pytest.mark.parametrize(
    ("content", "sentences"),
    [
        (b"a b\n", ["Sample 'a b' (line 1 of bad.txt) has a space", "Rename it"]),
        (b"a,b\n", ["has a comma", "Write one name a line, or a sheet"]),
        (b"a/b\n", ["has a slash; names become object keys"]),
        (b"a\\b\n", ["has a backslash"]),
        (b"a;rm -rf\n", ["has a semicolon"]),
        ("größe\n".encode(), ["has the character 'ö'"]),
        ("a\u202eb\n".encode(), ["has a control character (U+202E)"]),
        (b"a\x1b[2Jb\n", ["has a control character (U+001B)"]),
        (b"x" * 129, ["has 129 characters; a name has at most 128", "Shorten it"]),
        (b"..\n", ["begins with '.'"]),
        (b"-rf\n", ["begins with '-'"]),
        (b"S1\nS2\nS1.bam\n", ["Sample 'S1' (line 3 of bad.txt) is already on line 1", "Remove one"]),
        (b"", ["bad.txt names no sample", "Write one name a line"]),
        (b"# nothing\n\n", ["bad.txt names no sample"]),
        (b"\x1f\x8b\x08\x04\x00", ["bad.txt is compressed (gzip or BAM), not plain text"]),
        (b"S1\n\xff\xfe\n", ["bad.txt is not UTF-8 text (line 2)"]),
        (b"S\x001\n", ["bad.txt holds binary data (line 1)"]),
        (b"name,x\nS1,1\n", ["has a comma", "a header that has a column 'sample'"]),
        (b"sample,x\nS1\n", ["Line 2 of bad.txt has 1 columns, the header has 2"]),
        (b"a b\nc/d\n", ["has 2 problems; nothing was done", "line 1", "line 2"]),
    ],
)
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_bad_list(world: Path, run: Run, content: bytes, sentences: list[str], verb: str) -> None:
    (world / "bad.txt").write_bytes(content)
    told = run(verb, LIST, "bad.txt")
    assert told.code == USAGE
    for sentence in sentences:
        assert sentence in told.err
    assert told.out == ""
    assert not (world / "store" / "default" / "runs").exists()


@pytest.mark.parametrize(
    ("args", "code", "sentences"),
    [
        ([], USAGE, ["No sample list was given", "--sample-list-file FILE"]),
        (["pln"], USAGE, ["There is no verb 'pln'", "Did you mean 'plan'?"]),
        (["xyzzy"], USAGE, ["There is no verb 'xyzzy'", "There are: init, run, plan"]),
        (["--quue", "x"], USAGE, ["No such option", "--quue"]),
        (["plan", LIST], USAGE, [LIST, "requires an argument"]),
        (["plan", LIST, "none.txt"], USAGE, ["The sample list none.txt is neither a file here nor in the store"]),
        (["plan", LIST, "/nowhere/none.txt"], USAGE, ["The sample list /nowhere/none.txt is not there"]),
        (["plan", LIST, "store"], USAGE, ["The sample list store is a folder", "Name a file in it"]),
        (["plan", LIST, "list.txt", "--from-step", "cuont"], USAGE, ["no step 'cuont'", "Did you mean 'count'?"]),
        (["plan", LIST, "list.txt", "--only-step", "zzz"], USAGE, ["no step 'zzz'", "There are: upper, count"]),
        (
            ["plan", LIST, "list.txt", "--only-step", "count", "--from-step", "count"],
            USAGE,
            ["--from-step and --only-step exclude each other"],
        ),
        (["plan", LIST, "list.txt", "--samples", "S1,S9"], USAGE, ["There is no sample 'S9'. There are: S1, S2."]),
        (["plan", LIST, "list.txt", "--samples", "@none"], USAGE, ["The sample list none is not there"]),
        (["plan", LIST, "list.txt", "--times", "many"], USAGE, ["--times", "'many' is not a valid integer"]),
        (["plan", LIST, "list.txt", "--times", "10"], USAGE, ["--times", "10 is not in the range 1<=x<=9"]),
        (["plan", LIST, "list.txt", "--style", "odd"], USAGE, ["'odd' is not one of 'plain', 'fancy'"]),
        (["plan", LIST, "list.txt", "--param", "upper.tmes=3"], USAGE, ["No step has a parameter 'upper.tmes'"]),
        (["plan", LIST, "list.txt", "--param", "upper.times=x"], USAGE, ["times must be of type int, not 'x'"]),
        (["plan", LIST, "list.txt", "--param", "times"], USAGE, ["'times' is not NAME=VALUE"]),
        (["run", LIST, "list.txt", "--store", ""], USAGE, ["--store", "names no store"]),
        (["run", LIST, "list.txt", "--tag", "owner"], USAGE, ["'owner' is not NAME=VALUE"]),
        (["plan", LIST, "list.txt", "--backend", "slurm"], USAGE, ["'slurm' is not one of 'embedded', 'aws'"]),
        (["plan", LIST, "list.txt", "--queue", "a b"], USAGE, ["a queue's name is 1 to 128 letters"]),
        (["plan", LIST, "list.txt", "--min-success", "2"], USAGE, ["pipeline.min_success", "less than or equal to 1"]),
        (["plan", LIST, "list.txt", "--bucket-name", "a/b"], USAGE, ["'a/b' is not a name", "--prefix"]),
        (["plan", LIST, "list.txt", "--prefix", "../.."], USAGE, ["none beginning with a dot"]),
        (["plan", LIST, "list.txt", "--backend", "aws"], USAGE, ["No store was named", "--bucket-name NAME"]),
        (
            ["status", LIST, "list.txt", "--store", "/nowhere/x"],
            UNREACHABLE,
            ["/nowhere/x is not there", "Check the path"],
        ),
        (["run", LIST, "list.txt", "--store", "list.txt/x"], UNREACHABLE, ["list.txt/x", "Choose another folder"]),
        (["--store", "store", "--sample", "plna"], USAGE, ["No such option"]),
        (["plan", LIST, "list.txt", "--store", "list.txt"], UNREACHABLE, ["list.txt is not there"]),
        (["run", LIST, "list.txt", "--store", "list.txt"], UNREACHABLE, ["list.txt", "Choose another folder"]),
        (["plan", LIST, "list.txt", "--store", "ftp://x/y"], USAGE, ["neither a folder nor s3://bucket/prefix"]),
        (["plan", LIST, "list.txt", "--config", "none.toml"], USAGE, ["none.toml cannot be read", "--config"]),
        (["status", LIST, "list.txt", "--explain", "S3"], USAGE, ["There is no sample 'S3'. There are: S1, S2."]),
        (["status", LIST, "list.txt", "--explain", "S1", "--watch"], USAGE, ["goes with neither --watch nor --run"]),
        (["logs"], USAGE, ["Name a SAMPLE, or search"]),
        (["logs", "S1"], USAGE, ["There is no log of sample S1", "status"]),
        (["logs", "S1", "uper"], USAGE, ["no step 'uper'", "Did you mean 'upper'?"]),
        (["logs", "S1", "--grep", "("], USAGE, ["--grep '(' is not a regular expression"]),
        (["logs", "S1", "--attempt", "0"], USAGE, ["--attempt", "x>=1"]),
        (["completion", "tcsh"], USAGE, ["'tcsh' is not one of 'bash', 'zsh', 'fish'"]),
        (["reference", "GRCh38"], USAGE, ["Letters builds no references", "references/GRCh38/"]),
        (["demo"], USAGE, ["The demonstration is for the fusion pipeline"]),
        (["runs", "--number", "0"], USAGE, ["--number", "x>=1"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_bad_command_line(world: Path, run: Run, args: list[str], code: int, sentences: list[str]) -> None:
    told = run(*args)
    assert told.code == code, told.err
    for sentence in sentences:
        assert sentence in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize(
    ("args", "code", "sentences"),
    [
        (["plan", LIST, "list.txt"], USAGE, ["Step align needs the reference file 'the.idx'", "reference NAME"]),
        (["plan", LIST, "list.txt", "--reference", "a/b"], USAGE, ["a reference's name is"]),
        (["plan", LIST, "list.txt", "--reference", "hg19"], USAGE, ["There is no reference 'hg19'"]),
        (["reference", "a b", "--fasta", "f", "--gtf", "g"], USAGE, ["'a b' cannot be a reference's name"]),
        (["reference", "x", "--fasta", "list.txt"], USAGE, ["needs a file for gtf", "--gtf FILE"]),
        (["reference", "x", "--fasta", "list.txt", "--gtf", "none"], USAGE, ["none, is not there"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_bad_reference(world: Path, run: Run, args: list[str], code: int, sentences: list[str]) -> None:
    told = run(*args, workflow=Aligned)
    assert told.code == code, told.err
    for sentence in sentences:
        assert sentence in told.err


@pytest.mark.parametrize(
    ("file", "sentences"),
    [
        (
            '[backend]\nqueu = "x"\n',
            ["no setting 'backend.queu'", "batch_pipeline.toml", "Did you mean backend.queue?"],
        ),
        ("[backend\n", ["batch_pipeline.toml is not valid TOML", "line 1"]),
        (
            "[backend]\nattempts = 0\n",
            ["Setting backend.attempts is 0 (batch_pipeline.toml, line 2)", "greater than or equal"],
        ),
        ("[params]\nbots = 3\n", ["No step has a parameter 'bots'", "times"]),
        ("[params]\ntimes = 99\n", ["times must be at most 9, not 99"]),
        ("\xff".encode("latin-1"), ["batch_pipeline.toml is not UTF-8 text"]),
    ],
)
def test_a_bad_settings_file(world: Path, run: Run, file: str | bytes, sentences: list[str]) -> None:
    (world / "batch_pipeline.toml").write_bytes(file.encode() if isinstance(file, str) else file)
    told = run("plan", LIST, "list.txt")
    assert told.code == USAGE
    for sentence in sentences:
        assert sentence in told.err


def test_a_bad_variable(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_PIPELINE__BACKEND__NAME", "cloud")
    told = run("plan", LIST, "list.txt")
    assert told.code == USAGE
    assert "Setting backend.name is 'cloud' ($BATCH_PIPELINE__BACKEND__NAME)" in told.err


def _cycle(task: WorkflowTask) -> None:
    upper, count = task.new_task("upper", Upper), task.new_task("again", Upper)
    upper.in_text = count.out_upper
    count.in_text = upper.out_upper


def _unconnected(task: WorkflowTask) -> None:
    task.new_task("upper", Upper)


def _empty(task: WorkflowTask) -> None:
    pass


def _twice(task: WorkflowTask) -> None:
    task.new_task("upper", Upper)
    task.new_task("upper", Count)


def _misspelt(task: WorkflowTask) -> None:
    task.new_task("upper", Upper).in_txt = task.source("x")


def _bad_name(task: WorkflowTask) -> None:
    task.new_task("Upper Case", Upper)


class Hiding(Step):
    """Has a parameter that hides an option."""

    queue: str = Param("x")


def _hiding(task: WorkflowTask) -> None:
    task.new_task("hiding", Hiding)


@pytest.mark.parametrize(
    ("wire", "sentences"),
    [
        (_cycle, ["The steps form a cycle: upper -> again -> upper"]),
        (_unconnected, ["input in_text of task upper is not connected"]),
        (_empty, ["makes no task"]),
        (_twice, ["two tasks are called 'upper'"]),
        (_misspelt, ["has no port 'in_txt'", "in_text"]),
        (_bad_name, ["task name 'Upper Case'"]),
        (_hiding, ["Parameter 'queue' of Hiding would hide the option --queue", "Rename it"]),
    ],
)
def test_a_bad_pipeline(world: Path, run: Run, wire: Callable[[WorkflowTask], None], sentences: list[str]) -> None:
    class Bad(WorkflowTask):
        """Is wired wrongly."""

        def workflow(self) -> None:
            wire(self)

    told = run("plan", LIST, "list.txt", workflow=Bad)
    assert told.code == USAGE
    for sentence in sentences:
        assert sentence in told.err


def test_a_missing_source_blocks_its_sample_alone(world: Path, run: Run) -> None:
    (world / "store" / "default" / "SR" / "S2.txt").unlink()
    told = run("plan", LIST, "list.txt")
    assert told.code == FAILED
    assert "upper: S2: Its source" in told.out
    assert "SR/S2.txt is not there; check the list and --sources." in told.out
    assert "count: S2: It needs upper, which cannot run." in told.out
    assert "2 SubmitJob calls" in told.out


def test_a_defect_is_told_as_one_and_its_traceback_kept(
    world: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # Fails in a way that nobody foresaw.
    monkeypatch.setattr("batch_pipeline.run.snapshot.make_plan", (0).__divmod__)
    told = run("plan", LIST, "list.txt")
    assert told.code == FAILED
    assert "TypeError: expected 1 argument, got 6" in told.err
    assert "This is a defect of batch_pipeline" in told.err
    assert "Traceback" not in told.err
    (kept,) = tmp_path.glob("batch_pipeline-*-traceback.txt")
    assert str(kept) in told.err
    assert "TypeError" in kept.read_text()
    assert "Traceback" in run("plan", LIST, "list.txt", "--verbose").err


def _divides(task: WorkflowTask) -> None:
    print(1 // len(task.tasks.__name__[:0]))


def _half_a_call(task: WorkflowTask) -> None:
    task.new_task("upper")  # type: ignore[call-arg]


def _reads(task: WorkflowTask) -> None:
    Path("nowhere.toml").read_text()


def _without_workflow() -> type[WorkflowTask]:
    class Bad(WorkflowTask):
        """Has no workflow()."""

    return Bad


def _without_self() -> type[WorkflowTask]:
    class Bad(WorkflowTask):
        """Has a workflow() that takes nothing."""

        def workflow() -> None:  # type: ignore[misc]
            pass

    return Bad


def _with_argument() -> type[WorkflowTask]:
    class Bad(WorkflowTask):
        """Cannot be made without an argument."""

        def __init__(self, lanes: int) -> None:
            super().__init__()

        def workflow(self) -> None:
            pass

    return Bad


@pytest.mark.parametrize(
    ("wire", "name", "words"),
    [
        (_divides, "_divides", "ZeroDivisionError: integer division"),
        (_half_a_call, "_half_a_call", "TypeError: WorkflowTask.new_task() missing 1 required positional argument"),
        (_reads, "_reads", "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.toml'"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run", "status"])
def test_what_the_pipelines_own_code_raises_is_told_with_its_line(
    world: Path, run: Run, wire: Callable[[WorkflowTask], None], name: str, words: str, verb: str
) -> None:
    class Bad(WorkflowTask):
        """Fails."""

        def workflow(self) -> None:
            wire(self)

    told = run(verb, LIST, "list.txt", workflow=Bad)
    line = wire.__code__.co_firstlineno + 1
    assert (told.code, told.out) == (USAGE, "")
    assert f"Error: {__file__}, line {line}, in {name}: {words}" in told.err
    assert "defect of batch_pipeline" not in told.err


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_without_workflow, "Bad has no workflow(). Define it: def workflow(self)"),
        (_without_self, "workflow() takes 0 positional arguments but 1 was given). Write it as def workflow(self)."),
        (_with_argument, "missing 1 required positional argument: 'lanes'). Write it as def __init__(self)."),
    ],
)
def test_a_pipeline_that_cannot_be_made_is_told(
    world: Path, run: Run, make: Callable[[], type[WorkflowTask]], words: str
) -> None:
    told = run("plan", LIST, "list.txt", workflow=make())
    assert told.code == USAGE
    assert words in told.err


def test_what_the_machine_refuses_is_no_defect(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so a file stands where a folder would be made."""
    (world / "home").write_text("")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(world / "home"))
    for verb in ("run", "doctor"):
        told = run(verb, LIST, "list.txt")
        assert told.code in (FAILED, UNREACHABLE)
        assert f"{world}/home/.local/state/batch_pipeline/localbatch" in told.out + told.err
        assert "Not a directory. Choose another folder: embedded.state" in told.out + told.err
        assert "defect" not in told.err


def test_a_user_without_a_home_is_told(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    told = run("run", LIST, "list.txt")
    assert (told.code, told.err) == (USAGE, "Error: This user has no home directory. Set HOME, or XDG_STATE_HOME.\n")


@pytest.mark.parametrize("verb", ["run", "status", "runs", "cancel"])
def test_a_working_directory_that_is_gone_is_told(world: Path, run: Run, verb: str) -> None:
    gone = world / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    told = run(verb)
    assert told.code == USAGE
    assert told.err == "Error: The working directory is not there any more. Change into another one: cd.\n"
    assert run("--help").code == CommandExit.DONE


def test_an_unreadable_store_is_told(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights do not hold for root, so the listing itself fails as the system would make it."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied (os error 13)")

    monkeypatch.setattr("obstore.list", denied)
    told = run("plan", LIST, "list.txt")
    assert told.code == UNREACHABLE
    assert "may not be read or written" in told.err
    assert "Check the rights on the store" in told.err


def test_verbs_that_need_a_pipeline_say_so(world: Path, run: Run) -> None:
    told = run("plan", workflow=None)
    assert told.code == USAGE
    assert "The verb 'plan' needs a pipeline" in told.err
    assert run("runs", workflow=None).code == CommandExit.DONE
    assert Letters.reference_builder is None
