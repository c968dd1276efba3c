"""What is wrong with a pipeline's code is found before anything is sent, all of it, with file and line."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch_pipeline import WorkflowTask
from batch_pipeline.pipeline.code import code_digests
from batch_pipeline.pipeline.review import code_problems, code_warnings, require_kinds, require_sound
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.errors import InvalidPipeline

#: Its twelfth line is the first of its step's that tests put there, and its fifth the first of the module's.
PIPELINE = """from __future__ import annotations
import os
from os import environ, getenv
from batch_pipeline import Input, Output, Param, Reference, Scope, Step, WorkflowTask
{module}

class Upper(Step):
    \"\"\"Makes letters large.\"\"\"
    text = Input()
    upper = Output("upper.txt")
    other = Output("{{sample}}.txt", "more.txt")
    {step}
{made}
class Letters(WorkflowTask):
    {workflow}
    def workflow(self):
        self.new_task("upper", {name}).in_text = self.source("{{sample}}.txt")
{end}
"""
Make = Callable[..., type[WorkflowTask]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A pipeline with lines of the test's, as its file makes it; the scripts beside it may be executed."""
    for name, text in (
        ("good.sh", "#!/bin/sh\n"),
        ("bare.sh", "echo\n"),
        ("dos.sh", "#!/bin/sh\r\n"),
        ("no.sh", "#!x\n"),
    ):
        (tmp_path / name).write_bytes(text.encode())
        (tmp_path / name).chmod(0o644 if name == "no.sh" else 0o755)
    monkeypatch.setenv("LANE", "L1")

    def made(**lines: str) -> type[WorkflowTask]:
        values = {"module": "", "step": "", "made": "", "workflow": '"""Doc."""', "name": "Upper", "end": ""} | lines
        if not any(word in values["step"] for word in ("command", "script", "unrunnable")):
            values["step"] = "; ".join(filter(None, (values["step"], "run = lambda self, job: None")))
        (tmp_path / "reviewed.py").write_text(PIPELINE.format(**values))
        spec = importlib.util.spec_from_file_location("reviewed", tmp_path / "reviewed.py")
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["reviewed"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        workflow: type[WorkflowTask] = module.Letters
        return workflow

    yield made
    sys.modules.pop("reviewed", None)


@pytest.mark.parametrize("name", ["main.v2.py", "a\\b.py"])
def test_a_file_that_containers_cannot_import_is_refused(make: Make, tmp_path: Path, name: str) -> None:
    workflow = make()
    (tmp_path / "reviewed.py").rename(tmp_path / name)
    sys.modules["reviewed"].__file__ = str(tmp_path / name)
    problems = code_problems(Graph.of(workflow))
    assert any(f"containers cannot import Upper from a file named {name}." in problem for problem in problems)


def test_a_main_that_containers_would_call_is_refused(make: Make, tmp_path: Path) -> None:
    guarded = 'if __name__ == "__main__":\n    Letters.main()'
    assert not code_problems(Graph.of(make(end=guarded)))
    workflow = make()
    (tmp_path / "reviewed.py").write_text((tmp_path / "reviewed.py").read_text() + "Letters.main()\n")
    (problem,) = code_problems(Graph.of(workflow))
    assert problem == (
        f"{tmp_path}/reviewed.py, line 19: Letters.main() would be called in containers too, which import the file."
        ' Write it below `if __name__ == "__main__":`.'
    )


IN_FUNCTION = "def make():\n    class Inner(Upper):\n        pass\n    return Inner"


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (
            {"step": 'scope = "cohort"'},
            12,
            "Upper.scope must be Scope.SAMPLE, Scope.PART, Scope.GROUP or Scope.COHORT, not 'cohort'.",
        ),
        ({"step": 'memory_mb = "1500M"'}, 12, "Upper.memory_mb must be a whole number of MiB"),
        ({"step": "memory_mb = 0"}, 12, "Upper.memory_mb must be a whole number of MiB"),
        ({"step": 'cpus = "2"'}, 12, "Upper.cpus must be a number of vCPUs, without quotes, not '2'."),
        ({"step": "cpus: int = True"}, 12, "Upper.cpus must be a number"),
        ({"step": 'timeout_seconds = "1h"'}, 12, "Upper.timeout_seconds must be a whole number of seconds"),
        ({"step": "max_parallel = 0"}, 12, "Upper.max_parallel must be a whole number of cells from 1 on, or None"),
        ({"step": 'tolerant = "no"'}, 12, "Upper.tolerant must be True or False, not 'no'."),
        ({"step": "tolerant = True"}, 12, "Upper.tolerant is for gathers, and this step runs for each sample. Remove"),
        ({"step": "image = None"}, 12, "Upper.image must be an image's name, not None."),
        ({"step": 'tools = "samtools"'}, 12, "Upper.tools must be a tuple of names"),
        (
            {"step": 'counts: Output = "x"'},
            12,
            "Upper.counts is 'x', which declares no port. Write NAME = Output('x').",
        ),
        (
            {"step": "genome = Reference"},
            12,
            "Upper.genome is the class Reference itself, which declares no port. Write",
        ),
        (
            {"step": 'n: int = Param("13")'},
            12,
            "Upper.n is annotated as int, but its default '13' is of type str, which",
        ),
        ({"step": "n: float = Param(1)"}, 12, "Give a default of type float, or write n: int."),
        ({"step": 'Output = "x"'}, 12, "Upper.Output is 'x', which declares no port."),
        ({"step": 'reads: Input = ("a", "b")'}, 12, "Upper.reads is ('a', 'b'), which declares no port."),
        ({"step": 'again = Output("a.txt", "upper.txt")'}, 12, "Upper.again names the file 'upper.txt', which upper"),
        ({"step": 'again = Output("./{sample}.txt")'}, 12, "Upper.again names the file './{sample}.txt', which other"),
        ({"step": 'all = Output("*.vcf")'}, 12, "Upper.all has the pattern '*.vcf'. Give the Output many=True"),
        ({"step": 'all = Output("a/**/b", many=True)'}, 12, "Upper.all has the pattern 'a/**/b', but ** is not known."),
        ({"step": 'all = Output("a/", many=True)'}, 12, "Upper.all has many=True and the directory 'a/'."),
        ({"step": 'qc = Output("qc/", "b.txt")'}, 12, "Upper.qc has the directory 'qc/' beside other names."),
        ({"step": 'qc = Output("b.txt", "qc/")'}, 12, "Upper.qc has the directory 'qc/' beside other names."),
        ({"step": 'qc = Output(".//")'}, 12, "Upper.qc is the working directory itself."),
        (
            {"step": 'qc = Output("qc/"); a = Output("./qc/a.txt")'},
            12,
            "a is './qc/a.txt', and qc is 'qc/': a file",
        ),
        ({"step": 'qc = Output("qc/"); a = Output("./qc/a/")'}, 12, "Upper.a is 'qc/a/', and qc is 'qc/': a file may"),
        ({"step": 'qc = Output("qc//"); a = Output("qc")'}, 12, "Upper.a is 'qc', and qc is 'qc/': a file may"),
        ({"step": 'qc = Output("a/b/"); a = Output("a")'}, 12, "Upper.a is 'a', and qc is 'a/b/': a file may belong"),
        ({"step": 'qc = Output("qc/"); a = Output("*/a", many=True)'}, 12, "Upper.a is '*/a', and qc is 'qc/'"),
        ({"step": 'all = Output("u*.txt", many=True)'}, 12, "Upper.all is 'u*.txt', and upper is 'upper.txt'"),
        ({"step": 'all = Output("[m{]*", many=True)'}, 12, "Upper.all is '[m{]*', and other is '{sample}.txt'"),
        (
            {"step": 'a = Output("./*.b", many=True); b = Output("*.b", many=True)'},
            12,
            "Upper.b is '*.b', and a is '*.b': a file may belong to one output only.",
        ),
        (
            {"step": 'command = "split {parts}"; parts = Output("*.part", many=True)'},
            12,
            "{parts} in the command of Upper stands for files that are not there before it runs, those like '*.part'.",
        ),
        ({"step": "unrunnable = True"}, 7, "Upper has no command, no script and no run(); it needs one of them."),
        ({"step": 'a = Output("{wildcards.id}.b")'}, 12, "but {wildcards.id} stands for nothing there. Only {sample}"),
        ({"step": "command = 7"}, 12, "Upper.command must be a text for bash, not 7."),
        (
            {"step": 'command = "cat {texts} > {upper}"'},
            12,
            "{texts} in the command of Upper stands for nothing;",
        ),
        ({"step": 'command = "awk {print}"; print = Param(1); script = "good.sh"'}, 12, "has a command and a script;"),
        (
            {"step": 'command = "x"; run = lambda self, job: None'},
            12,
            "Upper has a command and run(); a step is run",
        ),
        (
            {"step": 'script = "good.sh"; run = lambda self, job: None'},
            12,
            "Upper has a script and run(); a step is run",
        ),
        (
            {"step": 'script = "good.sh"; times = Param(1); Times = Param(2)'},
            12,
            "Upper.Times and times would be one variable for the script, …_TIMES. Rename one.",
        ),
        ({"step": 'script = "no.sh"'}, 12, "the script no.sh is not executable. Run: chmod +x "),
        ({"step": 'script = "bare.sh"'}, 12, "the script bare.sh does not say what runs it. Give it a first line"),
        ({"step": 'script = "dos.sh"'}, 12, "the script dos.sh has the line ends of Windows"),
        ({"made": IN_FUNCTION, "name": "make()"}, 14, "Inner is not at the top level of its module"),
        (
            {"made": "class Box:\n    class Upper(Upper): pass", "name": "Box.Upper"},
            14,
            "Upper is not at the top level",
        ),
        (
            {"made": 'if __name__ == "reviewed":\n    class Late(Upper): pass', "name": "Late"},
            14,
            "Late is not at the top level of its module",
        ),
    ],
)
def test_what_would_fail_in_every_container_is_found(
    make: Make, tmp_path: Path, lines: dict[str, str], line: int, words: str
) -> None:
    (problem,) = code_problems(Graph.of(make(**lines)))
    assert problem.startswith(f"{tmp_path / 'reviewed.py'}, line {line}: ")
    assert words in problem


