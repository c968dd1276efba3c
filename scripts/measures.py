"""Measures the package (lines, docstrings, broad excepts, names, protocols): `make measures` prints the table.

The tests of names and of the architecture hold these bounds with the same functions, so that the table and the tests
cannot disagree.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "batch_pipeline"
#: Names that tell how a value came, and not what it is.
VAGUE = frozenset({"found", "told", "asked", "said"})
#: Written in two halves, so that this file does not find itself.
UNFINISHED = re.compile(r"#.*\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
#: Built-in types that one name may stand for within a module.
_FAMILIES: Final = {
    "": "Any object",
    "text": "str Path",
    "number": "int float",
    "collection": "Sequence list tuple Iterable Iterator Collection set frozenset Set",
    "mapping": "Mapping dict MutableMapping",
    "function": "Callable",
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class SourceModule:
    """One module of the package."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """`run/driver.py`."""
        return self.path.relative_to(PACKAGE).as_posix()

    @property
    def lines(self) -> int:
        """Lines of the file."""
        return len(self.text.splitlines())

    @property
    def docstring(self) -> str:
        """The module's docstring."""
        return ast.get_docstring(self.tree) or ""


@dataclass(frozen=True, kw_only=True)
class FunctionLength:
    """Lines of one function without its docstring."""

    place: str
    lines: int


def modules(folder: Path = PACKAGE) -> list[SourceModule]:
    """Every module below the folder."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}
    return [SourceModule(path=path, text=text, tree=ast.parse(text)) for path, text in texts.items()]


def large_folders(sources: Sequence[SourceModule], usual: int = 15) -> Iterator[tuple[str, int]]:
    """Folders with more modules than is usual, with their numbers."""
    counts = Counter(module.path.parent.relative_to(PACKAGE).as_posix() for module in sources)
    yield from sorted((name, count) for name, count in counts.items() if count > usual)


def function_lengths(module: SourceModule) -> Iterator[FunctionLength]:
    """The functions and methods of a module, inner ones too."""
    for node in ast.walk(module.tree):
        if isinstance(node, _Function):
            lines = _height(node) - (_height(node.body[0]) if ast.get_docstring(node) else 0)
            yield FunctionLength(place=f"{module.name}:{node.lineno} {node.name}", lines=lines)


def _height(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def public_docstrings(module: SourceModule) -> Iterator[bool]:
    """Of the module and of each public class, function and method outside of functions: whether it has a docstring."""
    yield bool(module.docstring)
    bodies: list[ast.Module | ast.ClassDef] = [module.tree]
    while bodies:
        for node in bodies.pop().body:
            if isinstance(node, ast.ClassDef | _Function) and not node.name.startswith("_"):
                yield ast.get_docstring(node) is not None
                bodies.extend([node] if isinstance(node, ast.ClassDef) else [])


def broad_excepts(module: SourceModule) -> Iterator[tuple[str, str]]:
    """Place and caught class of each `except` that catches everything; `bare` when it names nothing."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = {ast.unparse(each) for each in ast.walk(node.type)} if node.type else {"bare"}
        yield from ((f"{module.name}:{node.lineno}", each) for each in caught & {"bare", "Exception", "BaseException"})


def vague_names(module: SourceModule) -> Iterator[str]:
    """Places of functions, parameters, variables and attributes with a name that says nothing of the value."""
    for node in ast.walk(module.tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.arg(arg=name):
                pass
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                pass
            case _:
                continue
        if name in VAGUE:
            yield f"{module.name}:{node.lineno} {name}"


def class_names(sources: Sequence[SourceModule]) -> Mapping[str, list[str]]:
    """Modules by the names of the classes that they define."""
    places: dict[str, list[str]] = {}
    for module in sources:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module.name)
    return places


