"""Commands of steps: what names stand for, and that no value becomes part of the script."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar

import pytest

from batch_pipeline import Column, Input, Job, Output, Param, Reference, Scope, Step, StepFailed
from batch_pipeline.pipeline.command import require_command, run_command
from batch_pipeline.wire.command import fields_of, script_of
from batch_pipeline.wire.errors import ContractBroken, InvalidPipeline

HOSTILE = "a b'c\"d $(touch harmed) `touch harmed` ; touch harmed # \\ * {x} ${HOME}"


class Call(Step):
    """Calls variants."""

    command: ClassVar[str] = "true"
    reads = Input()
    genome = Reference("genome.fa")
    indexed = Reference("bwa/genome.fa", "bwa/genome.fa.fai")
    calls = Output("{sample}.txt")
    title: str = Param("x")
    quality: int = Param(30)
    fast: bool = Param(False)
    strand: str = Column(default="auto")


class Merge(Step):
    """Merges calls."""

    scope = Scope.COHORT
    command: ClassVar[str] = "cat {calls} > {merged}; echo {samples} >> {merged}"
    calls = Input()
    merged = Output("merged.txt")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    work = tmp_path / "work"
    work.mkdir()
    reads = (tmp_path / "one 1.fq", tmp_path / "two'2.fq")
    for file in reads:
        file.write_text(f"{file.stem}\n")
    return Job(
        sample="S1",
        step="call",
        work=work,
        input_files={"reads": reads},
        reference_files={
            "genome": (tmp_path / "genome.fa",),
            "indexed": (tmp_path / "bwa" / "genome.fa", tmp_path / "bwa" / "genome.fa.fai"),
        },
        output_names={"calls": ("S1.txt",)},
        cpus=3,
    )


def calls(command: str, job: Job, **params: object) -> str:
    step = type("Called", (Call,), {"command": command})(**params)
    require_command(type(step))
    run_command(step, job)
    return job.output("calls").read_text()


def test_names_stand_for_files_and_values(job: Job) -> None:
    printed = calls("printf '%s\\n' {cpus} {sample} {quality} {fast} {genome} > {calls}", job)
    assert printed.splitlines() == ["3", "S1", "30", "false", str(job.reference("genome"))]


@pytest.mark.parametrize("name", ["strand", "columns.strand"])
def test_a_column_stands_for_the_value_of_the_sample(name: str, job: Job) -> None:
    job.columns = {"strand": HOSTILE}
    assert HOSTILE in calls(f"printf %s '{{{name}}}' > {{calls}}", job)
    assert not (job.work / "harmed").exists()


def test_a_port_of_several_files_is_as_many_words(job: Job) -> None:
    assert calls("cat {reads} {reads[1]} > {calls}", job) == "one 1\ntwo'2\ntwo'2\n"


def test_a_reference_of_several_files_is_as_many_words_and_each_has_a_number(job: Job) -> None:
    printed = calls("printf '%s\\n' {indexed} {indexed[1]} > {calls}", job)
    genome, index = map(str, job.references("indexed"))
    assert printed.splitlines() == [genome, index, index]
    with pytest.raises(ContractBroken, match=r"has 2 files; use job.references\('indexed'\)"):
        job.reference("indexed")


def test_a_kind_may_stand_before_a_name(job: Job) -> None:
    assert calls("echo {param.quality} {job.sample} > {output.calls}; cat {input.reads[0]} >> {calls}", job) == (
        "30 S1\none 1\n"
    )


@pytest.mark.parametrize(
    "command",
    [
        "printf %s {title} > {calls}",
        "printf %s '{title}' > {calls}",
        'printf %s "{title}" > {calls}',
        "printf %s \"$(printf %s '{title}')\" > {calls}",
        "# it's a comment\nprintf %s '{title}' > {calls}",
        "(printf %s $(printf %s \"$(printf '%s' '{title}')\") '{title}') > {calls}",
        'printf %s "it\'s {title}" > {calls}',
        'cat > {calls} <<< "{title}"',
        "printf %s $'it\\'s {title}' > {calls}",
    ],
    ids=["bare", "single", "double", "substitution", "comment", "nested", "apostrophe", "here string", "escapes"],
)
def test_a_value_is_one_word_and_no_part_of_the_script(command: str, job: Job) -> None:
    assert HOSTILE in calls(command, job, title=HOSTILE)
    assert not (job.work / "harmed").exists()


def test_a_name_need_not_be_ascii(job: Job) -> None:
    step = type("Called", (Call,), {"command": "echo {größe} > {calls}", "größe": Param(3)})()
    run_command(step, job)
    assert job.output("calls").read_text() == "3\n"


def test_behind_a_value_escapes_are_still_read(job: Job) -> None:
    assert calls(r"printf %s $'{title}\t{title}' > {calls}", job) == "x\tx"


@pytest.mark.parametrize(
    "command",
    ["echo $'{title}' > {calls}", "echo `echo {title}` > {calls}", "case x in x) echo {title};; esac > {calls}"],
)
def test_where_quotes_mislead_a_value_is_still_not_run(command: str, job: Job) -> None:
    calls(command, job, title="$(touch harmed) `touch harmed`")
    assert not (job.work / "harmed").exists()


def test_braces_of_other_languages_are_written_twice(job: Job) -> None:
    assert calls("awk '{{ print toupper($1) }}' {reads[0]} > {calls}; echo ${{HOME:+home}} >> {calls}", job) == (
        "ONE\nhome\n"
    )


@pytest.mark.parametrize("command", ["false; true", "false | true", "echo $NO_SUCH_VARIABLE"])
def test_every_failure_ends_it(command: str, job: Job) -> None:
    with pytest.raises(StepFailed, match=r"^The command of call ended with exit code 1"):
        calls(command, job)


def test_the_log_has_the_command_with_its_values(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    calls("cat {reads} | sort > {calls}", job)
    reads = " ".join(shlex.quote(str(file)) for file in job.inputs("reads"))
    assert capfd.readouterr().out == f"+ cat {reads} | sort > S1.txt\n"


def test_a_gather_has_the_files_of_all_samples(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for sample in ("S2", "S1"):
        (tmp_path / sample).write_text(f"calls of {sample}\n")
    job = Job(
        sample="all",
        step="merge",
        work=work,
        gathered_files={"calls": {sample: (tmp_path / sample,) for sample in ("S2", "S1")}},
        output_names={"merged": ("merged.txt",)},
    )
    run_command(Merge(), job)
    assert job.output("merged").read_text() == "calls of S2\ncalls of S1\nS2 S1\n"

    job.gathered_columns = {"S2": {"strand": "a b"}, "S1": {"strand": "c"}}
    command = "printf '%s,' {strand} > {merged}"
    run_command(type("Columns", (Merge,), {"strand": Column(), "command": command})(), job)
    assert job.output("merged").read_text() == "a b,c,"


class Report(Step):
    """Reads a directory and any number of files, and leaves a directory."""

    qc = Input()
    parts = Input()
    report = Output("report/")


def test_a_directory_is_one_folder_and_many_are_all_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, work = tmp_path / "in" / "qc", tmp_path / "work"
    for path in (folder, work / "report"):
        path.mkdir(parents=True)
    parts = tuple(tmp_path / f"{number}.part" for number in range(150))
    job = Job(
        sample="S1",
        step="report",
        work=work,
        input_files={"qc": (folder / "a", folder / "b"), "parts": parts},
        input_folders={"qc": folder},
        output_names={"report": ("report/",)},
    )
    step = type("Reported", (Report,), {"command": "printf '%s\\n' {qc} {parts} > {report}/words"})()
    run_command(step, job)
    assert (job.output("report") / "words").read_text().splitlines() == [str(folder), *map(str, parts)]
    logged = capfd.readouterr().out
    assert str(parts[99]) in logged
    assert str(parts[100]) not in logged
    assert "… (150 in all) > report/words" in logged


def test_a_gathered_directory_is_a_folder_a_sample(tmp_path: Path) -> None:
    folders = {sample: tmp_path / sample / "qc" for sample in ("S2", "S1")}
    job = Job(
        sample="_cohort",
        step="report",
        work=tmp_path,
        gathered_files={"qc": {sample: (folder / "a", folder / "b") for sample, folder in folders.items()}},
        gathered_folders={"qc": folders},
        output_names={"report": ("words",)},
    )
    run_command(type("Gathered", (Report,), {"command": "printf '%s\\n' {qc} > {report}"})(), job)
    assert job.output("report").read_text().splitlines() == [str(folder) for folder in folders.values()]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("cat {reeds}", r"\{reeds\} in the command of Called stands for nothing; there are \{reads\}, \{genome\}, "),
        ("cat {output.reads}", r"\{output.reads\} in the command of Called stands for nothing"),
        ("awk '{print $1}'", r"'\{print \$1\}' in the command is no name .* written twice: \{\{ and \}\}"),
        ("echo ${HOME}", r"\{HOME\} .* written twice"),
        ("cat > x <<END\n{sample}\nEND", r"\{sample\} stands in or behind a here document"),
        ("cat <<! > x\n{sample}\n!", r"\{sample\} stands in or behind a here document"),
        ("cat > x <<1\n{sample}\n1", r"\{sample\} stands in or behind a here document"),
        ("echo {", r"'\{' in the command is no name"),
        ("echo {reads[x]}", "is no name"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused(command: str, sentence: str) -> None:
    with pytest.raises(InvalidPipeline, match=sentence):
        require_command(type("Called", (Call,), {"command": command}))


@pytest.mark.parametrize(
    "command",
    [
        "echo $(( {title} * 2 ))",
        'echo "$(( (1 + (2)) * {title} ))"',
        "[[ -n x && 3 -gt {title} ]]",
        "for ((i = 0; i < {title}; i++)); do :; done",
        "v=abc; echo ${{v:{title}:1}}",
        "a=(1 2); echo ${{a[{title}]}}",
        "let n={title}+1",
        'eval "echo {sample}"',
    ],
)
def test_a_text_where_bash_runs_what_stands_in_it_is_refused(command: str) -> None:
    with pytest.raises(InvalidPipeline, match="is a text where bash would run what stands in it"):
        require_command(type("Called", (Call,), {"command": command}))


@pytest.mark.parametrize(
    "command",
    [
        "echo $(( {quality} * {cpus} ))",
        "[[ {title} == x ]] && [[ {quality} -gt 3 ]]",
        "echo $(echo 1) {title}; [ 3 -gt {title} ]",
        "echo $((1 << 2)) $((x <<= 1)); cat <<< x; echo {title}",
        "v=abc; echo ${{v:-{title}}}; ( (true) ); echo {title}",
    ],
)
def test_numbers_may_be_read_as_arithmetic_and_texts_elsewhere(command: str) -> None:
    require_command(type("Called", (Call,), {"command": command}))


def test_a_file_that_a_port_does_not_have_is_told(job: Job) -> None:
    with pytest.raises(StepFailed, match=r"The command of call uses \{reads\[2\]\}, but reads has 2 files"):
        calls("cat {reads[2]} > {calls}", job)


def test_lines_of_the_script_are_those_of_the_template_and_one() -> None:
    template = """
        echo {a}
          echo {b} {a}
    """
    assert [field.name for field in fields_of(template)] == ["a", "b", "a"]
    lines = script_of(template, lambda field: [field.name * 2]).split("\n")
    assert lines == ["_0_a=(aa); _1_b=(bb)", 'echo "${_0_a[@]}"', '  echo "${_1_b[@]}" "${_0_a[@]}"', ""]