@pytest.mark.parametrize(
    "step",
    [
        'qc = Output("qc/"); all = Output("*.vcf", many=True); b = Output("qc.txt")',
        'qc = Output("qc/"); all = Output("*", many=True); del upper, other',
        'qc = Output("a/b/"); all = Output("*/c", many=True); c = Output("a/c/")',
        'all = Output("*.txt", many=True); del upper, other; sub = Output("sub/*.txt", many=True)',
    ],
)
def test_directories_and_patterns_that_do_not_overlap_are_sound(make: Make, step: str) -> None:
    assert code_problems(Graph.of(make(step=step))) == []


@pytest.mark.parametrize(
    "lines",
    [
        {},
        {"step": 'script = "good.sh"; memory_mb = 1500; cpus = 0.5; timeout_seconds = 60; tools = ["sh"]'},
        {"step": 'scope = Scope.COHORT; label: str = "Output"; word: Param = Param("x")'},
        {"step": 'command = "tr a-z A-Z < {text} > {upper}; touch {other}"'},
        {"made": "Made = type('Made', (Upper,), {})", "name": "Made"},
    ],
)
def test_what_is_right_is_left_alone(make: Make, lines: dict[str, str]) -> None:
    graph = Graph.of(make(**lines))
    assert code_problems(graph) == []
    assert code_warnings(graph) == []