def types_by_name(module: SourceModule, *, parameters: bool) -> Mapping[str, Mapping[str, list[int]]]:
    """Lines by the kind of type, by the name of an annotated local, or parameter, of the module's functions.

    A kind is a family of the built-in types (text, number, collection, mapping, function) or the name of a class; what
    may be anything has none.
    """
    kinds: dict[str, dict[str, list[int]]] = {}
    for function in ast.walk(module.tree):
        if isinstance(function, _Function):
            for name, annotation, line in _parameters(function) if parameters else _locals(function):
                if name != "_" and (kind := _kind(annotation)):
                    kinds.setdefault(name, {}).setdefault(kind, []).append(line)
    return kinds


def _locals(function: _Function) -> Iterator[tuple[str, str, int]]:
    for node in ast.walk(function):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, ast.unparse(node.annotation), node.lineno


def _parameters(function: _Function) -> Iterator[tuple[str, str, int]]:
    arguments = function.args
    for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if each.annotation:
            yield each.arg, ast.unparse(each.annotation), each.lineno
    if arguments.vararg:
        yield arguments.vararg.arg, "tuple", arguments.vararg.lineno
    if arguments.kwarg:
        yield arguments.kwarg.arg, "dict", arguments.kwarg.lineno


def _kind(annotation: str) -> str:
    """The family of an annotation; empty for what may be anything."""
    bare = annotation.removesuffix(" | None")
    if "|" in re.sub(r"\[.*\]", "", bare):
        kinds = {_kind(part.strip()) for part in re.sub(r"\[.*\]", "", bare).split("|")}
        return kinds.pop() if len(kinds) == 1 else ""
    name = bare.partition("[")[0]
    return next((family for family, names in _FAMILIES.items() if name in names.split()), name)


def protocols(module: SourceModule) -> Iterator[tuple[str, int]]:
    """Each protocol with the number of methods and attributes that it declares itself."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases):
            members = (each for each in node.body if isinstance(each, _Function | ast.AnnAssign))
            yield f"{module.name}:{node.name}", len(list(members))


def percentile(values: Sequence[int], share: float) -> int:
    """The value that the share of the values does not exceed."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def table(sources: Sequence[SourceModule]) -> Iterator[tuple[str, str, str]]:
    """Rows: what is measured, its bound, and what it is."""
    heights = [module.lines for module in sources]
    functions = [function for module in sources for function in function_lengths(module)]
    lengths = [function.lines for function in functions]
    documented = [has for module in sources for has in public_docstrings(module)]
    caught = Counter(kind for module in sources for _, kind in broad_excepts(module))
    unfinished = sum(bool(UNFINISHED.search(line)) for module in sources for line in module.text.splitlines())
    double = sorted(name for name, places in class_names(sources).items() if len(places) > 1)
    vague = sum(1 for module in sources for _ in vague_names(module))
    longest = max(functions, key=lambda function: function.lines)
    yield "modules, lines", "", f"{len(heights):,}, {sum(heights):,}"
    yield "lines a module: P90, max", "300, 450", f"{percentile(heights, 0.9)}, {max(heights)}"
    yield "folders of more than 15 modules", "", ", ".join(f"{name} {count}" for name, count in large_folders(sources))
    yield "lines a function: median, P90, max", "7, 25, 40", _triple(lengths) + f" ({longest.place})"
    yield "public docstrings", "90 %", f"{100 * sum(documented) / len(documented):.1f} %"
    yield (
        "bare except, Exception, BaseException",
        "0, 3, -",
        ", ".join(str(caught[kind]) for kind in ("bare", "Exception", "BaseException")),
    )
    yield "left for later", "0", str(unfinished)
    yield "class names for two things", "0", f"{len(double)} {', '.join(double)}".strip()
    yield f"names {', '.join(sorted(VAGUE))}", "40", str(vague)
    members = sorted(pair for module in sources for pair in protocols(module))
    yield "protocols", "3 to 7", str(len(members))
    yield from ((f"  {name}", "", str(count)) for name, count in members)


def _triple(values: Sequence[int]) -> str:
    return f"{percentile(values, 0.5)}, {percentile(values, 0.9)}, {max(values)}"


def main() -> int:
    """Prints the table."""
    rows = list(table(modules()))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, bound, value in (("measure", "bound", "is"), *rows):
        print(f"{name:{widths[0]}}  {bound:{widths[1]}}  {value}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
