"""The normal form of code: the same for other layout, another for other code, and the same on every Python."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from batch_pipeline.pipeline.analysis import syntax
from batch_pipeline.pipeline.analysis.syntax import normal_form
from batch_pipeline.wire.digest import sha256_of_bytes

#: Python 3.13.0 warns of an escape in the format of a raw string.
pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning")

#: Code whose tree is not the same on all versions of Python, or is written differently by their `ast.dump`.
SAMPLES = (
    "def f(a, /, b: int = 1, *args, c, d=2, **more) -> None: pass",
    "async def f():\n    async with a as b, c: return [await x async for x in y if x]",
    "class A(B, metaclass=C):\n    x: int\n    y: int = 1",
    "lambda: (yield)",
    "try:\n    a()\nexcept* B as e:\n    raise C from e\nelse:\n    b()\nfinally:\n    c()",
    "match x:\n    case None | True: pass\n    case {'a': 1, **rest}: pass\n    case A(b, c=2) as d if d: pass",
    "match x:\n    case [1, *_]: pass\n    case 'a' | -1: pass",
    "{**a, 'b': None, 1: {2}, **c}",
    "a[1:2, ::3, ...] = b[:] = -1e400j, 0x10, 1_000, 1.5, True, None, b'\\xff', '\\ud800', '\U0001fae8', u'u'",
    r"f'{a!s:{b}{c}x}' 'text' f'{d = }{e=!r:^20}' f''",
    r"f'\N{DEGREE SIGN}{x:\x20>3}' rf'\d{x:\d}' f'{{}}' f'{x:{{}}}'",
    "f'{x:}' f'{x:{y!r}}'",
    'f"""{\nx\n}{x,}"""',
    "with (open(a) as b, c): del d, e.f",
    "from . import a as b, c\nfrom ...d import e\nimport f.g",
    "global a\nassert b, c\na += 1\nx: 'y' = (w := 1)",
    "print(*a, b=1, **c) if not d < e <= f is not None else g @ h",
    "[a for b in c for d in e if f if g]\n{a: b for c in d}\n{*a, *b}\n(a,)\n()",
)
#: Digest of all of them: stores name it, so it must never change.
DIGEST = "726a20d58c6e816535d094bf6c77213fe3c0f39c40f59f011b5c6086647811fb"


def digest() -> str:
    return sha256_of_bytes(json.dumps([normal_form(ast.parse(text)) for text in SAMPLES]).encode())


def test_the_normal_form_is_the_one_that_stores_know() -> None:
    assert digest() == DIGEST


def _pythons() -> list[str]:
    """Other interpreters that can be found: on the path, and installed beside this one."""
    versions = [f"python3.{minor}" for minor in range(11, 20)]
    on_path = [path for name in versions if (path := shutil.which(name))]
    beside = [str(path) for name in versions for path in Path(sys.base_prefix).parent.glob(f"*/bin/{name}")]
    return sorted({*on_path, *beside})


@pytest.mark.parametrize("python", _pythons())
def test_it_is_the_same_on_every_python_of_this_machine(python: str) -> None:
    script = (
        "import ast, hashlib, importlib.util, json, sys\n"
        "spec = importlib.util.spec_from_file_location('syntax', sys.argv[1])\n"
        "syntax = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(syntax)\n"
        "forms = [syntax.normal_form(ast.parse(text)) for text in json.load(sys.stdin)]\n"
        "print(hashlib.sha256(json.dumps(forms).encode()).hexdigest())\n"
    )
    command = [python, "-W", "ignore", "-c", script, str(syntax.__file__)]
    ended = subprocess.run(command, input=json.dumps(SAMPLES), capture_output=True, text=True, check=False)
    if ended.returncode and "not found" in ended.stderr:
        pytest.skip(f"{python} starts no interpreter")
    assert (ended.stdout.strip(), ended.stderr) == (DIGEST, "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = 'x'  # said", 'a = ("x")'),
        ("f(1,\n  2)", "f(1, 2,)"),
        ("x = 1_000", "x = 1000"),
        ("def f(): return 1", "def f():\n\n    return 1\n"),
        ("a = 'x' 'y'", "a = 'xy'"),
        ("f'{a}' 'b' f''", "f'{a}b'"),
        ("u'a'", "'a'"),
    ],
)
def test_code_that_is_laid_out_otherwise_has_the_same_form(one: str, other: str) -> None:
    assert normal_form(ast.parse(one)) == normal_form(ast.parse(other))


def test_code_that_differs_has_another_form() -> None:
    texts = [
        *SAMPLES,
        *("a", "'a'", "b'a'", "1", "1.0", "'1'", "True", "'True'", "None", "f()", "f(None)", "f(*a)", "f(a)", "f(a=a)"),
        *("(a,)", "[a]", "{a}", "{a: a}", "{**a}", "a.a", "a[a]", "-a", "not a", "a + a", "a - a", "'a b'", "Name"),
        *("def f(a): pass", "def f(*a): pass", "def f(a=None): pass", "def f(*, a): pass", "def f(*, a=None): pass"),
        *(
            "f'{a}'",
            "f'{a!r}'",
            "f'{a:b}'",
            "f'{a}b'",
            "return",
            "return None",
            "a = 1",
            "a: b",
            "a: b = 1",
            "0",
            "0.0",
        ),
        *("-0.0", "import a", "import a as b", "from a import b", "from . import a", "from .a import b", "pass", "..."),
    ]
    assert len({normal_form(ast.parse(text)) for text in texts}) == len(texts)


def test_expressions_may_be_nested_deeper_than_python_recurses() -> None:
    tree = ast.parse("+".join(["a"] * 900))
    node = ast.Expr(value=ast.Constant(value=1))
    for _ in range(5 * sys.getrecursionlimit()):
        node = ast.Expr(value=ast.UnaryOp(op=ast.USub(), operand=node.value))
    assert normal_form(tree).count("Name a") == 900
    assert normal_form(node).count("USub") == 5 * sys.getrecursionlimit()


def test_a_number_too_long_for_decimals_has_a_form() -> None:
    assert normal_form(ast.parse(f"x = 0x{'f' * 5000}")) != normal_form(ast.parse(f"x = 0x{'f' * 5001}"))
