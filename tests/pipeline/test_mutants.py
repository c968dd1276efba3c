"""Every mutant of a small pipeline that changes what a step makes changes the digest of that step's code.

The pipeline is run from texts, mutant by mutant; each uses another way in which Python code reaches other code.
"""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from tests.pipeline.test_reachable import ONE, PIPELINE, Sources, names

pytestmark = pytest.mark.properties

MUTABLE = {
    "one.py": """
import functools
import tools
import registry
from dataclasses import dataclass, field
from shapes import Square, SCALE as scale
from tools import shift as moved, Pair, LETTERS
from tools.deep import starred
from batch_pipeline import Step

BASE = 2
TABLE = {"a": 1, "b": 2}
WIDE = (*TABLE, "c")
COUNT = 0
COUNT = COUNT + 1
STATE = 1
TWICE = lambda x: x * scale
try:
    import nowhere as places
except ImportError:
    import tools.deep as places
if BASE > 1:
    def chosen():
        return BASE
else:
    def chosen():
        return 0


def pick(key, default=BASE):
    return TABLE.get(key, default)


def deep(n):
    return n if n < 1 else deep(n - 1) + BASE


def only_b(x):
    return x - 7


def set_state():
    global STATE
    STATE = pick("a") + 3


def outer():
    def inner():
        return registry.TAG
    return inner


@registry.register
def registered(x):
    return x * 11


@functools.lru_cache(maxsize=4)
def cached(x):
    return x + 13


@dataclass
class Point:
    x: int = 4
    y: list = field(default_factory=lambda: [BASE])

    @property
    def length(self):
        return self.x + self.y[0]

    @classmethod
    def at(cls, x):
        return cls(x + cls.step())

    @staticmethod
    def step():
        return 17


class A(Step):
    factor = 3

    def run(self, job):
        set_state()
        return [
            pick("b"), deep(2), moved(self.factor), Square().area(), starred(1), registry.ALL[0](2), places.SEED,
            STATE, chosen(), outer()(), cached(1), Point.at(2).length, f"{WIDE[-1]:>{BASE}}", TWICE(2),
            pick("none"), len(WIDE),
        ]


class B(Step):
    def run(self, job):
        import stars
        pair = Pair(1, 2)
        return [only_b(3), pair.total(), tools.deep.starred(4), tools.by_name("one")(), LETTERS[0], stars.use()]


class C(Step):
    def run(self, job):
        from late import value
        return [value(), getattr(tools, "shi" + "ft")(1), tools.MODE, *map(tools.late_bound, (1, 2)), kinds()]


def kinds():
    return [kind().word for kind in registry.Kind.__subclasses__()]


class Long(registry.Kind):
    word = "long"
""",
    "registry.py": """
ALL = []
TAG = "tag"


class Kind:
    word = ""


class Short(Kind):
    word = "short"


def register(f):
    ALL.append(f)
    return f


def nobody():
    return 5
""",
    "shapes.py": """
from tools import deep as below

SCALE = 6


class Shape:
    sides = 4

    def area(self):
        return self.sides * below.SEED


class Square(Shape):
    def area(self):
        return super().area() + 1
""",
    "stars.py": "from tools.deep import *\n\n\ndef use():\n    return starred(2)\n\n\ndef idle():\n    return 1\n",
    "late.py": "import tools\n\ntools.MODE = 'late'\n\n\ndef value():\n    return tools.MODE\n",
    "tools/__init__.py": """
from tools import deep

LETTERS = ("x", "y")
MODE = "early"
STEP = 9


def shift(x):
    return x + STEP


class Pair:
    scale = 5

    def __init__(self, a, b):
        self.a, self.b = a, b

    def total(self):
        return (self.a + self.b) * self.scale

    def unused(self):
        return 0


def by_name(name):
    return globals()[name]


def one():
    return 6


def late_bound(x):
    return x + 1
""",
    "tools/deep.py": "SEED = 8\n\n\ndef starred(x):\n    return x + SEED\n\n\ndef _hidden(x):\n    return x\n",
}