def test_a_file_is_parsed_once_for_digests_and_review(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph.of(make(step="third = Output('{sample}.bam')"))
    texts: list[bytes] = []
    as_tree = ast.parse

    def parse(text: bytes, *_: object, **__: object) -> ast.Module:
        texts.append(text)
        return as_tree(text)

    monkeypatch.setattr(ast, "parse", parse)
    code_digests(type(graph["upper"].step), graph.root)
    require_sound(graph)
    assert len(texts) == len(set(texts)) == 1


def test_all_that_is_wrong_is_told_at_once(make: Make) -> None:
    found = code_problems(Graph.of(make(step='cpus = "2"; script = "no.sh"; again = Output("more.txt")')))
    assert [words in one for words, one in zip(("cpus", "more.txt", "no.sh"), found, strict=True)] == [True] * 3


RUN_BY_COMMAND = 'command = "tr a-z A-Z < {text} > {upper}; touch {other}"'


@pytest.mark.parametrize(
    ("attribute", "remedy"),
    [
        ("threads = 4", "Write cpus = N, the vCPUs of a job."),
        ("cores: int = 4", "Write cpus = N"),
        ('memory = "4 GB"', "Write memory_mb = N, the MiB of a job."),
        ('container = "docker://samtools"', 'Write image = "NAME".'),
        ('shell = "wc -l"', 'Write command = "…".'),
        ('input = "reads.bam"', "Write NAME = Input()."),
        ('output = ("a.txt",)', 'Write NAME = Output("FILE").'),
        ('params = {"quality": 20}', "Write NAME = Param(DEFAULT)."),
        ("resources = dict(mem_mb=4000)", "Write cpus = N, the vCPUs of a job. Write memory_mb = N"),
    ],
)
def test_a_word_of_another_workflow_system_is_told_with_ours(
    make: Make, tmp_path: Path, attribute: str, remedy: str
) -> None:
    word = re.split(r"\W", attribute)[0]
    start = (
        f"{tmp_path / 'reviewed.py'}, line 12: Upper.{word} is a word of other workflow systems, and nothing reads it."
    )
    (problem,) = code_problems(Graph.of(make(step=f"{attribute}; {RUN_BY_COMMAND}")))
    assert problem.startswith(f"{start} {remedy}")
    graph = Graph.of(make(step=attribute))
    assert code_problems(graph) == []
    (warning,) = code_warnings(graph)
    assert warning == problem


def test_a_word_of_another_workflow_system_is_told_where_nothing_is_run(make: Make) -> None:
    second, first = code_problems(Graph.of(make(step='shell = "wc"; unrunnable = True')))
    assert "Upper.shell is a word of other workflow systems" in first
    assert "Upper has no command, no script and no run()" in second


@pytest.mark.parametrize(
    "lines",
    [
        {"step": "threads: int = Param(4)"},
        {"step": "threads = 4; check = lambda self, job: self.threads"},
        {"step": "threads = 4", "made": "print(getattr(Upper, 'threads'))"},
        {"step": "threads = property(lambda self: 4)"},
        {"step": "runtime: int"},
    ],
)
def test_a_word_that_code_reads_is_the_pipelines_own(make: Make, lines: dict[str, str]) -> None:
    graph = Graph.of(make(**lines))
    assert code_problems(graph) + code_warnings(graph) == []


@pytest.mark.parametrize("item", ["Param(3)", "Output('x')", "Input()"])
def test_what_belongs_to_a_step_is_refused_in_a_pipeline(make: Make, tmp_path: Path, item: str) -> None:
    with pytest.raises(InvalidPipeline, match=r"reviewed.py, line 15: Letters.depth declares something of a step"):
        Graph.of(make(workflow=f"depth = {item}"))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ('image = Param("x")', "Upper declares the name 'image', which has another meaning in every Step. Rename it."),
        ("cpus = Column(type=int)", "Upper declares the name 'cpus', which"),
        ('check = "samtools"', "Upper declares the name 'check', which"),
        ("when = 5", "when of upper must be a text with a condition, not 5."),
        ("image = Path('x')", "Upper.image must be an image's name, not PosixPath('x')."),
        ("image = b'x'", "Upper.image must be an image's name, not b'x'."),
        ('files = "good.sh"', "Upper.files must be a tuple of names: (\"table.tsv\",), not 'good.sh'."),
        ("files = None", "Upper.files must be a tuple of names"),
        ("files = (5,)", "Upper.files must be a tuple of names"),
        ("script = Path('good.sh')", "Upper.script must be a file's name, not PosixPath('good.sh')."),
        ("cpus = '4'", "Upper.cpus must be a number of vCPUs, without quotes, not '4'."),
    ],
)
def test_a_value_of_another_kind_is_told_before_a_digest_is_made(
    make: Make, tmp_path: Path, step: str, words: str
) -> None:
    with pytest.raises(InvalidPipeline) as refused:
        require_kinds(Graph.of(make(module="from batch_pipeline import Column; from pathlib import Path", step=step)))
    assert refused.value.message.startswith(f"{tmp_path / 'reviewed.py'}, line 12: {words}")


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ('script = "gone.sh"', "Upper names the file 'gone.sh', which is not beside {file}."),
        ('script = "wc -l x"', "the file 'wc -l x', which is not beside {file}. Write a command as command = \"…\"."),
        ('script = "wc " * 999', " which is not beside {file}. Write a command as"),
        ('files = ("../a.tsv",)', "Upper names the file '../a.tsv', which is not beside {file}."),
    ],
)
def test_a_file_that_is_not_there_is_told_with_its_line(make: Make, tmp_path: Path, step: str, words: str) -> None:
    file = tmp_path / "reviewed.py"
    with pytest.raises(InvalidPipeline, match=f"^{file}, line 12: .*{re.escape(words.format(file=file))}"):
        code_warnings(Graph.of(make(step=step)))


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        ({"module": 'X = os.environ["LANE"]'}, 5, "os.environ['LANE'] is read when the module is imported"),
        ({"module": 'X = os.getenv("LANE", "")'}, 5, "os.getenv('LANE', '') is read"),
        ({"module": 'X = int(environ.get("N") or 3)'}, 5, "environ.get('N') is read"),
        ({"step": 'LANE = getenv("LANE")'}, 12, "getenv('LANE') is read"),
    ],
)
def test_a_constant_of_the_drivers_environment_is_warned_of(
    make: Make, tmp_path: Path, lines: dict[str, str], line: int, words: str
) -> None:
    (warning,) = code_warnings(Graph.of(make(**lines)))
    assert warning.startswith(f"{tmp_path / 'reviewed.py'}, line {line}: {words}")
    assert "containers have another environment. Make it a Param" in warning


@pytest.mark.parametrize(
    "line",
    [
        'os.environ["OMP_NUM_THREADS"] = "1"',
        'os.environ.setdefault("OMP_NUM_THREADS", "1")',
        'def late(): return os.environ["LANE"]',
        'if __name__ == "__main__": print(os.environ["LANE"])',
    ],
)
def test_what_is_written_or_read_later_is_not_warned_of(make: Make, line: str) -> None:
    assert code_warnings(Graph.of(make(module=line))) == []
