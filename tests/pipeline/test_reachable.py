"""What of a pipeline's code a step may use: what it names, what has an effect, and all where names are hidden."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from batch_pipeline.pipeline.analysis.reachable import ORDER, reachable

Sources = Mapping[str, str]

ONE = '''"""A pipeline in one file."""

from __future__ import annotations

import json
import shutil
import tools
from batch_pipeline import Input, Learned, Output, Step, WorkflowTask
from tools import base as root

LIMIT = 3
OTHER = {"a": 1}


def scaled(number):
    """Scales."""
    return number * LIMIT


def unused(number):
    return number + OTHER["a"]


class A(Step):
    """Makes a."""

    reads = Input()
    memory_mb = 1024

    def run(self, job):
        """Runs."""
        return json.dumps(scaled(2)) + tools.clean("x")


class B(Step):
    """Makes b."""

    out = Output("b.txt")

    def run(self, job):
        return unused(5) + root.START


class Both(WorkflowTask):
    def workflow(self):
        self.new_task("a", A)
        self.new_task("b", B)


if __name__ == "__main__":
    Both.main()
'''
TOOLS = '''"""Tools."""

import re

from tools.base import START

SPACE = re.compile("x")


def clean(text):
    return SPACE.sub("y", text) * START


def dirty(text):
    return text + "!"
'''
PIPELINE = {"one.py": ONE, "tools/__init__.py": TOOLS, "tools/base.py": "START = 2\nEND = 3\n"}


def names(sources: Sources, name: str = "A", module: str = "one", files: tuple[str, ...] = ()) -> dict[str, list[str]]:
    data = {file: text.encode() for file, text in sources.items()}
    return reachable(data, module, name, classes={(module, "A"), (module, "B")}, files=files)


def changed(sources: Sources, old: str, new: str) -> dict[str, str]:
    """The pipeline with one text replaced, in the one file that has it."""
    (file,) = (file for file, text in sources.items() if old in text)
    assert sources[file].count(old) == 1
    return {**sources, file: sources[file].replace(old, new)}


def differing(before: Sources, after: Sources, name: str) -> set[str]:
    one, other = names(before, name), names(after, name)
    return {key for key in {*one, *other} if one.get(key) != other.get(key)}


def test_a_step_s_code_is_what_it_names_and_what_that_names() -> None:
    assert [key for key in sorted(names(PIPELINE)) if not key.endswith(".py")] == [
        "one.A",
        "one.A.run",
        "one.LIMIT",
        "one.scaled",
        "tools.SPACE",
        "tools.base.START",
        "tools.clean",
    ]


HELPFUL = """{imports}
{module}

class A(Step):
    {own}
    depth: int = {declaration}

    def run(self, job):
        return {used}