def outputs(sources: Sources) -> dict[str, Any]:
    """What each step makes; empty if the pipeline cannot be imported, none of a step that fails."""
    own = [file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in sources]
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in own}
    finder = _Finder(dict(zip(own, sources.items(), strict=True)))
    sys.meta_path.insert(0, finder)
    made: dict[str, Any] = {}
    try:
        with redirect_stdout(io.StringIO()):
            module = __import__("one")
            for name in "ABC":
                try:
                    made[name] = repr(getattr(module, name)().run(None))
                except Exception:  # a mutant may fail in any way
                    continue
    except Exception:
        return {}
    finally:
        sys.meta_path.remove(finder)
        for name in own:
            sys.modules.pop(name, None)
        sys.modules.update(before)
    return made


class _Finder:
    """Imports modules from texts."""

    def __init__(self, modules: Mapping[str, tuple[str, str]]) -> None:
        self.modules = modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.modules:
            return None
        return ModuleSpec(name, self, is_package=self.modules[name][0].endswith("__init__.py"))  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.modules[module.__name__][1], vars(module))


def mutants() -> Iterator[tuple[str, dict[str, str]]]:
    """The pipeline with one thing changed: a constant, an operator, a name, a statement left out, two swapped."""
    for file, text in MUTABLE.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            for _ in _mutated(node):
                yield f"{file}, line {getattr(node, 'lineno', 0)}", {**MUTABLE, file: ast.unparse(tree)}


def _mutated(node: ast.AST) -> Iterator[None]:
    """Changes a node in every way, one after the other; after the last it is as before."""
    others = {"pick": "only_b", "only_b": "deep", "BASE": "COUNT", "Shape": "object", "STEP": "MODE", "SEED": "x"}
    others |= {"scale": "COUNT", "Square": "Point", "shift": "one", "LETTERS": "MODE"}
    before = dict(vars(node))
    if isinstance(node, ast.Constant):
        node.value = node.value + 1 if isinstance(node.value, int) else f"{node.value!s}1"
        yield
    elif isinstance(node, ast.BinOp):
        node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in others:
        node.id = others[node.id]
        yield
    elif isinstance(node, ast.alias) and node.name in others:
        node.name = others[node.name]
        yield
    vars(node).update(before)
    body = before.get("body", ())
    for number in range(len(body) if isinstance(body, list) and len(body) > 1 else 0):
        rest = [*body[:number], *body[number + 1 :]]
        for changed_body in (rest, [*rest[: number + 1], body[number], *rest[number + 1 :]]):
            vars(node)["body"] = changed_body
            yield
        vars(node)["body"] = body


def test_every_mutant_that_changes_what_a_step_makes_changes_its_digest() -> None:
    made = outputs(MUTABLE)
    digests = {name: names(MUTABLE, name) for name in "ABC"}
    assert len(made) == 3
    seen = dict.fromkeys("ABC", 0)
    for what, sources in mutants():
        for name, output in outputs(sources).items():
            if output != made[name]:
                assert names(sources, name) != digests[name], f"{name}: {what}"
                seen[name] += 1
    assert all(count > 10 for count in seen.values()), seen


def test_a_mutant_of_another_step_of_the_file_changes_no_digest() -> None:
    digests = {name: names(PIPELINE, name) for name in "AB"}
    tree = ast.parse(ONE)
    changes = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value != "__main__" and not _is_docstring(tree, node):
            for _ in _mutated(node):
                sources = {**PIPELINE, "one.py": ast.unparse(tree)}
                differ = {name for name in "AB" if names(sources, name) != digests[name]}
                assert len(differ) <= 1, sources["one.py"]
                changes += len(differ)
    assert changes > 5


def _is_docstring(tree: ast.AST, node: ast.Constant) -> bool:
    return any(isinstance(each, ast.Expr) and each.value is node for each in ast.walk(tree))
