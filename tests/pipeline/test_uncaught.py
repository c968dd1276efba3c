"""Mistakes in the file of a pipeline, found while Python makes its classes: one sentence, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import batch_pipeline

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(batch_pipeline.__file__).parents[1])}
#: Its eighth line is the first that tests put into the step, and its third the first of the module.
PIPELINE = """from __future__ import annotations
from batch_pipeline import Column, Input, Output, Param, Reference, Step, WorkflowTask
{module}
class Upper(Step):
    text = Input()
    upper = Output("upper.txt")
    command = "cat {{text}} > {{upper}}"
    {step}
class Letters(WorkflowTask):
    def workflow(self):
        self.new_task("upper", Upper).in_text = self.source("{{sample}}.txt")
if __name__ == "__main__":
    Letters.main()
"""


def ended(folder: Path, *args: str, step: str = "pass", module: str = "") -> tuple[int, str]:
    """Exit code and errors of a pipeline's file with these lines."""
    (folder / "main.py").write_text(PIPELINE.format(step=step, module=module))
    command = [sys.executable, "main.py", *args]
    process = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return process.returncode, process.stderr


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("more = Inptu()", "NameError: name 'Inptu' is not defined"),
        ("more = Input(optinal=True)", "TypeError: Input.__init__() got an unexpected keyword argument 'optinal'"),
        ("more = Output(5)", "Output file 5 must be a text"),
        ("more = Output()", "An Output names at least one file: Output('counts.tsv')."),
        ("more = Param()", "TypeError: Param() missing 1 required positional argument: 'default'"),
        ("more = Param(None)", "A Param's default is a bool, int, float or str, not None; it gives the type."),
        ("more = Param(3, maximum=2)", "A Param's default breaks its own rule: it must be at most 2, not 3."),
        ("more = Column(type=list)", "Column '': its type must be bool, int, float or str"),
        ("more = Column(7)", "A Column's name must be a text"),
        ("more = Reference(('a.fa', 'b.fa'))", "A Reference's file must be a text, not ('a.fa', 'b.fa')"),
        ("more = Reference()", "A Reference names at least one file: Reference('genome.fa')."),
        ("cpus = {}[1]", "KeyError: 1"),
    ],
)
def test_a_mistake_in_the_class_of_a_step_is_one_sentence_with_its_line(tmp_path: Path, step: str, words: str) -> None:
    code, errors = ended(tmp_path, "plan", step=step)
    first, text, last = errors.splitlines()
    assert (code, text, last) == (2, f"    {step}", "Correct the pipeline there.")
    assert first.startswith(f"Error: {tmp_path / 'main.py'}, line 8: {words}")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("class Other(Stpe): pass", "NameError: name 'Stpe' is not defined"),
        ("from batch_pipeline import Inptu", "ImportError: cannot import name 'Inptu' from 'batch_pipeline'"),
        ("import modul_of_nobody", "ModuleNotFoundError: No module named 'modul_of_nobody'"),
    ],
)
def test_a_mistake_in_a_line_of_the_module_is_told_alike(tmp_path: Path, module: str, words: str) -> None:
    code, errors = ended(tmp_path, module=module)
    assert (code, errors.splitlines()[1:]) == (2, [f"    {module}", "Correct the pipeline there."])
    assert errors.startswith(f"Error: {tmp_path / 'main.py'}, line 3: {words}")


def test_a_mistake_in_a_module_of_steps_has_that_module_s_line(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text("from batch_pipeline import Step\n\nclass Trim(Step)\n    cpus = 2\n")
    code, errors = ended(tmp_path, module="from steps import Trim")
    sentence = f"Error: {tmp_path / 'steps.py'}, line 3: SyntaxError: expected ':'\n    class Trim(Step)\n"
    assert (code, errors) == (2, f"{sentence}Correct the pipeline there.\n")


def test_text_that_a_function_cannot_parse_is_no_mistake_of_a_file(tmp_path: Path) -> None:
    code, errors = ended(tmp_path, module="import ast\ndef read(): return ast.parse('(')\nread()")
    assert (code, errors.partition("\n")[0]) == (1, "Traceback (most recent call last):")
    assert "Correct the pipeline" not in errors


def test_verbose_prints_the_traceback_before_the_sentence(tmp_path: Path) -> None:
    code, errors = ended(tmp_path, "plan", "--verbose", step="more = Inptu()")
    assert code == 2
    assert errors.startswith("Traceback (most recent call last):")
    assert errors.endswith("    more = Inptu()\nCorrect the pipeline there.\n")


@pytest.mark.parametrize("module", ["1 / 0", "def made(): return nothing\nmade()"])
def test_an_error_that_may_lie_deeper_keeps_its_traceback(tmp_path: Path, module: str) -> None:
    code, errors = ended(tmp_path, module=module)
    assert (code, errors.splitlines()[0]) == (1, "Traceback (most recent call last):")


def test_another_hook_is_left_alone(tmp_path: Path) -> None:
    ended(tmp_path, step="x = y")
    (tmp_path / "first.py").write_text("import sys\nsys.excepthook = lambda *error: print('mine')\nimport main\n")
    process = subprocess.run(
        [sys.executable, "first.py"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=False
    )
    assert (process.returncode, process.stdout, process.stderr) == (1, b"mine\n", b"")
