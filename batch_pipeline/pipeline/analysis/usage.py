"""What a piece of code uses, read from its syntax tree: names, attributes of names, imports, and ways around names.

Scopes are not told apart: a local variable counts as the module's name if it is spelled alike. Code that may reach a
name unseen (`eval`, `globals()`, `sys.modules`, a computed `getattr`) is known by its `Reach`: what it may use cannot
be listed, so more counts.

(A little longer than most modules: one reader of one syntax tree.)
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Iterator
from enum import IntEnum
from typing import Final

from batch_pipeline.pipeline.analysis.syntax import Hooks, normal_form


class Reach(IntEnum):
    """How far code reaches beyond what it names."""

    NAMED = 0  #: What it uses stands in its names.
    MODULE = 1  #: Anything in its module.
    EVERYTHING = 2  #: Anything in any module.
    SOURCE = 3  #: The very text of modules: comments count too.


#: Attributes of a step class that say what a job gets, or which cells there are, and not what a cell makes.
RESOURCES: Final = frozenset(
    {
        "cpus",
        "memory_mb",
        "timeout_seconds",
        "max_parallel",
        "when",
        "group_by",
        "role_column",
        "part_names",
        "part_file",
        "part_column",
    }
)
#: Attributes of steps, and of what they declare, that count where code reads them alone.
UNREAD: Final = RESOURCES | {"help", "temporary"}

#: Names and attributes by which other names are reached.
_WORDS: Final = {
    **dict.fromkeys(("globals", "locals", "vars", "__dict__", "attrgetter", "methodcaller", "query"), Reach.MODULE),
    **dict.fromkeys(("exec", "eval", "__import__", "__builtins__", "__subclasses__", "__globals__"), Reach.EVERYTHING),
    **dict.fromkeys(("f_globals", "f_locals", "f_builtins", "_getframe", "get_type_hints"), Reach.EVERYTHING),
    **dict.fromkeys(("get_objects", "get_referrers"), Reach.EVERYTHING),
    **dict.fromkeys(("__loader__", "__spec__", "__file__", "__code__", "__cached__"), Reach.SOURCE),
}
#: Modules of which any use reaches further.
_MODULES: Final = {
    **dict.fromkeys(("builtins", "importlib", "runpy", "pkgutil", "gc", "code", "codeop"), Reach.EVERYTHING),
    **dict.fromkeys(("pickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"), Reach.EVERYTHING),
    **dict.fromkeys(("inspect", "linecache", "tokenize", "zipimport", "pydoc", "trace"), Reach.SOURCE),
}
#: Functions whose second argument names an attribute.
_BY_TEXT: Final = frozenset({"getattr", "setattr", "delattr", "hasattr"})
#: What reads docstrings, `Step.summary` among it.
_DOCUMENTED: Final = frozenset({"__doc__", "getdoc", "summary", "help"})
#: Class attributes whose texts name files or programs, which are looked at elsewhere.
_DECLARATIONS: Final = frozenset({"files", "script", "tools"})
#: Ways to write the folder of a module: `__file__` in them reads no source.
_FOLDER: Final = (
    r"(pathlib\.)?Path\(__file__\)(\.(resolve|absolute)\(\))?\.(parents|with_name|parent(\.parent)*)"
    r"|((os\.)?path\.)?dirname\((((os\.)?path\.)?(abspath|realpath)\()?__file__\)+"
)
#: Numbers, names and texts, and tuples of them.
_VALUES = (ast.Constant, ast.Name, ast.UnaryOp, ast.BinOp, ast.Tuple)
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)


def reach_of_import(module: str, member: str, name: str) -> Reach:
    """How far code reaches that uses what it imported from a module, under a name."""
    if module == "sys" and (member in ("", "modules") and name != "sys"):
        return Reach.EVERYTHING
    return max(_MODULES.get(module.partition(".")[0], Reach.NAMED), _WORDS.get(member, Reach.NAMED))


class CodeUsage:
    """What one statement with all that is in it uses, and its text."""

    def __init__(self) -> None:
        #: Normal form without docstrings: of a class that of its methods apart, each by its name.
        self.forms: list[tuple[str, str]] = []
        #: `tools.run_tool` is ("tools", "run_tool"), a name alone ("run_tool",).
        self.chains: set[tuple[str, ...]] = set()
        self.imports: list[ast.Import | ast.ImportFrom] = []
        #: Names of imports that may be used from outside: bound in a class, or declared global.
        self.shown: set[str] = set()
        self.strings: set[str] = set()
        #: Those of UNREAD that it reads, but for what is surely read of the job.
        self.resources: frozenset[str] = frozenset()
        self.reads_docstrings = False
        self.reach = Reach.NAMED

    def reaches(self, reach: Reach) -> None:
        """Notes a way around names."""
        self.reach = max(self.reach, reach)


def usage_of(statement: ast.AST, without: Collection[ast.AST] = ()) -> CodeUsage:
    """What a statement uses and its text, but for what stands in `without`."""
    reader = _UsageReader()
    if isinstance(statement, ast.ClassDef):
        usage = reader.usage
        usage.forms = class_forms(statement, without, lambda node, left_out: normal_form(node, left_out, reader.hooks))
    else:
        reader.usage.forms = [("", normal_form(statement, without, reader.hooks))]
    if reader.reads_resource:
        reader.usage.resources = frozenset(_resources_read(statement, without))
    return reader.usage


def class_forms(
    node: ast.ClassDef, without: Collection[ast.AST], form: Callable[[ast.AST, Collection[ast.AST]], str]
) -> list[tuple[str, str]]:
    """The texts of a class without its methods, and of each of these by its name."""
    methods = [each for each in node.body if isinstance(each, FUNCTIONS)]
    order = " ".join(getattr(each, "name", "-") for each in node.body if each not in without and not is_text(each))
    rest = f"{form(node, {*without, *methods})} {order}"
    return [("", rest), *((f".{each.name}", form(each, without)) for each in methods if each not in without)]


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or another text that stands for itself."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_resource(node: ast.stmt, names: Collection[str]) -> bool:
    """Whether a statement of a class does no more than set one of these resources, to values that are written out.

    Or it defines the method that computes it for each cell, or has it `Learned` (`cell_facts`).
    """
    if isinstance(node, ast.FunctionDef):
        return node.name in names and not node.decorator_list
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets = [node.target]
    else:
        return False
    if not all(isinstance(target, ast.Name) and target.id in names for target in targets) or node.value is None:
        return False
    call = node.value if isinstance(node.value, ast.Call) else None
    is_learned = call is not None and ast.unparse(call.func).rpartition(".")[2] == "Learned"
    parts = [*call.args, *(keyword.value for keyword in call.keywords)] if call and is_learned else [node.value]
    inner = (each for part in parts for each in ast.walk(part))
    return not any(isinstance(each, ast.expr) and not isinstance(each, _VALUES) for each in inner)


class _UsageReader:
    """Notes what is used while a tree is written."""

    def __init__(self) -> None:
        self.usage = CodeUsage()
        self.reads_resource = False
        #: Nodes that were seen with one further out, or that say nothing.
        self.seen: set[ast.AST] = set()
        self.hooks: Hooks = {
            ast.Name: self._name,
            ast.Attribute: self._attribute,
            ast.Constant: self._constant,
            ast.Call: self._call,
            ast.MatchClass: self._pattern,
            ast.Expr: is_text,
            ast.ClassDef: self._class,
            ast.AugAssign: self._augmented,
            ast.Import: self.usage.imports.append,
            ast.ImportFrom: self.usage.imports.append,
            ast.Global: lambda node: self.usage.shown.update(node.names),
        }

    def _name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store) or node in self.seen:
            return
        self._chain((node.id,))
        if node.id == "compile":
            self.usage.reaches(Reach.EVERYTHING)
        if node.id in _BY_TEXT:
            self.usage.reaches(Reach.MODULE)
        if node.id in UNREAD:
            self.reads_resource = True

    def _pattern(self, node: ast.MatchClass) -> None:
        for attribute in node.kwd_attrs:
            self._chain((".", attribute))
        self.reads_resource = self.reads_resource or not UNREAD.isdisjoint(node.kwd_attrs)

    def _augmented(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._chain((node.target.id,))

    def _chain(self, chain: tuple[str, ...]) -> None:
        self.usage.chains.add(chain)
        for word in chain:
            if word in _WORDS:
                self.usage.reaches(_WORDS[word])
            if word in _DOCUMENTED:
                self.usage.reads_docstrings = True
        if chain == ("sys",) or chain[:2] == ("sys", "modules"):
            self.usage.reaches(Reach.EVERYTHING)

    def _attribute(self, node: ast.Attribute) -> None:
        if node in self.seen:
            return
        if node.attr in ("parent", "parents", "with_name"):
            self._folder(node)
        chain = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            self.seen.add(base)
            chain.append(base.attr)
            base = base.value
        self.reads_resource = self.reads_resource or not UNREAD.isdisjoint(chain)
        if isinstance(base, ast.Name) and base not in self.seen:
            self.seen.add(base)
            self._chain((base.id, *reversed(chain)))
        else:
            for attribute in chain:
                # No name begins with a dot: what the attribute is of is not known.
                self._chain((".", attribute))

    def _constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node not in self.seen:
            self.usage.strings.add(node.value)
            self.reads_resource = self.reads_resource or any(_formatted(node.value))
            self.usage.reads_docstrings = self.usage.reads_docstrings or node.value == "__doc__"

    def _call(self, node: ast.Call) -> None:
        if "dirname" in (getattr(node.func, "id", ""), getattr(node.func, "attr", "")):
            self._folder(node)
        if not isinstance(node.func, ast.Name) or node.func.id not in _BY_TEXT or len(node.args) < 2:
            return
        base, attribute = node.args[:2]
        if isinstance(attribute, ast.Constant) and isinstance(attribute.value, str):
            self._attribute(ast.Attribute(value=base, attr=attribute.value, ctx=ast.Load()))
            self.seen.update((base, node.func))

    def _class(self, node: ast.ClassDef) -> None:
        waiting: list[ast.AST] = list(node.body)
        while waiting:
            each = waiting.pop()
            if isinstance(each, (ast.Import, ast.ImportFrom)):
                self.usage.shown.update(alias.asname or alias.name.partition(".")[0] for alias in each.names)
            elif isinstance(each, (ast.Assign, ast.AnnAssign)) and _declares(each):
                self.seen.update(ast.walk(each))
            elif not isinstance(each, (*FUNCTIONS, ast.ClassDef, ast.expr)):
                waiting.extend(ast.iter_child_nodes(each))

    def _folder(self, node: ast.expr) -> None:
        """Lets `__file__` pass where a module only finds its folder by it."""
        files = [each for each in ast.walk(node) if isinstance(each, ast.Name) and each.id == "__file__"]
        if files and re.fullmatch(_FOLDER, ast.unparse(node)):
            self.seen.update(files)


def _resources_read(statement: ast.AST, without: Collection[ast.AST]) -> Iterator[str]:
    """Those of UNREAD that are read, but for `job.memory_mb` where `job` is surely the job."""
    of_job, stores_job = [], False
    #: Nodes, each with whether `job` is the job there, and whether it stands in a class.
    waiting = [(statement, False, False)]
    while waiting:
        node, is_job, in_class = waiting.pop()
        if node in without:
            continue
        if isinstance(node, FUNCTIONS):
            is_job = _is_job(node, in_class, is_job)
        elif isinstance(node, ast.Lambda):
            is_job = is_job and all(each.arg != "job" for each in ast.walk(node.args) if isinstance(each, ast.arg))
        elif isinstance(node, ast.Name):
            stores_job = stores_job or (node.id == "job" and isinstance(node.ctx, ast.Store))
            if node.id in UNREAD and not isinstance(node.ctx, ast.Store):
                yield node.id
        elif isinstance(node, ast.Attribute) and node.attr in UNREAD:
            if is_job and isinstance(node.value, ast.Name) and node.value.id == "job":
                of_job.append(node.attr)
            else:
                yield node.attr
        elif isinstance(node, ast.Constant) and node.value in UNREAD:
            yield node.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _formatted(node.value)
        elif isinstance(node, ast.MatchClass):
            yield from UNREAD.intersection(node.kwd_attrs)
        waiting += [(child, is_job, isinstance(node, ast.ClassDef)) for child in ast.iter_child_nodes(node)]
    if stores_job:
        yield from of_job


def _formatted(text: str) -> Iterator[str]:
    """Resources that `str.format` may read by a text, as in `"{step.cpus}".format(step=self)`."""
    return (name for name in UNREAD if f".{name}" in text)


def _is_job(node: ast.FunctionDef | ast.AsyncFunctionDef, in_class: bool, above: bool) -> bool:
    """Whether `job` is surely the job in a function: it is annotated so, or the second of a step's run and check."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    own = next((each for each in arguments if each.arg == "job"), None)
    if own is None:
        return above
    if own.annotation is not None:
        return ast.unparse(own.annotation).strip("'\"").rpartition(".")[2] == "Job"
    return in_class and node.name in ("run", "check") and arguments.index(own) == 1


def _declares(node: ast.Assign | ast.AnnAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    named = all(isinstance(target, ast.Name) and target.id in _DECLARATIONS for target in targets)
    return named and isinstance(node.value, (ast.Constant, ast.Tuple, ast.List))