"""


def helps(help: str, **texts: str) -> dict[str, list[str]]:
    """What counts of a step with a parameter that has a help."""
    values = {"imports": "from batch_pipeline import Param, Step", "module": "", "own": "", "used": "1"}
    values |= {"declaration": 'Param(1, help="{help}")'} | texts
    values["declaration"] = values["declaration"].replace("{help}", help)
    return names({"one.py": HELPFUL.format(**values)})


@pytest.mark.parametrize(
    "texts",
    [
        {},
        {"declaration": 'Param(1, minimum=0, help="{help}", maximum=9)'},
        {"module": "import batch_pipeline as bp", "declaration": 'bp.Param(1, help="{help}")'},
        {"imports": "from batch_pipeline import Param as P, Step", "declaration": 'P(1, help="{help}")'},
        {"imports": "from batch_pipeline.pipeline.step import Param, Step"},
        {"imports": "from batch_pipeline import Column, Step", "declaration": 'Column(type=int, help="{help}")'},
        {"imports": "from batch_pipeline import Reference, Step", "declaration": 'Reference("a.fa", help="{help}")'},
        {"used": "self.depth"},
    ],
)
def test_a_help_is_no_part_of_what_a_step_does(texts: dict[str, str]) -> None:
    assert helps("Depth.", **texts) == helps("Least depth.", **texts)


@pytest.mark.parametrize(
    "texts",
    [
        {"used": "type(self).depth.help"},
        {"used": "A.declared(Param)['depth'].help"},
        {"used": "getattr(A.depth, 'help')"},
        {"used": "'{0.help}'.format(A.depth)"},
        {"used": "vars(A.depth)"},
        {"used": "A.depth.__dict__"},
        {"used": "[one for one in () if (lambda it: it.help)(one)]"},
        {"imports": "from batch_pipeline import Step", "module": "def Param(default, help): return help"},
        {"module": "Param = print"},
        {"module": "def late():\n    global Param\n    Param = print\nlate()"},
        {"module": "try:\n    from mine import Param\nexcept ImportError:\n    pass"},
        {"module": "from mine import *"},
        {"imports": "from mine import Param, Step"},
        {"own": "Param = dict"},
        {"own": "from mine import Param"},
        {"declaration": 'print(Param(1), "{help}")'},
        {"declaration": 'print(1, help="{help}")'},
        {"imports": "from batch_pipeline import Reference, Step", "declaration": 'Reference("{help}")'},
        {"imports": "from batch_pipeline import Reference, Step", "declaration": 'Reference("a.fa", "{help}")'},
        {"imports": "from batch_pipeline import Reference, Step", "declaration": 'Reference(*(), "{help}")'},
        {"imports": "from batch_pipeline import Reference, Step", "declaration": 'Reference(*("x",), "{help}")'},
        {"imports": "from batch_pipeline import Output, Step", "declaration": 'Output("{help}")'},
        {"declaration": 'Param("{help}")'},
        {"declaration": 'Param(1, choices=("{help}",))'},
    ],
)
def test_a_help_counts_where_code_may_read_it(texts: dict[str, str]) -> None:
    assert helps("Depth.", **texts) != helps("Least depth.", **texts)


def test_a_step_named_like_a_resource_or_a_help_counts_as_ever() -> None:
    assert helps("", own="help = 3") != helps("", own="help = 4")


@pytest.mark.parametrize(
    ("old", "new", "of_a", "of_b"),
    [
        ("LIMIT = 3", "LIMIT = 3  # as before", set(), set()),
        ("LIMIT = 3", "LIMIT = (3)", set(), set()),
        ('json.dumps(scaled(2)) + tools.clean("x")', "json.dumps(scaled(2))+tools.clean('x')", set(), set()),
        ('"""Scales."""', '"""Multiplies."""', set(), set()),
        ('"""Makes a."""', '"""Makes A."""', set(), set()),
        ('"""A pipeline in one file."""', '"""Another."""', set(), set()),
        ("memory_mb = 1024", "memory_mb = 4 * 1024", set(), set()),
        ("    memory_mb = 1024\n", "", set(), set()),
        ("memory_mb = 1024", "memory_mb = Learned(1024, percent=95)", set(), set()),
        ("memory_mb = 1024", "def memory_mb(self, cell):\n        return unused(cell.source_bytes)", set(), set()),
        ("memory_mb = 1024", "def timeout_seconds(self, cell):\n        return 60", set(), set()),
        ("memory_mb = 1024", "def cpus(self, cell):\n        return 60", set(), set()),
        ("    memory_mb = 1024", "    memory_mb = 1024\n    when = \"lane != '1'\"", set(), set()),
        ("import shutil\n", "", set(), set()),
        ("Both.main()", "print(Both)", set(), set()),
        ('self.new_task("b", B)', "pass", set(), set()),
        ("END = 3", "END = 4", set(), set()),
        ("LIMIT = 3", "LIMIT = 4", {"one.LIMIT"}, set()),
        ("number * LIMIT", "number + LIMIT", {"one.scaled"}, set()),
        ('OTHER = {"a": 1}', 'OTHER = {"a": 2}', set(), {"one.OTHER"}),
        ("unused(5)", "unused(6)", set(), {"one.B.run"}),
        ("reads = Input()", "reads = Input('Reads.')", set(), set()),
        ("reads = Input()", "reads = Input(help='Reads.')", set(), set()),
        ("reads = Input()", "reads = Input(optional=True)", {"one.A"}, set()),
        ("reads = Input()", "reads = Input(help=str(LIMIT))", {"one.A"}, set()),
        ('Output("b.txt")', 'Output("b.txt", help="A table.")', set(), set()),
        ('Output("b.txt")', 'Output("b.txt", "A table.")', set(), {"one.B"}),
        ('re.compile("x")', 're.compile("z")', {"tools.SPACE"}, set()),
        ('text + "!"', 'text + "?"', set(), set()),
        ("START = 2", "START = 4", {"tools.base.START"}, {"tools.base.START"}),
        ("import json\n", "import simplejson as json\n", {"one.py"}, set()),
        ("LIMIT = 3", "LIMIT = 3\nprint()", {"one.py"}, {"one.py"}),
        ("from __future__ import annotations\n", "", {"one.py"}, {"one.py"}),
        ("    reads = Input()", '    image = "tool:2"\n    reads = Input()', {"one.A"}, set()),
    ],
)
def test_only_what_a_step_may_use_counts(old: str, new: str, of_a: set[str], of_b: set[str]) -> None:
    after = changed(PIPELINE, old, new)
    assert (differing(PIPELINE, after, "A"), differing(PIPELINE, after, "B")) == (of_a, of_b)


def one(body: str, above: str = "", extra: str = "") -> dict[str, str]:
    """A pipeline of a step A with this `run`, a function that no one names, and a module beside it."""
    text = (
        f"import tools\nfrom batch_pipeline import Job, Step\n{above}\n"
        "def hidden():\n    return 1\n"
        f"class A(Step):\n    memory_mb = 1\n    def run(self, job):\n        {body}\n{extra}\n"
    )
    return {"one.py": text, "tools.py": "def far():\n    return 1\n", "apart.py": "import one\n"}


HIDDEN = ("def hidden():\n    return 1", "def hidden():\n    return 2")
FAR = ("def far():\n    return 1", "def far():\n    return 2")


@pytest.mark.parametrize(
    ("body", "above"),
    [
        ("globals()['hidden']()", ""),
        ("vars()", ""),
        ("getattr(self, job.sample)", ""),
        ("setattr(tools, job.sample, 1)", ""),
        ("list(map(getattr, [], []))", ""),
        ("eval(job.sample)", ""),
        ("exec('hidden()')", ""),
        ("compile('hidden()', '', 'eval')", ""),
        ("__import__('one').hidden()", ""),
        ("importlib.import_module('one')", "import importlib"),
        ("load('one')", "from importlib import import_module as load"),
        ("sys.modules['one'].hidden()", "import sys"),
        ("system.modules['one'].hidden()", "import sys as system"),
        ("f(sys)", "import sys"),
        ("modules", "from sys import modules"),
        ("inspect.stack()", "import inspect"),
        ("self.run.__globals__", ""),
        ("Step.__subclasses__()", ""),
        ("pickle.loads(job)", "import pickle"),
        ("open(__file__)", ""),
        ("open('one.py')", ""),
        ("sh.python('-m', 'one')", "import sh"),
        ("sh.bash('-c', 'python one.py x')", "import sh"),
        ("sh.bash('-c', 'python -m one x')", "import sh"),
        ("getattr(self.run, '__globals__')", ""),
        ("attrgetter(job.sample)(self)", "from operator import attrgetter"),
        ("attrs(job.sample)(self)", "from operator import attrgetter as attrs"),
        ("hidden()", "from tools import *"),
        ("hidden()", "from elsewhere import *"),
    ],
)
def test_what_may_reach_names_unseen_brings_the_whole_module(body: str, above: str) -> None:
    sources = one(body, above)
    assert differing(sources, changed(sources, *HIDDEN), "A")
    assert differing(sources, changed(sources, "memory_mb = 1", "memory_mb = 2"), "A")


@pytest.mark.parametrize(
    ("body", "above"),
    [
        ("f(tools)", ""),
        ("getattr(tools, job.sample)()", ""),
        ("vars(tools)", ""),
        ("tools.__dict__", ""),
        ("tools.unknown", ""),
        ("self.tools = tools", ""),
        ("importlib.import_module('tools')", "import importlib"),
        ("far()", "from tools import *"),
        ("t.far()", "import tools as t"),
        ("f()", "from tools import far as f"),
        ("getattr(tools, 'far')()", ""),
        ("from tools import far; far()", ""),
        ("import tools as t; t.far()", ""),
        ("global t; import tools as t", ""),
        ("x.t.far()", "class x:\n    import tools as t"),
        ("f()", "try:\n    from tools import far as f\nexcept ImportError:\n    f = None"),
    ],
)
def test_what_is_used_of_another_module_counts(body: str, above: str) -> None:
    sources = one(body, above)
    assert differing(sources, changed(sources, *FAR), "A")


@pytest.mark.parametrize(
    ("extra", "old", "new"),
    [
        ("STEPS = []\ndef step(c):\n    STEPS.append(c)\n@step\ndef late(): return 1", "return 1", "return 2"),
        ("class Base:\n    def __init_subclass__(cls): pass\nclass Late(Base): x = 1", "x = 1", "x = 2"),
        ("class Meta(type): pass\nclass Late(metaclass=Meta): x = 1", "x = 1", "x = 2"),
        ("import luigi\nclass Late(luigi.Task): x = 1", "x = 1", "x = 2"),
        ("class Late:\n    x = tools.far(1)", "far(1)", "far(2)"),
        ("def late(x=tools.far(1)): pass", "far(1)", "far(2)"),
        ("X = tools.far(1)", "far(1)", "far(2)"),
        ("tools.far = 1", "far = 1", "far = 2"),
        ("X = [y for y in (1,)]", "(1,)", "(2,)"),
        ("if tools:\n    X = 1", "X = 1", "X = 2"),
        ("X = 1\nX = 2", "X = 2", "X = 3"),
        ("def __getattr__(name): return 1", "return 1", "return 2"),
        ("import os\nos.umask(1)", "umask(1)", "umask(2)"),
    ],
)
def test_what_has_an_effect_when_it_is_imported_counts_though_no_step_names_it(extra: str, old: str, new: str) -> None:
    sources = one("pass", extra=extra)
    text = sources["one.py"]
    at = text.rindex(old)
    after = {**sources, "one.py": text[:at] + new + text[at + len(old) :]}
    assert differing(sources, after, "A")


@pytest.mark.parametrize(
    "extra",
    [
        "class Late(Step):\n    out = Output('x')\n    def run(self, job): return 1",
        "class Late(Step):\n    @property\n    def x(self): return 1\n    @x.setter\n    def x(self, y): pass",
        "class Base(Step): pass\nclass Late(Base):\n    y = 1",
        "@dataclass(frozen=True)\nclass Late:\n    x: int = field(default=1)",
        "class Late(Enum):\n    X = auto()",
        "@lru_cache(maxsize=1)\ndef late(): return 1",
        "X = re.compile('1')",
        "X = Path('1')",
        "X = frozenset({1})",
        "X: Final = ('1', 2)",
        "X = lambda: tools.far()",
        "if TYPE_CHECKING:\n    import json",
    ],
)
def test_what_only_binds_a_name_counts_for_who_uses_it(extra: str) -> None:
    above = (
        "import re\nfrom dataclasses import dataclass, field\nfrom enum import Enum, auto\nfrom functools import"
        " lru_cache\nfrom pathlib import Path\nfrom typing import Final, TYPE_CHECKING\n"
        "from batch_pipeline import Output"
    )
    assert differing(one("pass", above), one("pass", above, extra), "A") == set()


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ("sh.tool(job.memory_mb)", False),
        ("sh.tool(self.memory_mb)", True),
        ("sh.tool(type(self).memory_mb)", True),
        ("job = self; sh.tool(job.memory_mb)", True),
        ("sh.tool((lambda job: job.memory_mb)(self))", True),
        ("heap(job)", True),
        ("typed(job)", False),
        ("getattr(self, 'memory_mb')", True),
        ("A.memory_mb", True),
        ("print('{step.memory_mb}'.format(step=self))", True),
        ("match self:\n            case A(memory_mb=heap): sh.tool(heap)", True),
        ("print('{memory_mb}')", False),
    ],
)
def test_memory_counts_where_the_code_reads_it_of_the_class(body: str, counts: bool) -> None:
    above = "def heap(job): return job.memory_mb\ndef typed(job: Job): return job.memory_mb"
    sources = one(body, above)
    assert bool(differing(sources, changed(sources, "memory_mb = 1\n", "memory_mb = 2\n"), "A")) is counts


def test_docstrings_count_where_the_code_reads_them() -> None:
    plain, reading = one("'''Doc.'''"), one("'''Doc.'''; print(self.__doc__)")
    assert not differing(plain, changed(plain, "Doc.", "Text."), "A")
    assert differing(reading, changed(reading, "Doc.", "Text."), "A")


def test_the_folder_of_a_module_may_be_asked_for() -> None:
    sources = one("open(HERE / 'a.tsv')", "from pathlib import Path\nHERE = Path(__file__).resolve().parent")
    assert not differing(sources, changed(sources, *HIDDEN), "A")


def test_a_module_of_files_that_is_not_imported_or_is_a_program_counts_whole() -> None:
    program = {**one("tools.far()"), "tools.py": "def far(): pass\nX = 1\nif __name__ == '__main__':\n    far(X)\n"}
    apart = {**one("pass"), "apart.py": "X = 1\n"}
    for file, sources in (("tools.py", program), ("apart.py", apart)):
        after = changed(sources, "X = 1", "X = 2")
        assert names(sources, files=(file,)) != names(after, files=(file,))
        assert names(sources) == names(after)


def test_what_a_program_imports_counts_whole_however_the_import_is_resolved() -> None:
    """A program in a folder imports its neighbours by other names than the step does."""
    sources = {
        **one("lib.tools.far()", "import lib.tools"),
        "lib/tools.py": "def far(): pass\ndef idle(): return 1\n",
        "lib/program.py": "import tools\ntools.idle()\n",
    }
    after = changed(sources, "idle(): return 1", "idle(): return 2")
    assert names(sources) == names(after)
    assert names(sources, files=("lib/program.py",)) != names(after, files=("lib/program.py",))


@pytest.mark.parametrize(
    ("guard", "counts"),
    [
        ("if __name__ == '__main__':", False),
        ("if __name__ != '__main__':", True),
        ("if __name__ == '__main__' or 1:", True),
        ("if __name__ == '__main__' == 1:", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:", False),
        ("TYPE_CHECKING = 1\nif TYPE_CHECKING:", True),
        ("from typing import TYPE_CHECKING\nif not TYPE_CHECKING:", True),
    ],
)
def test_what_no_import_runs_does_not_count(guard: str, counts: bool) -> None:
    sources = one("pass", extra=f"{guard}\n    print('late')")
    assert bool(differing(sources, changed(sources, "'late'", "'later'"), "A")) is counts


def test_a_sum_of_more_parts_than_python_recurses_counts() -> None:
    sources = one("pass", extra=f"X = 0 + {' + '.join(['1'] * 600)}")
    assert differing(sources, changed(sources, "X = 0", "X = 2"), "A")


def test_the_order_in_which_modules_with_effects_are_imported_counts() -> None:
    sources = {**one("pass", "import apart"), "tools.py": "print(1)", "apart.py": "print(2)"}
    after = {**sources, "one.py": sources["one.py"].replace("import tools\n", "").replace("apart", "apart, tools")}
    assert differing(sources, after, "A") == {ORDER}
    assert ORDER not in names(one("pass", "import apart"))


def test_a_module_that_hides_one_of_python_s_makes_everything_count() -> None:
    sources = {**one("pass"), "enum.py": ""}
    assert differing(sources, changed(sources, *HIDDEN), "A")
